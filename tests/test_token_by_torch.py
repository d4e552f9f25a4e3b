"""The network of mnist-token in PyTorch: its runs are kept. tests/test_systems.py has it beside ours."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("benchmarks.torch_cpu", reason="the network is PyTorch's: pip install -e .[parity]")
from benchmarks import token_by_torch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten digits, each a grey of its own."""
    root = tmp_path_factory.mktemp("root")
    for split, count in (("train", 3), ("val", 2)):
        for digit in range(10):
            folder = root / "mnist" / split / str(digit)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.full((28, 28), 25 * digit, np.uint8)).save(folder / f"{number}.png")
    return root


def test_each_run_is_kept_and_only_what_is_missing_is_done(root, tmp_path, capsys):
    def runs(*more):
        assert token_by_torch.main([f"--root={root}", f"--out={tmp_path}", "--name=t", "--epochs=2", *more]) == 0
        return json.loads((tmp_path / "t.json").read_text())["runs"]
    first = runs("--seeds=1", "--activations=relu")
    assert [len(first[0]["train_loss"]), len(first[0]["top1"])] == [2, 2] and 1 < first[0]["train_loss"][0] < 5
    both = runs("--seeds=1")
    assert both[0] == first[0] and [run["activation"] for run in both] == ["relu", "gelu"]
    assert both[0]["train_loss"] != both[1]["train_loss"]
    assert {path.name for path in tmp_path.iterdir()} == {"t.json", "t.md"}
    assert "| gelu | 1 |" in (tmp_path / "t.md").read_text() and "--epochs 2`" in (tmp_path / "t.md").read_text()


@pytest.mark.parametrize(("content", "says"), [
    ("{}", "holds no runs ('runs'); remove it"), ("no JSON", "holds no runs"),
    ('{"runs": [{"activation": "relu", "seed": 0, "train_loss": [1.0], "top1": [0.5], "seconds": 1.0}]}',
     "has runs of 1 epochs, not 2; give another --name")])
def test_a_file_of_other_runs_is_told_in_a_line_and_kept(content, says, root, tmp_path, capsys):
    (tmp_path / "t.json").write_text(content)
    assert token_by_torch.main([f"--root={root}", f"--out={tmp_path}", "--name=t", "--epochs=2", "--seeds=1"]) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and (tmp_path / "t.json").read_text() == content


def test_the_same_seed_learns_the_same(root):
    images = token_by_torch.digits(root / "mnist" / "train")
    assert images[0].shape == (30, 784) and images[0].min() == -1 and images[1].bincount().tolist() == [3] * 10
    first, again = (token_by_torch.train("relu", 3, 2, images, images) for _ in range(2))
    assert first.train_loss == again.train_loss and first.top1 == again.top1


def test_no_digits_are_told_in_a_line(tmp_path, capsys):
    assert token_by_torch.main([f"--root={tmp_path}", f"--out={tmp_path}"]) == 1
    assert "holds no digits; ms-vit download mnist" in capsys.readouterr().err and not list(tmp_path.iterdir())
