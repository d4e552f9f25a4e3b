"""What version 0.1.0 wrote is read by this one; tests/data/make_version_0_1_0.py made it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

import ms_vit
from ms_vit.runs.checkpoints import Checkpoints, read_state

OLD = REPOSITORY / "tests" / "data" / "version-0.1.0"


@pytest.fixture(scope="module")
def logits():
    """Of some images, by that version: images [4, 3, 16, 16], logits [4, 10]."""
    with np.load(OLD / "logits.npz") as file:
        return file["images"], file["logits"]


@pytest.fixture
def old_run(tmp_path):
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


@pytest.mark.parametrize("inner", ["", "checkpoints/00000006", "checkpoints/00000006/ema.safetensors"])
def test_an_old_checkpoint_answers_as_it_did(inner, old_run, logits):
    images, expected = logits
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(ms_vit.Predictor(old_run / inner, batch_size=4).logits(images), expected, atol=1e-5)


def test_an_old_onnx_file_answers_as_it_did(logits):
    run = pytest.importorskip("ms_vit.weights.exports.onnx_runtime", reason="onnx and onnxruntime are needed").run
    images, expected = logits
    np.testing.assert_allclose(run(OLD / "digits.onnx")(images), expected, atol=1e-5)


def test_an_old_run_goes_on(old_run, tmp_path, capsys):
    """By the command that began it, with one more epoch."""
    import runpy

    changes = runpy.run_path(str(OLD.parent / "make_version_0_1_0.py"))["CHANGES"]
    root = tmp_path / "data"
    ms_vit.download("digits", root)
    for split, kept in (("train", 10), ("val", 3)):
        for folder in (root / "digits" / split).iterdir():
            for file in sorted(folder.iterdir())[kept:]:
                file.unlink()
    ms_vit.train(ms_vit.Recipe.load("digits", changes | {"data.root": root, "train.epochs": 3}), old_run)
    told = capsys.readouterr().err
    assert "goes on with data.root was data, is " in told and "train.epochs was 2, is 3" in told
    state = read_state(Checkpoints(old_run).newest())
    assert (state.step, state.epoch) == (18, 3)
