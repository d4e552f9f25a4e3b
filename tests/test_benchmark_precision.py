"""float32 beside bfloat16: what runs come to, and one small run as it is typed."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from benchmarks import precision
from benchmarks.precision import STUDIES, Run, Study

OPTIONS = ("--recipe default-small --data.name few --train.epochs 2 --train.batch_size 4 --model.stem [] "
           "--model.dim 32 --model.depth 1 --model.num_heads 2 --model.mlp_dim 32")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a data set of two classes, light and dark."""
    root, random = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name, level in (("dark", 0), ("light", 200)):
            folder = root / "few" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = (level + random.integers(50, size=(32, 32, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def a_small_study(monkeypatch):
    monkeypatch.setitem(STUDIES, "few", Study(OPTIONS, "small"))


def study(root, out, *, precisions="float32", seeds=1):
    return precision.main(["--recipes", "few", "--precisions", precisions, "--seeds", str(seeds), "--root", str(root),
                           "--out", str(out), "--name", "p"])


def test_a_run_is_recorded_once_and_what_is_missing_is_done(root, tmp_path, capsys, monkeypatch):
    assert study(root, tmp_path) == 0
    line, = (tmp_path / "p.jsonl").read_text().splitlines()
    run = Run(**json.loads(line))
    assert (run.recipe, run.options, run.precision, run.seed) == ("few", OPTIONS, "float32", 0)
    assert run.best >= run.top1 and run.top1 in (0, 0.25, 0.5, 0.75, 1)
    assert 0 < run.val_loss < 10 and 0 < run.train_loss < 10 and run.seconds > 0 and run.images_per_second > 0
    assert run.versions.startswith("ms-vit ")

    asked = []

    def trained(recipe, kind, seed, root, weights):
        asked.append((recipe, kind, seed))
        return Run(**asdict(run) | {"recipe": recipe, "precision": kind, "seed": seed})

    monkeypatch.setattr(precision, "train", trained)
    assert study(root, tmp_path, precisions="float32,bfloat16", seeds=2) == 0
    assert asked == [("few", "bfloat16", 0), ("few", "float32", 1), ("few", "bfloat16", 1)]
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 4
    page = (tmp_path / "p.md").read_text()
    assert f"`ms-vit train {OPTIONS}`, small" in page and "| few | bfloat16 | 2 |" in page
    assert "few, the last epoch: bfloat16 is +0.00 points from float32, within one standard deviation (0.00)" in page
    assert {path.name for path in tmp_path.iterdir()} == {"p.jsonl", "p.md"}


def test_a_run_that_fails_is_told_in_one_line_and_leaves_no_record(tmp_path, capsys):
    assert study(tmp_path / "nowhere", tmp_path) == 1
    error = capsys.readouterr().err
    assert f"ended with 2: ms-vit: no folder {tmp_path / 'nowhere' / 'few'}" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def runs(top1: dict[str, list[float]], best: float = 0.99) -> list[Run]:
    return [Run(recipe="few", options=OPTIONS, precision=kind, seed=seed, top1=value, best=best, train_loss=0.5,
                val_loss=0.25, seconds=60.0, images_per_second=100.0, versions="ms-vit")
            for kind, values in top1.items() for seed, value in enumerate(values)]


@pytest.mark.parametrize(("bfloat16", "told"), [
    ([0.955, 0.975, 0.965], "-0.50 points from float32, within one standard deviation (1.00)"),
    ([0.94, 0.96, 0.95], "-2.00 points from float32, NOT within one standard deviation (1.00)"),
    ([0.99, 0.99, 0.99], "+2.00 points from float32, NOT within one standard deviation (0.71)"),
    ([0.96], "-1.00 points from float32; one seed has no standard deviation"),
])
def test_means_are_judged_by_the_pooled_standard_deviation(bfloat16, told):
    found = runs({"float32": [0.96, 0.98, 0.97], "bfloat16": bfloat16})
    last, best = precision.verdicts(found)
    assert last == f"few, the last epoch: bfloat16 is {told}"
    assert best.startswith("few, the best epoch: bfloat16 is +0.00 points")
    assert precision.table(found)[1] == ["few", "float32", "3", "97.00 +- 1.00", "99.00 +- 0.00", "0.250 +- 0.000"]


@pytest.mark.parametrize(("line", "told"), [
    ('{"recipe": "few"', "line 2 of"),
    ("{}", "is no run of today's recipes"),
    (json.dumps(asdict(runs({"float32": [0.5]})[0]) | {"options": "--recipe digits"}), "trained with --recipe digits"),
])
def test_a_record_that_is_no_run_of_these_gets_one_line(line, told, root, tmp_path, capsys):
    whole = json.dumps(asdict(runs({"float32": [0.5]})[0]))
    (tmp_path / "p.jsonl").write_text(f"{whole}\n{line}\n")
    assert study(root, tmp_path) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert (tmp_path / "p.jsonl").read_text() == f"{whole}\n{line}\n"


@pytest.mark.parametrize(("arguments", "told"), [
    (["--recipes", "mnist"], 'no recipe "mnist"; there are digits, imagenet_mini, cifar10'),
    (["--precisions", "float16"], 'no precision "float16"; there are float32, bfloat16'),
    (["--seeds", "0"], "--seeds must be at least 1"),
])
def test_a_wrong_option_gets_one_line(arguments, told, tmp_path, capsys):
    assert precision.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
