"""Recipes run and scored by benchmarks.recipes; README, headers and chart made of that by benchmarks.accuracy."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, wait_for
from PIL import Image

from benchmarks import accuracy, recipes
from benchmarks.accuracy import Published, Row, Run
from benchmarks.recipes import Record
from benchmarks.report import RESULTS, around
from ms_vit.errors import DataError
from ms_vit.recipe import RECIPES
from ms_vit.runs.checkpoints import Checkpoints

RECIPE = """# Light and dark.
# Expected: {expected}
data: {{name: few, holdout: {holdout}}}
model: {{image_size: 32, patch_size: 8, dim: 16, depth: 1, num_heads: 2, mlp_dim: 16}}
augment:
  train: ["Decode()", "Normalize(mean, std)", "HWC2CHW()"]
  eval: ["Decode()", "Resize((image_size, image_size))", "Normalize(mean, std)", "HWC2CHW()"]
train: {{epochs: {epochs}, batch_size: 4, log_every: 1}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a data set of two classes, light and dark."""
    root, random = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, level in (("dark", 0), ("light", 200)):
            folder = root / "few" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = (level + random.integers(50, size=(32, 32, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def recipe(folder: Path, *, epochs: int = 2, holdout: str = "0.3", expected: str = "nothing") -> Path:
    file = folder / "tiny.yaml"
    file.write_text(RECIPE.format(epochs=epochs, holdout=holdout, expected=expected))
    return file


def words(file: Path, root: Path, folder: Path, *more: str) -> list[str]:
    return [str(file), "--root", str(root), "--work", str(folder / "work"), "--out", str(folder / "results"), *more]


def error_of(arguments: list[str], capsys, code: int) -> str:
    assert recipes.main(arguments) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def done(root, tmp_path_factory) -> Path:
    """A tiny recipe, done with two seeds: the folder of its recipe, its runs and its results."""
    folder = tmp_path_factory.mktemp("done")
    assert recipes.main(words(recipe(folder), root, folder, "--seeds", "2", "--options=--train.batch_size=8")) == 0
    return folder


# --- runs

def test_a_run_leaves_all_that_is_published_of_it_and_no_place_of_this_machine(done, root):
    results = done / "results"
    assert sorted(path.name for path in results.iterdir()) == ["tiny-0", "tiny-1"]
    for seed in (0, 1):
        kept, run = results / f"tiny-{seed}", done / "work" / f"tiny-{seed}"
        assert {path.name for path in kept.iterdir()} == {"metrics.jsonl", "recipe.yaml", "eval.json", "record.json"}
        for file in kept.iterdir():
            text = file.read_text()
            assert not [place for place in (root, done, REPOSITORY, Path.home()) if str(place) in text], file
        record = Record(**json.loads((kept / "record.json").read_text()))
        assert (record.recipe, record.seed, record.split, record.options) == ("tiny", seed, "val",
                                                                             "--train.batch_size=8")
        assert record.precision in ("float32", "bfloat16") and record.parameters > 3 * 8 * 8 * 16
        assert record.machine["cores"] and record.machine["driver"].startswith("ms-vit ")
        lines = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
        *epochs, final = (line for line in lines if "loss" not in line)
        assert [line["epoch"] for line in epochs] == [1, 2] and final["final"] == "few/val"
        assert 0 < epochs[0]["seconds"] <= epochs[1]["seconds"] <= record.seconds < 120
        evaluation = json.loads((kept / "eval.json").read_text())
        assert (evaluation["data"], evaluation["split"], evaluation["images"]) == ("few", "val", 6)
        assert evaluation["top1"] == final["final_top1"] and (run / evaluation["checkpoint"]).is_file()
        best = (run / "checkpoints/BEST").read_text().strip()
        assert evaluation["checkpoint"] == f"checkpoints/{best}/model.safetensors"


def test_what_is_done_is_not_done_again(done, root, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "verb", lambda *_: pytest.fail("it ran again"))
    arguments = words(done / "tiny.yaml", root, done, "--seeds", "2", "--options=--train.batch_size=8")
    assert recipes.main(arguments) == 0
    assert "has all of it" in capsys.readouterr().err
    told = error_of([*arguments[:-1], "--options=--train.batch_size 4"], capsys, 2)
    assert "tiny-0 is of another recipe (train.batch_size was 8, is 4); remove it" in told


def test_a_run_that_is_done_is_scored_under_corruption_without_training_it_again(done, root, tmp_path):
    folder = Path(shutil.copytree(done, tmp_path / "done"))
    before = json.loads((folder / "results" / "tiny-0" / "eval.json").read_text())
    assert recipes.main(words(folder / "tiny.yaml", root, folder, "--seeds", "1", "--options=--train.batch_size=8",
                              "--corrupt")) == 0
    after = json.loads((folder / "results" / "tiny-0" / "eval.json").read_text())
    assert len(after["corrupted"]["means"]) == 15 and after | {"corrupted": 0} == before | {"corrupted": 0}
    assert (folder / "work" / "tiny-0.log").read_text().count("all there is to do") == 1
    (row,) = [row for row in accuracy.load(folder / "results") if row.first.corrupted]
    assert row.first.under(["fog"]) == np.mean(after["corrupted"]["top1"]["fog"])


def test_interrupted_it_saves_and_the_same_command_goes_on(root, tmp_path):
    """By a signal to all processes of the group, as a terminal sends Ctrl-C: training must not get it twice."""
    command = [sys.executable, "-m", "benchmarks.recipes", *words(recipe(tmp_path, epochs=60), root, tmp_path),
               "--seeds", "1"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    run, log = tmp_path / "work/tiny-0", tmp_path / "work/tiny-0.log"
    wait_for(lambda: log.is_file() and "epoch  1 of 60" in log.read_text())
    os.killpg(process.pid, signal.SIGTERM)     # a shell has jobs in the background ignore SIGINT
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143 and "tiny, seed 0: stopped; the same command goes on with it" in told
    assert "which is saved" in log.read_text() and not (tmp_path / "results").exists()
    before = json.loads((Checkpoints(run).newest() / "state.json").read_text())
    assert before["step"] and before["seconds"] > 0

    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0 and re.fullmatch(r"tiny, seed 0: top-1 [\d.]+ %.*\n", again.stderr), again.stderr
    assert f"{run} has {before['epoch']} of 60 epochs; going on from" in log.read_text()
    kept = tmp_path / "results/tiny-0"
    record = json.loads((kept / "record.json").read_text())
    assert record["seconds"] > before["seconds"]
    lines = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "val_top1" in line] == [*range(1, 61)]


@pytest.mark.parametrize(("how", "told", "code"), [
    (["--seeds", "0"], "--seeds must be at least 1", 2),
    (["--options=--train.epoch 1"], 'did you mean "--train.epochs"?', 2),
    (["--options=--train.epochs many"], "expected int, got many", 2),
    (["--options='"], "--options can't be split into words (No closing quotation)", 2),
    (["--options=--run x"], "--run can't be among --options; give --work", 2),
    (["--root", "nowhere"], 'no folder nowhere/few; run "ms-vit download few --root nowhere"', 1),
])
def test_a_wrong_option_gets_one_line_before_anything_runs(how, told, code, root, tmp_path, capsys):
    file = recipe(tmp_path)
    assert told in error_of([*words(file, root, tmp_path), *how], capsys, code)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(("names", "told"), [
    ("digit", 'no recipe "digit"; give one of '),
    ("imagenet_mini", "the recipe imagenet_mini starts from weights; give them by --weights"),
    ("imagenet_mini --weights nowhere.safetensors", "by --weights, there is no nowhere.safetensors"),
])
def test_a_recipe_that_is_not_there_or_lacks_its_weights_gets_one_line(names, told, root, tmp_path, capsys):
    assert told in error_of(words(*[Path(names.split()[0])], root, tmp_path, *names.split()[1:]), capsys, 2)


def test_a_test_folder_beside_val_is_what_is_tested_on(root, tmp_path):
    shutil.copytree(root / "few", tmp_path / "few")
    (tmp_path / "few/val").rename(tmp_path / "few/test")
    shutil.copytree(root / "few/val", tmp_path / "few/val")
    for holdout in ("0.3", "null"):
        job = recipes.job(str(recipe(tmp_path, holdout=holdout)), 0, tmp_path, None, [])
        assert (job.split, job.checkpoint) == ("test", "BEST")


def test_where_the_test_images_might_choose_the_epoch_the_last_is_tested(root, tmp_path):
    job = recipes.job(str(recipe(tmp_path, holdout="null")), 0, root, None, [])
    assert (job.split, job.checkpoint) == ("val", "LAST")


def test_without_test_images_there_is_nothing_to_publish(root, tmp_path, capsys):
    shutil.copytree(root / "few/train", tmp_path / "few/train")
    told = error_of(words(recipe(tmp_path), tmp_path, tmp_path), capsys, 1)
    assert "has nothing to test on besides what chooses the best epoch; put test images into" in told


def test_a_run_that_fails_is_told_and_the_others_are_done(root, tmp_path, capsys, monkeypatch):
    asked = []

    def verb(words, log):
        asked.append(words[words.index("--train.seed") + 1])
        raise DataError("ms-vit train ended with 1: the run diverged")

    monkeypatch.setattr(recipes, "verb", verb)
    assert recipes.main(words(recipe(tmp_path), root, tmp_path, "--seeds", "2")) == 1
    assert asked == ["0", "1"] and not (tmp_path / "results").exists()
    assert capsys.readouterr().err == "".join(
        f"tiny, seed {seed}: ms-vit train ended with 1: the run diverged\n" for seed in (0, 1))


def test_two_looks_that_differ_are_not_published(done, root, tmp_path):
    run = done / "work/tiny-0"
    scored = json.loads((done / "results/tiny-0/eval.json").read_text())
    best = recipes.job(str(recipe(tmp_path)), 0, root, None, [])
    last = replace(best, checkpoint="LAST")
    held_out = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])["val_top1"]
    for job, top1 in ((best, scored["top1"]), (last, held_out)):
        recipes.agree(run, job, scored | {"top1": top1})
        with pytest.raises(DataError, match="one of the two is wrong"):
            recipes.agree(run, job, scored | {"top1": (top1 + 0.5) % 1.0})


@pytest.mark.parametrize(("word", "told"), [
    ("--train.teacher=/home/me/vit.safetensors", "--train.teacher=vit.safetensors"), ("../my/photos", "photos"),
    ("photos/small", "photos/small"), ("--train.epochs=1", "--train.epochs=1"), ("a=b=/x/y", "a=b=y"),
])
def test_of_a_path_the_last_name_is_published(word, told):
    assert recipes.placeless(word) == told


# --- what they come to

def ran(recipe: str, seed: int, top1: float, *, minutes: float = 2.0, data: str = "few", options: str = "") -> Run:
    machine = {"date": f"2026-11-{25 + seed} 07:00 UTC", "cpu": "CPU", "cores": 2, "load": seed / 2,
               "driver": "ms-vit 0.2 (git 1), mindspore 2.10.0, numpy 1"}
    record = Record(recipe=recipe, seed=seed, options=options, split="val", checkpoint="BEST",
                    precision="float32", parameters=1_234_567, seconds=60 * minutes, machine=machine)
    return Run(record, data, 200, top1, 0.995, 10)


ROWS = [Row("one", [ran("one", 0, 0.9), ran("one", 1, 0.92), ran("one", 2, 0.91)]), Row("two", [ran("two", 0, 0.5)])]
OTHERS = [Published("Theirs", "few", 89.5, "a page", top5=99.0, epochs=100, parameters=21.7e6, beside=("one",)),
          Published("Elsewhere", "many", 99.9, "a page")]


def test_the_table_has_means_and_deviations_beside_what_is_published_on_the_same_data():
    page = accuracy.tables(ROWS, OTHERS)
    assert ("| `one` | few, 200 of val/ | 1.23 M | 10, the best | 3 | 91.00 +- 1.00 | 99.50 +- 0.00 | float32 | "
            "2.0 +- 0.0 | Theirs 89.5 / 99, 100 epochs, 21.7 M |") in page
    assert "| `two` | few, 200 of val/ | 1.23 M | 10, the best | 1 | 50.00 | 99.50 | float32 | 2.0 |  |" in page
    assert "- 2 cores of CPU, MindSpore 2.10.0, 2026-11-25 to 2026-11-27; load before 0.0 to 1.0" in page
    assert "| Theirs | few | 21.7 M | 100 | 89.5 | 99 |  | a page |" in page and "Elsewhere" not in page
    assert ROWS[0].expected == (
        "test top-1 91.00 +- 1.00 % (3 seeds), 2.0 +- 0.0 min on 2 cores (CPU, MindSpore 2.10.0, float32).")


def test_what_training_with_corruptions_gains_is_told_apart_for_those_that_it_had_not():
    plain, robust = ({"fog": 0.5, "frost": 0.4, "snow": 0.3}, {"fog": 0.9, "frost": 0.6, "snow": 0.3})
    rows = [Row("one", [*(replace(ran("one", seed, 0.9), corrupted=plain) for seed in range(2)), ran("one", 2, 0.6)]),
            Row("two", [replace(ran("two", 0, 0.8), corrupted=robust, trained_with=("fog",))]),
            Row("elsewhere", [replace(ran("elsewhere", 0, 0.7, data="other"), corrupted=plain)])]
    assert accuracy.under_corruption([*rows, ROWS[1]]) == [
        ["`one`", "few", "2", "90.00 +- 0.00", "40.00 +- 0.00", "50.00 +- 0.00", "35.00 +- 0.00"],
        ["`two`", "few", "1", "80.00", "60.00", "90.00", "45.00"],
        ["`elsewhere`", "other", "1", "70.00", "40.00", "", ""]]
    assert accuracy.markdown([accuracy.CORRUPTED_HEADER, *accuracy.under_corruption(rows)]) in accuracy.tables(rows, [])
    assert "under all 15" not in accuracy.tables(ROWS, [])


def test_readme_header_and_chart_are_made_of_the_results(done, tmp_path, monkeypatch, capsys):
    results = Path(shutil.copytree(done / "results", tmp_path / "results"))
    file, readmes = recipe(tmp_path, expected="old"), {word: tmp_path / f"{word}.md" for word in ("before", "从前")}
    for word, readme in readmes.items():
        readme.write_text(f"{word}\n<!-- accuracy: x -->\nold\n<!-- end of accuracy -->\nafter\n")
    assert accuracy.main(["--results", str(results), "--readme", *map(str, readmes.values()),
                          "--recipes", str(tmp_path)]) == 0
    rows = accuracy.load(results)
    page = accuracy.tables(rows, accuracy.read_published())
    for word, readme in readmes.items():
        assert readme.read_text() == f"{word}\n<!-- accuracy: x -->\n{page}\n<!-- end of accuracy -->\nafter\n"
    assert "`tiny` with `--train.batch_size=8` | few, 6 of val/" in page
    assert file.read_text() == RECIPE.format(expected=rows[0].expected, epochs=2, holdout=0.3)
    with Image.open(results / "accuracy.png") as chart:
        chart.load()
        (point,) = json.loads(chart.text["Description"])
    assert point == asdict(accuracy.points(rows, [])[0]) and point["data"] == "few" and point["epochs"] == 2
    assert not list(tmp_path.rglob(".*"))


def test_labels_of_points_close_together_stay_apart(tmp_path):
    shown = accuracy.points([Row("one", [ran("one", 0, 0.9, data="cifar10")])], accuracy.read_published())
    accuracy.draw(tmp_path / "chart.png", shown)
    assert len(shown) > 15
    heights = accuracy.spread_out([0.25, 0.5, 0.5625, 0.96875, 1.0], 0.125)
    assert heights == pytest.approx([0.25, 0.46875, 0.59375, 0.875, 1.0]) and accuracy.spread_out([], 0.125) == []


@pytest.mark.parametrize(("damage", "told"), [
    (lambda folder: (folder / "eval.json").unlink(), "is no result of benchmarks.recipes (FileNotFoundError"),
    (lambda folder: (folder / "record.json").write_text("{}"), "is no result of benchmarks.recipes (TypeError"),
    (lambda folder: folder.rename(folder.with_name("tiny-7")), "record.json tells of tiny, seed 0"),
    (lambda folder: (folder / "metrics.jsonl").write_text(""), "is no result of benchmarks.recipes (IndexError"),
    (lambda folder: (folder / "eval.json").write_text('{"data": "few", "images": 5, "top1": 1.0, "top5": 1.0}'),
     "are not all of the same recipe and data"),
])
def test_a_folder_that_is_no_result_gets_one_line_and_nothing_is_written(damage, told, done, tmp_path, capsys):
    results = Path(shutil.copytree(done / "results", tmp_path / "results"))
    damage(results / "tiny-0")
    readme = tmp_path / "page.md"
    readme.write_text("<!-- accuracy: x -->\nold\n<!-- end of accuracy -->")
    assert accuracy.main(["--results", str(results), "--readme", str(readme), "--recipes", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert readme.read_text() == "<!-- accuracy: x -->\nold\n<!-- end of accuracy -->"


def test_a_header_without_a_place_for_the_figures_is_told(done, tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text("data: {name: few}\n")
    readme = tmp_path / "page.md"
    readme.write_text("<!-- accuracy: x -->\nold\n<!-- end of accuracy -->")
    assert accuracy.main(["--results", str(done / "results"), "--readme", str(readme), "--recipes", str(tmp_path)]) == 1
    assert 'tiny.yaml has no line "# Expected: ..."; put one into its header' in capsys.readouterr().err
    assert "old" in readme.read_text() and not (done / "results" / "accuracy.png").exists()


# --- what is published today

def test_readme_chart_and_headers_are_of_the_published_results():
    rows, others = accuracy.load(RESULTS), accuracy.read_published()
    assert rows
    for readme in ("README.md", "README.zh-CN.md"):
        _, (_, between), _ = around(REPOSITORY / readme, "accuracy")
        assert between == accuracy.tables(rows, others), readme
    with Image.open(RESULTS / accuracy.CHART) as chart:
        chart.load()
        assert json.loads(chart.text["Description"]) == [asdict(point) for point in accuracy.points(rows, others)]
    for row in rows:
        if (file := RECIPES / f"{row.recipe}.yaml").is_file():
            assert f"\n# Expected: {row.expected}\n" in file.read_text(), file
        assert not re.search(r'[" ]/(home|work|tmp|root)/', "".join(
            file.read_text() for run in row.runs
            for file in (RESULTS / f"{row.recipe}-{run.record.seed}").iterdir()))
