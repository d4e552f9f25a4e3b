"""A run that was stopped, killed or damaged ends as one that wasn't, to the bit."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import wait_for
from safetensors.numpy import load_file

import ms_vit
from ms_vit import cli
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.distributed import World
from ms_vit.errors import DataError, UsageError
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import precision
from ms_vit.models.vit import ViT
from ms_vit.progress import hush
from ms_vit.recipe import Recipe
from ms_vit.runs import checkpoints
from ms_vit.runs import folder as run_folder
from ms_vit.runs.checkpoints import Checkpoints, TrainState, read_state
from ms_vit.runs.metrics import MetricsFile
from ms_vit.signals import Interrupted
from ms_vit.training.divergence import Divergence
from ms_vit.training.ema import Average
from ms_vit.training.losses import CrossEntropy
from ms_vit.training.optimizers import Adam
from ms_vit.training.step import TrainStep
from ms_vit.training.trainer import Trainer
from ms_vit.weights.files import ModelSpec

EPOCHS, STEPS = 3, 6        # steps of an epoch
SMALL = ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8)
# Everything that draws random numbers is on.
CHANGES = {"train.epochs": EPOCHS, "train.batch_size": 16, "train.log_every": 1, "train.ema": 0.9, "model.depth": 2,
           "model.dim": 16, "model.mlp_dim": 32, "model.num_heads": 2, "model.dropout": 0.1,
           "model.attention_dropout": 0.1, "model.drop_path": 0.2, "augment.mixup": 0.4, "augment.cutmix": 1.0,
           "augment.repeats": 2, "augment.alternate_flip": True, "schedule.warmup_epochs": 0.5, "data.workers": 2}
TIMES = {"images_per_second", "data_wait", "validation_seconds", "seconds"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tenth of the digits."""
    root = tmp_path_factory.mktemp("data")
    ms_vit.download("digits", root)
    for split, kept in (("train", 10), ("val", 3)):
        for folder in (root / "digits" / split).iterdir():
            for file in sorted(folder.iterdir())[kept:]:
                file.unlink()
    return root


def recipe(root, **changes) -> Recipe:
    return Recipe.load("digits", CHANGES | {"data.root": root} | changes)


def outcome(run: Path) -> dict:
    """All that a run comes to, but for times."""
    last = run / "checkpoints" / (run / "checkpoints/LAST").read_text().strip()
    files = {file.name: file.read_bytes() for file in last.iterdir() if file.suffix == ".safetensors"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: line[key] for key in line if key not in TIMES} for line in lines]
    return files | {"metrics": metrics, "state": read_state(last), "best": (run / "checkpoints/BEST").read_text()}


@pytest.fixture(scope="module")
def unbroken(root, tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    ms_vit.train(recipe(root), run)
    return outcome(run)


def stop_at(step: int, monkeypatch) -> None:
    """Has the next run find a SIGTERM at the end of a step."""
    ended = Trainer.on_train_step_end

    def end(trainer, context):
        taken = context.original_args().cur_step_num - trainer.before
        if trainer.state.step + trainer.unseen + taken == step:
            trainer.stop.number = signal.SIGTERM
        ended(trainer, context)

    monkeypatch.setattr(Trainer, "on_train_step_end", end)


def go_on_from(step: int, wanted: Recipe, folder: Path, monkeypatch) -> None:
    """A run in folder/straight; and one in folder/run that goes on from what the first had saved after a step."""
    ended = Trainer.on_train_step_end

    def end(trainer, context):
        ended(trainer, context)
        if trainer.state.step == step:
            trainer.save()
            shutil.copytree(trainer.run, folder / "run")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "on_train_step_end", end)
        ms_vit.train(wanted, folder / "straight")
    assert read_state(Checkpoints(folder / "run").newest()).step == step
    ms_vit.train(wanted, folder / "run")


def test_an_unbroken_run_has_all_that_a_resumed_one_needs(unbroken):
    assert {"model.safetensors", "ema.safetensors", "optimizer.safetensors"} <= unbroken.keys()
    assert unbroken["model.safetensors"] != unbroken["ema.safetensors"]
    assert unbroken["state"].step == EPOCHS * STEPS and unbroken["state"].workers == 2
    assert len(unbroken["metrics"]) == EPOCHS * (STEPS + 1)


# An epoch's end, and a step drawn anew each time; all the others by `pytest -m chaos`.
@pytest.mark.parametrize("step", [STEPS, None])
def test_a_run_stopped_at_a_step_ends_in_the_same_bits(step, root, unbroken, tmp_path, monkeypatch, capsys):
    step = step or random.randrange(1, EPOCHS * STEPS)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(step, patch)
        ms_vit.train(recipe(root), tmp_path / "run")
    assert f"stopped after step {step}, which is saved" in capsys.readouterr().err
    assert read_state(Checkpoints(tmp_path / "run").newest()).step == step
    ms_vit.train(recipe(root), tmp_path / "run")
    assert outcome(tmp_path / "run") == unbroken


def test_a_run_stopped_at_its_first_step_has_kept_the_graph_of_it(root, tmp_path, monkeypatch):
    kept = []

    @contextlib.contextmanager
    def graph_cache(what):
        yield
        kept.append(what.split()[0])

    monkeypatch.setattr("ms_vit.training.trainer.graph_cache", graph_cache)
    stop_at(1, monkeypatch)
    with pytest.raises(Interrupted):
        ms_vit.train(recipe(root), tmp_path / "run")
    assert kept == ["step"]


def test_stopped_in_validation_a_run_is_saved_and_goes_on_to_the_same_bits(root, unbroken, tmp_path, monkeypatch):
    from ms_vit.training import trainer as module

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        def until(stop, batches):
            stop.number = signal.SIGINT
            return module_until(stop, batches)

        module_until = module.until
        patch.setattr(module, "until", until)
        ms_vit.train(recipe(root), tmp_path / "run")
    state = read_state(Checkpoints(tmp_path / "run").newest())
    assert (state.step, state.epoch) == (STEPS, 0)
    ms_vit.train(recipe(root), tmp_path / "run")
    assert outcome(tmp_path / "run") == unbroken


# --- real signals and kills, from outside

def command(root: Path, run: Path, **changes) -> list[str]:
    options = CHANGES | {"data.root": root} | changes
    return [sys.executable, "-m", "ms_vit.train", "--recipe", "digits", "--run", str(run), "--json",
            *(f"--{key}={value}" for key, value in options.items())]


def start(*arguments, **changes) -> subprocess.Popen:
    return subprocess.Popen(command(*arguments, **changes), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)


def logged(run: Path) -> int:
    """The last step that a run has told of."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_saves_and_exits_with_its_code(number, code, root, tmp_path):
    process = start(root, tmp_path / "run", **{"train.epochs": 400})
    wait_for(lambda: logged(tmp_path / "run") > 2)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == code, told
    saved = read_state(Checkpoints(tmp_path / "run").newest()).step
    assert f"stopped after step {saved}, which is saved" in told
    assert told[-1] == "ms-vit: interrupted; the same command again goes on"
    assert saved == logged(tmp_path / "run")


def test_the_second_signal_ends_at_once(root, tmp_path):
    """In the seconds in which the first step compiles, the first signal has to wait."""
    process = start(root, tmp_path / "run")
    for line in process.stderr:
        if "compiling the training step" in line:
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert Checkpoints(tmp_path / "run").newest() is None
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"] == ["recipe.yaml"]


def killed_until_done(root: Path, run: Path, kills: int, seed: int) -> None:
    """A run that saves after every step, and is killed at so many random moments."""
    draw = random.Random(seed)
    often = {"checkpoint.every_minutes": 0}
    for _ in range(kills):
        before = logged(run)
        process = start(root, run, **often)
        # Anywhere: while MindSpore is imported, the graph compiled, a step taken, a checkpoint written, or at the end.
        if draw.random() < 0.8:
            wait_for(lambda before=before, process=process: logged(run) > before or process.poll() is not None)
            time.sleep(draw.random() * 0.3)
        else:
            time.sleep(draw.random() * 8)
        process.kill()
        process.communicate()
    last = start(root, run, **often)
    told = last.communicate(timeout=120)[1]
    assert last.returncode == 0, told


def test_a_killed_run_ends_in_the_same_bits(root, unbroken, tmp_path):
    killed_until_done(root, tmp_path / "run", kills=2, seed=random.randrange(1000))
    assert outcome(tmp_path / "run") == unbroken


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_five_times_ends_in_the_same_bits(seed, root, unbroken, tmp_path):
    killed_until_done(root, tmp_path / "run", kills=5, seed=seed)
    assert outcome(tmp_path / "run") == unbroken


@pytest.mark.chaos
def test_in_half_precision_and_with_less_memory_a_run_goes_on_in_the_same_bits(root, tmp_path, monkeypatch):
    """With the scale of the loss, and dropout in blocks that run twice and in batches cut into parts."""
    frugal = recipe(root, **{"train.precision": "float16", "train.accumulate": 2, "train.recompute": True})
    go_on_from(8, frugal, tmp_path, monkeypatch)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


def test_with_batches_in_parts_a_run_goes_on_in_the_same_bits(root, tmp_path, monkeypatch):
    """What the backward pass drops doesn't depend on the part that was the last before."""
    parts = recipe(root, **{"train.accumulate": 2, "train.epochs": 1})
    go_on_from(3, parts, tmp_path, monkeypatch)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


def test_with_a_pooled_stem_a_run_goes_on_in_the_same_bits(root, tmp_path, monkeypatch):
    """The running moments of its BatchNorm are as much of the run as what learns."""
    pooled = recipe(root, **{"model.stem": [4, 8], "model.stem_form": "pooled", "optimizer.name": "muon",
                             "train.epochs": 1})
    go_on_from(3, pooled, tmp_path, monkeypatch)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
    trained = load_file(Checkpoints(tmp_path / "run").newest() / "model.safetensors")
    moments = {name: array for name, array in trained.items() if name.endswith(("running_mean", "running_var"))}
    assert len(moments) == 8
    for name, array in moments.items():
        assert (array != (0 if name.endswith("mean") else 1)).all(), name


def test_in_bfloat16_a_run_goes_on_in_the_same_bits(root, tmp_path, monkeypatch, capsys):
    if missing := precision.what_is_missing("bfloat16"):
        pytest.skip(missing)
    wanted = recipe(root, **{"train.epochs": 2})         # by "auto"
    go_on_from(8, wanted, tmp_path, monkeypatch)
    assert capsys.readouterr().err.count("(bfloat16, compiled kernels)") == 2
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
    with pytest.raises(UsageError, match=r"train\.precision was auto, is float32"):
        ms_vit.train(recipe(root, **{"train.epochs": 2, "train.precision": "float32"}), tmp_path / "run")

    with monkeypatch.context() as patch:
        missing = {"bfloat16": "there is no AVX512-BF16"}
        patch.setattr(precision, "what_is_missing", lambda asked: missing.get(asked, ""))
        ms_vit.train(recipe(root, **{"train.epochs": 3}), tmp_path / "run")
    said = capsys.readouterr().err
    assert "was trained in bfloat16 before, now in float32" in said and ": there is no AVX512-BF16" in said
    assert read_state(Checkpoints(tmp_path / "run").newest()).precision == "float32"
    ms_vit.train(recipe(root, **{"train.epochs": 4}), tmp_path / "run")
    assert "(float32, compiled kernels)" in capsys.readouterr().err         # and stays there

    images = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    whole, rounded = (ms_vit.Predictor(tmp_path / "run", batch_size=4, precision=how).logits(images)
                      for how in ("float32", "bfloat16"))
    assert 0 < np.linalg.norm(rounded - whole) < 2**-5 * np.linalg.norm(whole)


@pytest.mark.chaos
@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_a_run_stopped_at_any_step_ends_in_the_same_bits(step, root, unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(step, patch)
        ms_vit.train(recipe(root), tmp_path / "run")
    ms_vit.train(recipe(root), tmp_path / "run")
    assert outcome(tmp_path / "run") == unbroken


def test_a_run_that_goes_on_with_validation_takes_no_other_cached_graph(broken_off, root, unbroken, tmp_path):
    """MindSpore numbers the graphs of a process; in a whole run the first is the training step."""
    for run in (tmp_path / "whole", broken_off):        # the latter's next is the validation of its first epoch
        process = start(root, run)
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 0, told
        assert outcome(run) == unbroken


def test_a_second_run_on_a_folder_is_refused_and_a_dead_ones_lock_is_gone(root, tmp_path, capsys):
    process = start(root, tmp_path / "run", **{"train.epochs": 400})
    wait_for(lambda: logged(tmp_path / "run") > 0)
    with pytest.raises(UsageError, match=r"another process is training in .*run; wait for it, or give another --run"):
        ms_vit.train(recipe(root), tmp_path / "run")
    process.kill()
    process.communicate()
    with run_folder.locked(tmp_path / "run", World()):
        pass


# --- checkpoints that are no longer as they were written

FILES = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.fixture(scope="module")
def half_way(root, tmp_path_factory):
    """A run with checkpoints after steps 3 and 6, and more to do."""
    run = tmp_path_factory.mktemp("half_way") / "run"
    for step in (3, STEPS):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            stop_at(step, patch)
            ms_vit.train(recipe(root), run)
    assert [folder.name for folder in Checkpoints(run).steps()] == ["00000006", "00000003"]
    return run


@pytest.fixture
def broken_off(half_way, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(half_way, tmp_path / "run"))


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "a flipped bit"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(how, broken_off, root, unbroken, tmp_path, capsys):
    # All its files in turn; only one of these runs is trained to its end.
    checkpoints = Checkpoints(broken_off)
    newest, before = checkpoints.steps()
    whole = tmp_path / "whole"
    shutil.copytree(newest, whole)
    for name in FILES:
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
        damage(newest / name, how)
        assert checkpoints.newest() == before
        told = capsys.readouterr().err
        assert str(newest / name) in told and "leaving it out" in told
    if how == "missing":
        ms_vit.train(recipe(root), broken_off)
        assert f"going on from {before}" in capsys.readouterr().err
        assert outcome(broken_off) == unbroken


def test_without_any_good_checkpoint_a_run_begins_anew(broken_off, root, unbroken):
    for folder in Checkpoints(broken_off).steps():
        damage(folder / "model.safetensors", "truncated")
    ms_vit.train(recipe(root), broken_off)
    assert outcome(broken_off) == unbroken


def test_what_a_killed_process_left_half_written_goes(broken_off, root, unbroken):
    folder = broken_off / "checkpoints"
    (folder / "00000006").rename(folder / ".00000006.old")         # killed while it replaced one by a newer of its step
    (folder / ".00000007.part").mkdir()
    (folder / ".00000007.part/model.safetensors").write_bytes(b"half")
    (folder / ".LAST.part").write_text("0000")
    with (broken_off / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "epo')
    ms_vit.train(recipe(root), broken_off)
    assert not list(folder.glob(".*"))
    assert outcome(broken_off) == unbroken


@pytest.mark.parametrize("text", ["", "[]", "{}x", '{"step": "6"}', '{"step": 1.5}', "null", "[" * 100000])
def test_a_state_that_is_none_is_told_in_a_line(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"state.json is no state of a run"):
        read_state(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100000, '{"/dev/zero": ""}', '{"state.json": 1}', "\xff"])
def test_a_manifest_that_is_none_leaves_its_checkpoint_out(text, tmp_path, capsys):
    folder = tmp_path / "checkpoints/00000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    assert Checkpoints(tmp_path).newest() is None
    assert f"{folder / 'manifest.json'} " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "../../elsewhere", "/", "00000002", "\xff", "1\n2"])
def test_a_best_that_names_no_checkpoint_names_none(text, tmp_path):
    (tmp_path / "checkpoints/00000001").mkdir(parents=True)
    (tmp_path / "checkpoints/BEST").write_text(text, encoding="latin-1")
    assert Checkpoints(tmp_path).pointed("BEST") is None


def test_a_checkpoint_holds_the_optimiser_the_scales_of_rate_and_loss_and_the_average(tmp_path):
    def state_dicts(value):
        """Of a small step; with a value, all that learning changes has it."""
        net, averaged = ViT(SMALL), ViT(SMALL)
        step = TrainStep(net, CrossEntropy(), Adam(net.trainable_params(), np.ones(3, np.float32)), scale_loss=True,
                         average=Average(net, averaged, 0.9))
        made = {"model.safetensors": net.parameters_dict(), "optimizer.safetensors": step.state(),
                 "ema.safetensors": dict(zip(net.parameters_dict(), averaged.get_parameters(), strict=True))}
        for state_dict in made.values():
            for parameter in state_dict.values():
                if value is not None:
                    parameter.set_data(ms.Tensor(np.full(parameter.shape, value), parameter.dtype))
        return made

    spec = ModelSpec(config=SMALL, labels=Labels([], []), preprocessing=Preprocessing(image_size=8))
    Checkpoints(tmp_path).save(state_dicts(3), spec, TrainState(step=1), {})
    restored = state_dicts(None)
    Checkpoints(tmp_path).restore(Checkpoints(tmp_path).newest(), restored)
    assert {"step", "lr_scale", "scale_value", "counter", "moment1.head.weight", "moment2.cls_token"} <= set(
        restored["optimizer.safetensors"])
    for state_dict in restored.values():
        assert all((parameter.asnumpy() == 3).all() for parameter in state_dict.values())


# --- disks that are full or read-only

def out_of_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_training_goes_on_and_ends_with_the_reason(root, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        saved = Checkpoints.save

        def save(self, state_dicts, spec, state, about):
            if state.step == STEPS:         # the first still fits
                return saved(self, state_dicts, spec, state, about)
            patch.setattr(checkpoints, "save_parameters", out_of_space)
            return saved(self, state_dicts, spec, state, about)

        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(DataError, match=r"couldn't be written: no space left on device. Mend that, and the same"):
            ms_vit.train(recipe(root), tmp_path / "run")
    told = capsys.readouterr().err
    assert "can't save step" in told and "training goes on" in told and "epoch 3 of 3" in told
    good = Checkpoints(tmp_path / "run").newest()
    assert good.name == "00000006" and not list(good.parent.glob(".*"))


def test_a_really_full_disk_is_one_too(root, tmp_path):
    """A file system of 600 kB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        process = start(root, disk / "run", **{"checkpoint.keep": 50, "checkpoint.every_minutes": 0})
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 1 and "Traceback" not in told, told
        assert "no space left on device" in told and "epoch 3 of 3" in told
        assert Checkpoints(disk / "run").newest() is not None
    finally:
        subprocess.run(["umount", disk], check=True)


def test_where_an_old_checkpoint_cannot_be_removed_training_goes_on(root, unbroken, tmp_path, monkeypatch, capsys):
    remove = shutil.rmtree

    def rmtree(path, ignore_errors=False):
        if Path(path).name.isdigit():
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    ms_vit.train(recipe(root, **{"checkpoint.keep": 1, "checkpoint.every_epochs": 1}), tmp_path / "run")
    assert "can't remove an old checkpoint" in capsys.readouterr().err
    monkeypatch.undo()
    assert outcome(tmp_path / "run")["model.safetensors"] == unbroken["model.safetensors"]


def test_a_metrics_file_that_cannot_be_written_is_told_once(tmp_path, capsys):
    metrics = MetricsFile(tmp_path / "missing" / "metrics.jsonl")
    metrics.write(step=1)
    metrics.write(step=2)
    assert capsys.readouterr().err.count("can't write") == 1


def test_a_run_folder_that_cannot_be_written_is_one_line(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = cli.main(["train", "--recipe", "digits", f"--data.root={root}", "--run", str(tmp_path / "file/run")])
    told, = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ms-vit:")]
    assert code == 1 and "not a directory" in told


# --- recipes that change

def test_more_epochs_are_named_and_go_on(broken_off, root, capsys):
    ms_vit.train(recipe(root, **{"train.epochs": EPOCHS + 1, "train.log_every": 3}), broken_off)
    told = capsys.readouterr().err
    assert "goes on with train.epochs was 3, is 4; train.log_every was 1, is 3" in told
    assert read_state(Checkpoints(broken_off).newest()).epoch == EPOCHS + 1
    with pytest.raises(UsageError, match=r"train\.epochs was 4, is 3"):
        ms_vit.train(recipe(root), broken_off)


@pytest.mark.parametrize(("key", "value"), [("optimizer.lr", 0.1), ("train.seed", 1), ("augment.mixup", 0.5),
                                            ("train.ema", 0.0), ("model.drop_path", 0.1), ("train.epochs", 2)])
def test_a_changed_recipe_is_refused_by_the_key(key, value, root, tmp_path):
    (tmp_path / "run").mkdir()
    run_folder.write_recipe(tmp_path / "run", recipe(root))
    assert run_folder.changes(tmp_path / "run", recipe(root)) == []
    with pytest.raises(UsageError, match=f"trained with another recipe \\({key} was .*, is {value}\\)"):
        run_folder.changes(tmp_path / "run", recipe(root, **{key: value}))


# --- divergence

def explode(monkeypatch, at: int, loss: float = float("nan"), times: int = 99) -> None:
    """Has the loss be wrong from a step on, so many times."""
    judged, left = Divergence.judge, [times]

    def judge(guard, state, true_loss, norm):
        wrong = state.step >= at and left[0]
        left[0] -= bool(wrong)
        judged(guard, state, loss if wrong else true_loss, norm)

    monkeypatch.setattr(Divergence, "judge", judge)


@pytest.mark.parametrize(("loss", "at", "stops"), [(float("nan"), 9, 9), (float("inf"), 9, 9), (50.0, 9, 11)])
def test_a_run_that_diverges_stops_with_its_step_files_and_checkpoint(loss, at, stops, root, tmp_path, monkeypatch):
    explode(monkeypatch, at, loss)
    with pytest.raises(DataError, match=f"diverged at step {stops}: the loss is .*; its batch is listed in "
                                        ".*diverged.json, and the last good checkpoint is .*/00000006"):
        ms_vit.train(recipe(root), tmp_path / "run")
    told = json.loads((tmp_path / "run/diverged.json").read_text())
    assert told["step"] == stops and len(told["files"]) == 16 and len(set(told["files"])) == 8      # each twice
    assert all((root / "digits/train") in Path(file).parents and Path(file).is_file() for file in told["files"])


def test_a_rate_that_is_far_too_high_is_found_out(root, tmp_path):
    with pytest.raises(DataError, match=r"diverged at step .*the loss is"):
        ms_vit.train(recipe(root, **{"optimizer.lr": 1e18, "optimizer.clip_norm": 0.0, "schedule.warmup_epochs": 0,
                                     "train.epochs": 10}), tmp_path / "run")


def test_rolling_back_halves_the_rate_and_ends(root, unbroken, tmp_path, monkeypatch, capsys):
    explode(monkeypatch, 9, times=2)
    rolling = recipe(root, **{"train.on_divergence": "rollback"})
    training = ms_vit.train(rolling, tmp_path / "run")
    told = capsys.readouterr().err
    assert training.steps == EPOCHS * STEPS
    assert told.count("with the learning rate halved") == 2 and "for the 2. time of 3" in told
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, EPOCHS * STEPS + 1))
    rates = {line["step"]: line["lr"] for line in lines if "loss" in line}
    straight = {line["step"]: line["lr"] for line in unbroken["metrics"] if "loss" in line}
    assert [rates[step] / straight[step] for step in (6, 7, 9, 18)] == pytest.approx([1, 0.25, 0.25, 0.25])
    state = read_state(Checkpoints(tmp_path / "run").newest())
    assert state.rollbacks == 2


def test_rolling_back_in_vain_ends_after_three_times(root, tmp_path, monkeypatch):
    explode(monkeypatch, 2)
    with pytest.raises(DataError, match=r"last good checkpoint is .*/00000000\. The learning rate was halved 3 times"):
        ms_vit.train(recipe(root, **{"train.on_divergence": "rollback"}), tmp_path / "run")


# --- images that can't be read

def test_bad_images_are_left_out_told_and_listed(root, tmp_path, capsys):
    shutil.copytree(root / "digits", tmp_path / "digits")
    bad = [sorted((tmp_path / "digits/train/5").iterdir())[4], sorted((tmp_path / "digits/val/3").iterdir())[1]]
    for file in bad:
        file.write_bytes(file.read_bytes()[:60])
    changes = {"data.root": tmp_path, "data.bad_images": "skip", "train.epochs": 1}
    ms_vit.train(recipe(root, **changes), tmp_path / "run")
    told = capsys.readouterr().err
    assert all(f"left out: {file} " in told for file in bad)
    assert "images left out because they can't be read: 2; " in told
    assert set(json.loads((tmp_path / "run/bad_images.json").read_text())) == set(map(str, bad))
    bad[0].unlink()         # the list stays what it was for this run
    with hush():
        ms_vit.train(recipe(root, **changes | {"train.epochs": 2}), tmp_path / "run")
    assert read_state(Checkpoints(tmp_path / "run").newest()).epoch == 2
    assert capsys.readouterr().err.splitlines() == [line for line in told.splitlines() if "left out" in line]


def test_a_run_whose_images_are_others_is_refused(broken_off, root, tmp_path):
    shutil.copytree(root / "digits", tmp_path / "digits")
    sorted((tmp_path / "digits/train/5").iterdir())[0].unlink()
    with pytest.raises(DataError, match=r"train has other images than when .*run was begun; bring those back"):
        ms_vit.train(recipe(root, **{"data.root": tmp_path}), broken_off)


# --- what saving costs

def test_saving_is_bounded_and_the_best_stays(root, unbroken, tmp_path):
    ms_vit.train(recipe(root, **{"checkpoint.every_minutes": 0, "checkpoint.keep": 2}), tmp_path / "run")
    steps = {folder.name for folder in Checkpoints(tmp_path / "run").steps()}
    best = (tmp_path / "run/checkpoints/BEST").read_text().strip()
    assert steps == {f"{EPOCHS * STEPS:08d}", f"{EPOCHS * STEPS - 1:08d}", best}
    assert outcome(tmp_path / "run") == unbroken


def test_other_verbs_take_the_average(root, tmp_path):
    ms_vit.train(recipe(root, **{"train.epochs": 1}), tmp_path / "run")
    assert ms_vit.Predictor(tmp_path / "run").weights.name == "ema.safetensors"
    top1 = ms_vit.eval(tmp_path / "run", data=root / "digits").top1
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["val_top1"] == pytest.approx(top1)
    assert np.isfinite(line["val_loss"]) and os.path.isfile(tmp_path / "run/eval.json")
