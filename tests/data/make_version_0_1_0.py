"""Makes tests/data/version-0.1.0: what that version of ms-vit wrote, for the tests that a later one reads it.

    git worktree add /tmp/ms-vit-0.1.0 07a26df
    PYTHONPATH=/tmp/ms-vit-0.1.0 python tests/data/make_version_0_1_0.py

A run on a tenth of scikit-learn's digits that was stopped after two of three epochs, an ONNX export of it, and its
logits of some images.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

import ms_vit

HERE = Path(__file__).resolve().parent / "version-0.1.0"
CHANGES = {"train.epochs": 2, "train.batch_size": 16, "train.log_every": 1, "train.ema": 0.9, "model.depth": 1,
           "model.dim": 16, "model.mlp_dim": 32, "model.num_heads": 2, "model.dropout": 0.1, "augment.mixup": 0.4,
           "checkpoint.keep": 1, "schedule.warmup_epochs": 0, "data.workers": 2}


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)            # so that no path of this machine is written
        ms_vit.download("digits")
        for split, kept in (("train", 10), ("val", 3)):
            for name in Path("data/digits", split).iterdir():
                for file in sorted(name.iterdir())[kept:]:
                    file.unlink()
        ms_vit.train(ms_vit.Recipe.load("digits", CHANGES), "run")
        ms_vit.export("run", format="onnx", out="digits.onnx")
        images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
        np.savez("logits.npz", images=images, logits=ms_vit.Predictor("run", batch_size=4).logits(images))
        for left in ("curves.png", ".lock"):
            Path("run", left).unlink()
        HERE.mkdir()
        for made in ("run", "digits.onnx", "logits.npz"):
            shutil.move(made, HERE / made)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
