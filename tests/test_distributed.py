"""Several processes train one network: scripts/train_distributed.sh as it is typed, two real processes on the CPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from safetensors.numpy import load_file
from test_resume import recipe, root  # noqa: F401 (a fixture)

import ms_vit
from ms_vit.distributed import World
from ms_vit.runs.checkpoints import Checkpoints, read_state

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MindSpore's launcher is for Linux")

# Nothing that draws for each process on its own: no augmentation. With large gradients' noise kept out of Adam's steps.
CHANGES = {"train.epochs": 4, "train.precision": "float32", "train.log_every": 2, "optimizer.eps": 1e-3,
           "data.workers": None,
           "augment.train": ["Decode()", "Resize((image_size, image_size))", "Normalize(mean, std)", "HWC2CHW()"],
           "augment.mixup": 0.2, "model.dropout": 0.1, "model.attention_dropout": 0.1, "model.drop_path": 0.1}


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def start(root, tmp_path_factory):      # noqa: F811
    """start(run, environment, changes) -> the script, running with two processes on a recipe."""
    scripts, folder = [], tmp_path_factory.mktemp("scripts")

    def start(run: Path, environment: dict[str, str] | None = None, **changes: object) -> subprocess.Popen:
        file, number = folder / f"recipe{len(scripts)}.yaml", len(scripts)
        file.write_text(recipe(root, **CHANGES | changes).to_yaml())
        scripts.append(subprocess.Popen(
            ["bash", str(REPOSITORY / "scripts" / "train_distributed.sh"), "--recipe", str(file), "--run", str(run),
             "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={
                 **os.environ, "NPROC": "2", "MASTER_PORT": str(port()), "LOGS": str(folder / f"logs{number}"),
                 "DEVICE": "CPU", "VENV": str(Path(sys.executable).parents[1]),
                 **(environment or {})}))
        return scripts[-1]
    yield start
    for script in scripts:
        script.kill()


@pytest.fixture(scope="module")
def two(start, tmp_path_factory):
    """A whole run of two processes: its folder, its result, and what was told."""
    run = tmp_path_factory.mktemp("two") / "run"
    script = start(run)
    out, told = script.communicate(timeout=400)
    assert script.returncode == 0, told
    return run, json.loads(out.splitlines()[-1]), told


def workers() -> list[int]:
    """The process ids of those that train, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = dict(word.split("=", 1) for word in (process / "environ").read_text().split("\0") if "=" in word)
        except (OSError, ValueError):
            continue
        if words.get("MS_ROLE") == "MS_WORKER":
            found[int(words["MS_NODE_ID"])] = int(process.name)
    return [found[rank] for rank in sorted(found)]


def reached(run: Path, step: int) -> None:
    """Waits until a run has logged a step."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
        if any(json.loads(line)["step"] >= step for line in lines):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} after 200 s")


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(Checkpoints(run).newest() / "model.safetensors")


def epochs(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val_top1" in line]


@pytest.mark.timeout(600)
def test_two_processes_come_to_what_one_does(two, root, tmp_path):     # noqa: F811
    run, result, told = two
    one = ms_vit.train(recipe(root, **CHANGES), tmp_path / "one", device="CPU")
    assert (result["steps"], result["parameters"]) == (one.steps, one.parameters)
    assert "2 processes" in told and told.count("epoch 4 of 4") == 1
    ours, expected = weights(run), weights(tmp_path / "one")
    assert ours.keys() == expected.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)
    for mine, whole in zip(epochs(run), epochs(tmp_path / "one"), strict=True):
        assert mine["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
        assert mine["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-4)       # over every image, once
        assert mine["val_top1"] == whole["val_top1"]


@pytest.mark.timeout(600)
def test_a_stopped_run_of_two_ends_in_the_same_bits(start, two, root, tmp_path):       # noqa: F811
    """As two machines would run it, of which the second gets the signal."""
    machines = {"NNODES": "2", "NPROC": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    first, second = (start(tmp_path / "run", machines | {"NODE_RANK": rank}) for rank in "01")
    reached(tmp_path / "run", 2)
    second.send_signal(signal.SIGTERM)
    told = [script.communicate(timeout=120)[1] for script in (first, second)]
    assert (first.returncode, second.returncode) == (143, 143), "\n".join(told)     # pytest would cut a list
    assert all("which is saved" in each for each in told) and "stopped on another machine" in told[0] and not workers()
    assert 2 <= read_state(Checkpoints(tmp_path / "run").newest()).step < two[1]["steps"]
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    assert start(tmp_path / "run").wait(300) == 0
    ours, expected = weights(tmp_path / "run"), weights(two[0])
    assert all((ours[name] == expected[name]).all() for name in expected)
    # And by one process from where two stopped: the same batches, rates and draws, summed in another order.
    alone = ms_vit.train(recipe(root, **CHANGES), tmp_path / "alone", device="CPU")
    assert alone.steps == two[1]["steps"]
    for name, array in weights(tmp_path / "alone").items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.timeout(600)
def test_a_killed_process_ends_all_and_the_run_goes_on(start, tmp_path):
    script = start(tmp_path / "run", **{"train.epochs": 200})
    reached(tmp_path / "run", 20)
    os.kill(workers()[1], signal.SIGKILL)
    killed = time.monotonic()
    told = script.communicate(timeout=120)[1]
    assert script.returncode == 1 and time.monotonic() - killed < 60
    assert "a process failed, which ended all" in told and not workers()
    newest = Checkpoints(tmp_path / "run").newest()
    assert newest is not None and read_state(newest).step > 0


@pytest.mark.timeout(300)
def test_what_a_process_is_told_ends_all(start, tmp_path):
    script = start(tmp_path / "run", **{"train.batch_size": 7})
    told = script.communicate(timeout=200)[1]
    assert script.returncode == 1
    assert "ms-vit: 2 processes can't share batches of 7 images equally; set train.batch_size to a multiple of" in told
    assert not (tmp_path / "run").exists()


def dry(**variables: str) -> str:
    return subprocess.run(["bash", "scripts/train_distributed.sh", "--recipe", "digits", "--dry-run"], cwd=REPOSITORY,
                          capture_output=True, text=True, check=True, env={**os.environ, **variables}).stdout


def test_what_each_machine_would_run_is_printed():
    told = dry(NPROC="8", NNODES="4", NODE_RANK="2", MASTER_ADDR="10.0.0.1", DEVICE="Ascend")
    for word in ("--worker_num=32", "--local_worker_num=8", "--node_rank=2", "--master_addr=10.0.0.1",
                 "--recipe digits --device Ascend"):
        assert word in told
    assert "--node_rank=3" in dry(NPROC="8", NNODES="4", SLURM_NODEID="3", MASTER_ADDR="10.0.0.1")


@pytest.mark.parametrize(("variables", "told"), [
    ({"NNODES": "2"}, "2 machines need MASTER_ADDR"), ({"NPROC": "all"}, 'NPROC is a number, not "all"')])
def test_what_is_missing_is_told_before_anything_starts(variables, told):
    ran = subprocess.run(["bash", "scripts/train_distributed.sh", "--recipe", "digits"], cwd=REPOSITORY,
                         capture_output=True, text=True, env={**os.environ, **variables})
    assert ran.returncode == 2 and told in ran.stderr


LAUNCHER = """#!/bin/sh
for word in "$@"; do
    case "$word" in --log_dir=*) echo "$SAID" > "${word#--log_dir=}/worker_0.log" ;; esac
done
exit 1
"""


@pytest.mark.parametrize(("said", "code", "told"), [
    ("stopped after step 3, which is saved", 143, "ms-vit: stopped on another machine"),
    ("ms-vit: interrupted", 143, "ms-vit: stopped on another machine"),
    ("ms-vit: can't read a.png", 1, "ms-vit: a process failed, which ended all")])
def test_what_another_machine_ended_is_told_from_what_failed(said, code, told, tmp_path):
    """Even where the launcher ends the process before that has told of its end."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/msrun").write_text(LAUNCHER)
    (tmp_path / "bin/msrun").chmod(0o755)
    (tmp_path / ".ms-vit").write_bytes(
        subprocess.check_output(["cksum"], stdin=(REPOSITORY / "setup.py").open()).strip() + b"  \n")     # installed
    ran = subprocess.run(
        ["bash", "scripts/train_distributed.sh", "--recipe", "digits"], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "VENV": str(tmp_path), "LOGS": str(tmp_path / "logs"), "SAID": said})
    assert ran.returncode == code and told in ran.stderr


def test_a_world_of_one_exchanges_with_itself():
    world = World()
    values = np.array([[1.5, np.nan], [2**40, -0.0]])
    assert world.gather(values).shape == (1, 2, 2)
    np.testing.assert_array_equal(world.sum(values), values)
    assert world.most(-3) == -3 and world.neighbours() == 1
