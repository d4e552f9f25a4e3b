"""The benchmark of whole commands: that timm's script and ours answer alike, and what is made of their seconds."""

import json
import zipfile

import pytest

from benchmarks import commands
from benchmarks.commands import TIMM, Given
from ms_vit.errors import UsageError

MODEL = "vit_tiny_patch16_224"


def test_ours_and_timms_answer_alike(shared_data, tmp_path):
    pytest.importorskip("torch", reason="the script to compare with: pip install -e .[parity]")
    with zipfile.ZipFile(shared_data / "imagenet_mini.zip") as archive:
        photos = [name for name in archive.namelist() if "/val/" in name and name.endswith(".JPEG")]
        for name in sorted(photos)[::25]:
            photo = tmp_path.joinpath("val", *name.split("/")[-2:])
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.write_bytes(archive.read(name))
    given = Given(shared_data / f"{MODEL}.safetensors", MODEL, tmp_path / "val")
    for task in commands.TASKS:
        (ours, answer), (timms, expected) = (given.do(task, way) for way in ("mindspore", TIMM))
        assert ours > 0 and timms > 0
        assert answer == expected if task == "infer" else float(answer) == float(expected) > 0.5


def test_ways_take_turns_and_what_fails_is_left_out(tmp_path, monkeypatch, capsys):
    asked = []

    def do(given, task, way):
        asked.append((task, way))
        if way.startswith("openvino"):
            raise UsageError(f"{task} by {way} failed: not installed")
        return (3.0 if way == TIMM else 2.0), ("n01440764" if task == "infer" else "0.75")

    monkeypatch.setattr(Given, "do", do)
    (tmp_path / "val/n01440764").mkdir(parents=True)
    (tmp_path / "val/n01440764/a.jpg").touch()
    (tmp_path / "weights").touch()
    assert commands.commands(tmp_path / "weights", tmp_path / "val", rounds=2, out=tmp_path, name="c").name == "c"
    kept = [way for way in commands.WAYS if not way.startswith("openvino")]
    assert len(asked) == 2 * (len(commands.WAYS) + 2 * len(kept))
    record = json.loads((tmp_path / "c.json").read_text())
    rows = [(task, way) for task in commands.TASKS for way in kept]
    assert [(row["task"], row["way"]) for row in record["rows"]] == rows
    assert "left out: eval by openvino failed: not installed" in capsys.readouterr().err
    assert "| eval | onnx | 2.00 | 2.00 - 2.00 | 1.50 x | 75.00 % |" in (tmp_path / "c.md").read_text()


def test_an_answer_that_changes_ends_it(monkeypatch):
    answers = iter(range(100))
    monkeypatch.setattr(Given, "do", lambda *_: (1.0, str(next(answers))))
    with pytest.raises(UsageError, match=r"answered \d+ and then \d+"):
        list(commands.measure(Given(None, MODEL, None), rounds=1))


@pytest.mark.parametrize(("weights", "split", "told"), [
    ("none", "val", "no weights at .*none"), ("weights", "none", "no images in .*none"),
    ("weights", "val", "no images in .*val")])
def test_what_is_missing_is_told_first(weights, split, told, tmp_path):
    (tmp_path / "weights").touch()
    (tmp_path / "val").mkdir()
    with pytest.raises(UsageError, match=told):
        commands.commands(tmp_path / weights, tmp_path / split)
