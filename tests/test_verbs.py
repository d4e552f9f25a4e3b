"""The main job as a user types it: download, check, train, eval, infer."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ms_vit
from ms_vit import cli
from ms_vit.caches import cache_folder
from ms_vit.data.images import read_image
from ms_vit.errors import DataError
from ms_vit.inference import predictor
from ms_vit.recipe import Recipe
from ms_vit.reports.gallery import Places, annotate, fit
from ms_vit.runs.results import results_folder, room_for

TINY = ["--model.depth", "1", "--model.dim", "16", "--model.mlp_dim", "32", "--model.num_heads", "2",
        "--schedule.warmup_epochs", "0", "--checkpoint.every_epochs", "1", "--augment.mixup", "0",
        "--train.ema", "0"]


class Ran:
    """What a command line came to."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def result(self) -> dict:
        return json.loads(self.out.splitlines()[-1])

    @property
    def mistake(self) -> str:
        """The one line that a user gets; fails where there is a traceback or a second line about it."""
        lines = [line for line in self.err.splitlines() if line.startswith("ms-vit:")]
        assert self.code in (1, 2) and len(lines) == 1 and "Traceback" not in self.err, self.err
        return lines[0]


@pytest.fixture
def run(capfd):
    def run(*argv: object) -> Ran:
        code = cli.main([str(word) for word in argv])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)
    return run


def shell(*argv: object, **options) -> Ran:
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, **options)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    ms_vit.download("digits", root)
    return root


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A run of two epochs on the digits, by the command line: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    ran = shell("-m", "ms_vit.train", "--recipe", "digits", "--data.root", root, "--run", folder, "--train.epochs", 2,
                *TINY, "--json")
    assert ran.code == 0, ran.err
    return folder, ran


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(trained[0], tmp_path / "digits"))


def test_training_leaves_the_run_folder_that_the_design_describes(trained):
    folder, ran = trained
    assert set(ran.result) == {"run", "steps", "images_per_second", "best", "data_wait", "seconds", "parameters",
                               "precision"}
    assert ran.result["steps"] == 88 and ran.result["images_per_second"] > 0
    recipe = Recipe.load(folder / "recipe.yaml")
    assert (recipe.train.epochs, recipe.model.dim, recipe.optimizer.lr) == (2, 16, 2e-3)
    assert (folder / "recipe.yaml").read_text().startswith(f"# ms-vit {ms_vit.__version__}")

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "val_top1" in line]
    assert [(line["epoch"], line["step"]) for line in epochs] == [(1, 44), (2, 88)]
    assert [line["step"] for line in lines if "loss" in line] == list(range(10, 89, 10))
    assert ran.result["best"] == max(line["val_top1"] for line in epochs)
    assert all(0 <= line["data_wait"] <= 1 for line in [*lines, ran.result])

    last = folder / "checkpoints" / (folder / "checkpoints/LAST").read_text().strip()
    assert last.name == "00000088"
    assert {file.name for file in last.iterdir()} == {"model.safetensors", "optimizer.safetensors", "state.json",
                                                      "manifest.json"}


def test_training_says_what_it_will_do_and_how_long_it_takes(trained):
    told = trained[1].err
    assert "RandomCropDecodeResize(image_size, scale=(0.8, 1.0), ratio=(0.8, 1.25)) -> RandomRotation(10)" in told
    assert "Decode() -> Resize((image_size, image_size))" in told
    assert "images/s on CPU: 82 steps will take about" in told
    assert "epoch 2 of 2: train loss" in told
    assert "val: 359 decoded images stay in memory" in told
    assert re.search(r"training waited for data \d+\.\d % of the time", told)


def test_a_graph_that_was_compiled_before_is_read_and_gives_the_same_bits(trained, root, tmp_path, monkeypatch):
    """But only by the very same recipe: another rate is another graph."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def losses(name, *options):
        ran = shell("-m", "ms_vit.train", "--recipe", "digits", "--data.root", root, "--run", tmp_path / name,
                    "--train.epochs", 2, *TINY, *options)
        assert ran.code == 0, ran.err
        return losses_of(tmp_path / name)

    def losses_of(run):
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [{key: line[key] for key in line if "loss" in key or "top" in key} for line in lines]

    def graphs():
        return {file.parent.name: file.stat().st_mtime for file in (cache_folder() / "graphs").glob("*/graph.mindir")}

    first = losses("first")
    assert first == losses_of(trained[0])
    made = graphs()
    assert len(made) == 2       # the training step's, and validation's
    assert losses("second") == first
    assert graphs() == made
    assert losses("other", "--optimizer.lr", 0.001)[-1] != first[-1]
    assert len(graphs()) == 4


def test_the_same_command_again_finds_nothing_to_do(run, trained, root):
    folder, _ = trained
    before = (folder / "metrics.jsonl").read_text()
    again = run("train", "--recipe", "digits", "--data.root", root, "--run", folder, "--train.epochs", 2, *TINY,
                "--json")
    assert again.code == 0 and again.result["steps"] == 88
    assert "all there is to do" in again.err
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_model_that_cannot_be_built_is_refused_and_leaves_nothing(root, run, tmp_path):
    ran = run("train", "--recipe", "digits", "--data.root", root, "--run", tmp_path / "deep/run", "--model.stem", "[8]")
    assert "there is no such network: a stem of 1 stages, each halving the image, makes patches of 2" in ran.mistake
    assert not list(tmp_path.iterdir())


def test_another_recipe_on_an_old_run_is_refused(copied, root, run):
    ran = run("train", "--recipe", "digits", "--data.root", root, "--run", copied, "--train.epochs", 2, *TINY,
              "--optimizer.lr", 0.5)
    assert ran.code == 2
    assert "optimizer.lr was 0.002, is 0.5" in ran.mistake and "another --run" in ran.mistake


def test_eval_scores_every_image_the_same_in_any_batches(trained, root, run, tmp_path):
    folder, _ = trained
    reports = []
    for batch_size in (7, 359):
        ran = run("eval", folder, "--data", root / "digits", "--batch-size", batch_size,
                  "--out", tmp_path / "eval.json", "--json")
        assert ran.code == 0, ran.err
        report = json.loads((tmp_path / "eval.json").read_text())
        assert ran.result | {"out": ""} == {key: report[key] for key in ("top1", "top5", "images")} | {
            "out": "", "top1_flip": None, "top1_corrupted": None}
        assert not {"top1_flip", "corrupted"} & set(report)
        reports.append(report)
    assert reports[0]["images"] == 359
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], rel=1e-5)
    assert {key: reports[0][key] for key in ("top1", "top5", "confusion")} == {
        key: reports[1][key] for key in ("top1", "top5", "confusion")}


def test_eval_equals_the_predictors_answers_one_by_one(trained, root, run):
    folder, _ = trained
    ran = run("eval", folder, "--data", root / "digits", "--json")
    assert ran.code == 0 and (folder / "eval.json").is_file()
    files = sorted((root / "digits" / "val").glob("*/*.png"))
    answers = ms_vit.Predictor(folder)(files, top_k=5)
    right = [answer[0].id == file.parent.name for answer, file in zip(answers, files, strict=True)]
    among = [file.parent.name in [p.id for p in answer] for answer, file in zip(answers, files, strict=True)]
    assert (ran.result["images"], ran.result["top1"], ran.result["top5"]) == (359, np.mean(right), np.mean(among))


def test_eval_scores_flips_and_corruptions_beside_the_plain_images(trained, root, run, tmp_path):
    folder, _ = trained
    plain = run("eval", folder, "--data", root / "digits", "--out", tmp_path / "plain.json", "--json").result
    reports = []
    for batch_size in (64, 100):
        ran = run("eval", folder, "--data", root / "digits", "--out", tmp_path / "eval.json", "--batch-size",
                  batch_size, "--flip", "--corrupt", "contrast,gaussian_noise", "--json")
        assert ran.code == 0, ran.err
        reports.append(json.loads((tmp_path / "eval.json").read_text()))
    report, again = reports
    assert again["corrupted"] == report["corrupted"] and again["top1_flip"] == report["top1_flip"]
    assert {ran.result[key] == plain[key] == report[key] for key in ("top1", "top5", "images")} == {True}
    table = report["corrupted"]["top1"]
    assert list(table) == ["contrast", "gaussian_noise"] and all(len(values) == 5 for values in table.values())
    assert ran.result["top1_corrupted"] == pytest.approx(np.mean(list(table.values())))
    assert table["contrast"][4] <= report["top1"]
    assert re.search(r"contrast +\d.*\ngaussian_noise +\d.*\nmean +\d", ran.err)
    assert Image.open(tmp_path / "corrupt.png").format == "PNG"

    answers = ms_vit.Predictor(folder)
    files = sorted((root / "digits" / "val").glob("*/*.png"))
    images = np.stack([answers.prepare(file) for file in files])
    mean = sum(np.concatenate([answers.logits(each[start:start + 32]) for start in range(0, len(each), 32)])
               for each in (images, np.ascontiguousarray(images[..., ::-1])))
    right = [answers.spec.labels.ids[best] == file.parent.name for best, file in
             zip(mean.argmax(1), files, strict=True)]
    assert ran.result["top1_flip"] == report["top1_flip"] == np.mean(right)
    assert report["top1_flip"] != report["top1"]        # digits aren't their mirrors


def test_a_predictor_gives_sorted_probabilities_for_paths_and_pictures(trained, root):
    file = next((root / "digits" / "infer").glob("*.png"))
    predictor = ms_vit.Predictor(trained[0])
    by_path, by_picture = predictor([file, Image.open(file)], top_k=10)
    assert by_path == by_picture
    probabilities = [prediction.probability for prediction in by_path]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert {prediction.id for prediction in by_path} == set("0123456789")
    with pytest.raises(DataError, match=r"nothing\.png is not there"):
        predictor(["nothing.png"])


@pytest.mark.parametrize("epochs", [1, 2])      # from the files, and from memory
def test_a_damaged_image_ends_training_with_its_name(root, tmp_path, run, epochs):
    shutil.copytree(root / "digits", tmp_path / "digits")
    damaged = sorted((tmp_path / "digits/train/5").iterdir())[50]
    damaged.write_bytes(damaged.read_bytes()[:60])
    ran = run("train", "--recipe", "digits", "--data.root", tmp_path, "--run", tmp_path / "run", *TINY,
              "--train.epochs", epochs)
    assert ran.code == 1
    assert str(damaged) in ran.mistake and "can't be decoded; remove it" in ran.mistake


def test_a_damaged_image_ends_eval_with_its_name(trained, root, run, tmp_path):
    shutil.copytree(root / "digits/val", tmp_path / "val")
    damaged = sorted((tmp_path / "val/3").iterdir())[7]
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert str(damaged) in run("eval", trained[0], "--data", tmp_path).mistake


def test_infer_draws_and_lists_what_it_can_read_and_counts_the_rest(trained, root, run, tmp_path):
    pictures = tmp_path / "pictures"
    shutil.copytree(root / "digits" / "infer", pictures / "deep")
    name = sorted((pictures / "deep").iterdir())[0].name
    (pictures / "broken.png").write_bytes(b"no picture")
    Image.open(pictures / "deep" / name).convert("CMYK").save(pictures / "deep" / "cmyk.tif")
    twice = [pictures / "deep" / name] * 2
    ran = run("infer", trained[0], pictures, *twice, "--out", tmp_path / "out", "--top-k", 3, "--json")
    assert ran.code == 0, ran.err
    assert ran.result == {"images": 23, "skipped": 1, "out": str(tmp_path / "out")}
    assert "broken.png is no image" in ran.err

    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    assert [line["image"] for line in lines if "error" in line] == [str(pictures / "broken.png")]
    assert {len(line["predictions"]) for line in lines if "predictions" in line} == {3}
    drawn = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    stem = name.removesuffix(".png")
    assert {f"deep/{name}", "deep/cmyk.tif.png", name, f"{stem}-2.png"} <= drawn and len(drawn) == 23
    assert (tmp_path / "out" / "gallery.html").is_file()
    with Image.open(tmp_path / "out" / name) as picture:
        assert picture.width == 192 and picture.height > 200        # enlarged, with a strip below
        assert np.unique(np.asarray(picture.crop((0, 194, 192, picture.height)))).size > 2     # with text in it


def test_infer_gives_what_one_picture_after_the_other_would_in_their_order(trained, root, run, tmp_path):
    files = sorted((root / "digits/val").glob("*/*.png"))[::9]
    assert len(files) == 40
    assert run("infer", trained[0], *files, "--out", tmp_path, "--batch-size", 3).code == 0
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == list(map(str, files))
    one_by_one = ms_vit.Predictor(trained[0], batch_size=1)
    for file, line in zip(files, lines, strict=True):
        (answer,) = one_by_one([file])
        assert [(p["id"], pytest.approx(p["probability"])) for p in line["predictions"]] == [
            (p.id, p.probability) for p in answer]
        expected = annotate(read_image(file), answer[0].name, line["predictions"][0]["probability"])
        with Image.open(tmp_path / file.name) as drawn:
            assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_infer_reads_no_more_than_two_batches_ahead(trained, root, run, tmp_path, monkeypatch):
    module, read, answered, most = sys.modules["ms_vit.infer"], [], [], []
    look, answer = module.look, predictor.Predictor.answer

    def count_look(*arguments):
        read.append(1)
        most.append(len(read) - len(answered))
        return look(*arguments)

    def count_answer(self, ready, top_k):
        answered.extend(ready)
        return answer(self, ready, top_k)

    monkeypatch.setattr(module, "look", count_look)
    monkeypatch.setattr(predictor.Predictor, "answer", count_answer)
    assert run("infer", trained[0], root / "digits/val", "--out", tmp_path, "--batch-size", 5).code == 0
    assert len(read) == len(answered) == 359 and max(most) <= 10


def test_a_signal_ends_infer_at_once_and_without_a_traceback(trained, root, tmp_path):
    command = [sys.executable, "-m", "ms_vit.infer", trained[0], root / "digits/train", "--out", tmp_path / "out"]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
            first = process.stderr.readline()
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number and err.splitlines()[-1] == "ms-vit: interrupted", first + err
        assert "Traceback" not in err and len(err.splitlines()) < 1400


def test_pictures_of_one_name_are_numbered_however_many_there_are():
    places = Places()
    assert [places.free(Path(name)).name for name in ("a.jpg", "a-3.jpg", "a.jpg", "a.jpg", "a.webp", "a.webp")] == [
        "a.jpg", "a-3.jpg", "a-2.jpg", "a-4.jpg", "a.webp.png", "a.webp-2.png"]
    began = time.monotonic()
    names = [places.free(Path("out/x.png")).name for _ in range(10_000)]
    assert names == ["x.png", *(f"x-{number}.png" for number in range(2, 10_001))]
    assert time.monotonic() - began < 5         # comparing each with each takes minutes


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 900), (101, 103), (100, 600), (191, 1024), (192, 300), (500, 500),
                                  (1024, 30), (1025, 30), (4000, 3000), (5, 9000)])
def test_a_picture_that_was_made_to_fit_stays_as_it_is(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    once = fit(Image.fromarray(pixels))
    assert max(once.size) <= 1024 and (min(once.size) >= 192 or max(once.size) == 1024)
    assert np.array_equal(np.asarray(fit(once)), np.asarray(once))


def test_infer_on_nothing_readable_fails(trained, run, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    assert "none of 1 files" in run("infer", trained[0], tmp_path / "x.jpg", "--out", tmp_path / "out").mistake
    assert "no pictures in" in run("infer", trained[0], tmp_path / "out", "--out", tmp_path / "o2").mistake


@pytest.mark.parametrize(("argv", "code", "says"), [
    ([], 2, ""),
    (["fly"], 2, 'no verb "fly"; there are download, check, pack, train, eval, infer'),
    (["train", "--data.name", "nowhere"], 2, "no folder data/nowhere"),
    (["train", "--recipe", "digits", "--optimiser.lr", "1"], 2, 'did you mean "--optimizer.lr"'),
    (["train", "--recipe", "digits", "--train.epoch", "1"], 2, 'did you mean "--train.epochs"'),
    (["train", "--recipe", "digits", "--train.epochs", "x"], 2, '"train.epochs": expected int, got x'),
    (["train", "--recipe", "digits", "--data.root", "nowhere"], 2, 'run "ms-vit download digits"'),
    (["train", "--recipe", "digits", "--device", "TPU"], 2, 'no device "TPU"'),
    (["train", "--recipe", "digits", "--train.accumulate", "7"], 2, '"train.accumulate" must divide train.batch_size'),
    (["train", "--recipe", "digits", "--train.ema", "1"], 2, '"train.ema" must be at least 0 and below 1'),
    (["train", "--recipe", "digits", "--augment.mixup", "-1"], 2, '"augment.mixup" must be a number of at least 0'),
    (["train", "--recipe", "digits", "--checkpoint.every_minutes", "-1"], 2, "every_minutes\" must be a number of at"),
    (["train", "--recipe", "digits", "--train.on_divergence", "hope"], 2, '"train.on_divergence": expected'),
    (["eval", "runs/none", "--data", "x"], 1, "runs/none is not there"),
    (["eval", "runs/none"], 2, "data"),
    (["eval", "runs/none", "--data", "x", "--corrupt", "smog"], 2, 'no corruption "smog"; give all, or some of'),
    (["train", "--recipe", "digits", "--augment.repeats", "0"], 2, '"augment.repeats" must be at least 1'),
    (["infer", "runs/none"], 2, "images"),
    (["infer", "runs/none", "a.png", "--top-k", "0"], 2, "--top-k must be at least 1"),
])
def test_a_mistake_on_the_command_line_gets_one_line(argv, code, says, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run(*argv)
    assert ran.code == code
    if argv:
        assert re.search(says, ran.mistake), ran.mistake
    else:
        assert "usage: ms-vit VERB" in ran.out
    assert not list(tmp_path.iterdir())     # nothing half-made stays behind


def test_every_verb_explains_itself(run):
    for verb in cli.VERBS:
        with pytest.raises(SystemExit) as stopped:
            cli.main([verb, "--help"])
        assert stopped.value.code == 0


def test_eval_on_a_folder_of_other_classes_lists_them(trained, run, tmp_path):
    (tmp_path / "val" / "ten").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "ten" / "1.png")
    assert '"ten" (1 images)' in run("eval", trained[0], "--data", tmp_path).mistake


def test_a_weight_file_on_its_own_carries_all_that_prediction_needs(trained, root, run, tmp_path):
    ran = run("eval", elsewhere(trained, tmp_path), "--data", root / "digits", "--out", tmp_path / "out.json", "--json")
    assert ran.code == 0 and ran.result["images"] == 359
    assert ran.result["out"] == str(tmp_path / "out.json") and (tmp_path / "out.json").is_file()


# --- where results go

def elsewhere(trained, folder: Path, name: str = "digits.safetensors") -> Path:
    """The weights of the trained run's best checkpoint alone, as a file of somebody else's."""
    best = trained[0] / "checkpoints" / (trained[0] / "checkpoints/BEST").read_text().strip()
    return Path(shutil.copy(best / "model.safetensors", folder / name))


def test_results_about_weights_from_elsewhere_go_where_the_user_is(trained, root, run, tmp_path, monkeypatch):
    """And never to the folder that the weights lie in, where one may have no right to write."""
    for folder in ("theirs", "ours"):
        (tmp_path / folder).mkdir()
    weights = elsewhere(trained, tmp_path / "theirs", "shared.v2.safetensors")
    monkeypatch.chdir(tmp_path / "ours")
    scored = run("eval", weights, "--data", root / "digits", "--json")
    named = run("infer", weights, root / "digits/infer", "--json")
    assert (scored.code, named.code) == (0, 0), scored.err + named.err
    assert scored.result["out"] == "runs/shared.v2/eval.json" and Path("runs/shared.v2/eval.json").is_file()
    assert named.result["out"] == "runs/shared.v2/predictions"
    assert Path("runs/shared.v2/predictions/gallery.html").is_file()
    assert list((tmp_path / "theirs").iterdir()) == [weights]


@pytest.mark.parametrize(("within", "given", "home"), [
    (".", "run/checkpoints/00000044/model.safetensors", "run"),
    (".", "run/checkpoints/00000044/ema.safetensors", "run"),
    ("run", "checkpoints/00000044/model.safetensors", "."),
    ("run/checkpoints/00000044", "model.safetensors", "run"),
    ("run/checkpoints", "00000044/model.safetensors", "run"),
    ("run/checkpoints/00000044", "../00000044/model.safetensors", "run"),
    (".", "zoo/checkpoints/vit/model.pth", "runs/model"),          # where others keep their checkpoints is no run
    (".", "zoo/vit.b16.npz", "runs/vit.b16"),
    (".", "zoo/hub", "runs/hub"),
    ("zoo/hub", ".", "runs/hub"),
])
def test_what_a_weight_file_belongs_to_decides_where_results_go(within, given, home, tmp_path, monkeypatch):
    for file in ("run/checkpoints/00000044/manifest.json", "zoo/checkpoints/vit/model.pth", "zoo/hub/config.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path / within)
    found = results_folder(Path(given))
    assert found.resolve() == ((Path.cwd() if home.startswith("runs") else tmp_path) / home).resolve() \
        or (home == "." and found.resolve() == Path.cwd())


@pytest.mark.parametrize(("verb", "out", "reason"), [
    ("eval", "a_file/eval.json", "not a directory"),
    ("eval", "a_file/deep/eval.json", "not a directory"),
    ("eval", "a_folder", "is a directory"),
    ("eval", "new/" + "x" * 300, "file name too long"),
    ("eval", "/proc/new/eval.json", "no such file or directory"),
    ("infer", "a_file", "not a directory"),
    ("infer", "a_file/deep", "not a directory"),
    ("infer", "new/" + "x" * 300, "file name too long"),
    ("infer", "/proc/new", "no such file or directory"),
    ("infer", "taken", "is a directory"),
])
def test_a_place_that_cannot_be_written_is_told_before_the_work(verb, out, reason, trained, root, run, tmp_path,
                                                                monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("it began to work")

    (tmp_path / "a_file").write_text("mine")
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "taken/predictions.jsonl").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor, "Predictor", work)
    what = ["--data", root / "digits"] if verb == "eval" else [root / "digits/infer"]
    ran = run(verb, trained[0], *what, "--out", out)
    where = out if verb == "eval" else f"{out}/predictions.jsonl"
    assert ran.code == 1 and ran.err == f"ms-vit: can't write {where} ({reason}); give another place with --out\n"
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "a_file").read_text() == "mine"


def test_a_place_without_the_right_to_write_is_told_before_the_work(tmp_path, monkeypatch):
    """As a read-only folder has it, which the machine's root could write to all the same."""
    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"eval\.json \(permission denied\); give another place"), \
            room_for(tmp_path / "runs/vit/eval.json"):
        raise AssertionError("it began to work")
    assert not list(tmp_path.iterdir())


def test_work_that_fails_leaves_no_folder_and_the_result_there_was(trained, root, run, tmp_path, monkeypatch):
    weights = elsewhere(trained, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in run("eval", weights, "--data", "nowhere").mistake
    assert list(tmp_path.iterdir()) == [weights]
    (tmp_path / "runs/digits").mkdir(parents=True)
    (tmp_path / "runs/digits/eval.json").write_text("of before")
    assert "nowhere" in run("eval", weights, "--data", "nowhere").mistake
    assert (tmp_path / "runs/digits/eval.json").read_text() == "of before"


@pytest.mark.parametrize("damage", ["truncate", "foreign", "garbage"])
def test_a_file_that_is_no_model_of_ours_gets_one_line(damage, trained, run, tmp_path):
    from safetensors.numpy import save_file

    file = tmp_path / "model.safetensors"
    if damage == "truncate":
        source = next(trained[0].glob("checkpoints/*/model.safetensors"))
        file.write_bytes(source.read_bytes()[:-100])
    elif damage == "foreign":
        save_file({"weight": np.zeros(3, np.float32)}, file)
    else:
        file.write_bytes(b"\x00" * 64)
    assert "model.safetensors" in run("eval", file, "--data", tmp_path).mistake


def test_the_functions_are_there_for_python(root, tmp_path):
    recipe = Recipe.load("digits", {"train.epochs": 1, "data.root": str(root), "model.depth": 1, "model.dim": 16,
                                    "train.precision": "float32"})
    training = ms_vit.train(recipe, run=tmp_path / "run")
    assert training.steps == 44
    assert ms_vit.eval(str(tmp_path / "run"), data=root / "digits").top1 == training.best
    net = ms_vit.create_model("vit_tiny_patch16_224", num_classes=10, image_size=32, depth=1)
    assert net.head.weight.shape == (10, 192)


def test_the_main_job_on_an_imagenet_subset_from_a_server(shared_data, serve, run, tmp_path):
    source = f"{serve(shared_data).url}/imagenet_mini.zip"
    assert run("download", "imagenet-subset", "--root", tmp_path, "--source", source, "--json").code == 0
    folder = tmp_path / "imagenet-subset"
    checked = run("check", folder, "--json")
    assert checked.code == 0 and checked.result["images"] == 1410, checked.err

    trained = run("train", "--recipe", "imagenet-subset", "--data.root", tmp_path, "--run", tmp_path / "run",
                  "--model.name", "vit_tiny_patch16_224", "--model.image_size", 64, "--model.depth", 1,
                  "--model.num_classes", 1000, "--train.batch_size", 250, "--train.epochs", 1, "--json")
    assert trained.code == 0 and trained.result["steps"] == 4, trained.err
    scored = run("eval", tmp_path / "run", "--data", folder, "--json")
    assert scored.code == 0 and scored.result["images"] == 400

    named = run("infer", tmp_path / "run", folder / "infer", "--top-k", 1000, "--json")
    assert named.code == 0 and named.result["images"] == 10
    first = json.loads((tmp_path / "run/predictions/predictions.jsonl").read_text().splitlines()[0])
    springer = next(entry for entry in first["predictions"] if entry["id"] == "n02102040")
    assert (springer["name"], springer["index"]) == ("English springer", 217)


@pytest.mark.parametrize(("python", "numpy", "says"), [
    ((3, 13, 0), "1.26.4", "Python 3.10, 3.11 or 3.12 is needed"),
    ((3, 9, 7), "1.26.4", "make a new environment"),
    ((3, 11, 7), "2.1.0", "MindSpore needs NumPy below 2, found 2.1.0; run: pip install 'numpy<2'"),
])
def test_a_wrong_python_or_numpy_gets_one_line(python, numpy, says, run, monkeypatch):
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr("importlib.metadata.version", lambda package: numpy)
    ran = run("train", "--recipe", "digits")
    assert ran.code == 2 and says in ran.mistake
