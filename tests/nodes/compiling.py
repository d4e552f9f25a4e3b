"""Compiles what recipes ask for on a device that isn't there: python compiling.py Ascend|GPU CASES.json.

Run with the environment of stubs.py. A case is a recipe, changes to it, the precision, for Ascend the chip, and whether
it is about the training step or the network alone. On stdout stands a JSON object for each, on stderr a line ahead of
MindSpore's log of it, which names the kernels.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np

from ms_vit import device
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.models import kernels
from ms_vit.models.kernels import precision
from ms_vit.models.vit import ViT
from ms_vit.recipe import Recipe
from ms_vit.signals import Stop
from ms_vit.training.trainer import Trainer
from ms_vit.weights.files import ModelSpec, save_parameters

CLASSES, BATCH = 10, 8


def spec_of(recipe: Recipe) -> ModelSpec:
    config = recipe.model.configure(num_classes=CLASSES)
    names = [str(number) for number in range(CLASSES)]
    prepared = Preprocessing(image_size=config.image_size).for_channels(config.channels)
    return ModelSpec(config=config, labels=Labels(names, names), preprocessing=prepared)


def compile_step(case: dict[str, Any], folder: Path) -> None:
    """The step as a run takes it, or the network as it validates."""
    recipe = Recipe.load(case["recipe"], case["changes"])
    spec = spec_of(recipe)
    if recipe.train.teacher:        # any network of the same classes
        recipe.train.teacher = folder / "teacher.safetensors"
        config = dataclasses.replace(spec.config, distilled=False)
        save_parameters(recipe.train.teacher, ViT(config).parameters_dict(), dataclasses.replace(spec, config=config))
    trainer = Trainer(recipe, folder, device=ms.get_context("device_target"), stop=Stop())
    trainer.spec, trainer.batches = spec, SimpleNamespace(steps=10)
    trainer.validation = SimpleNamespace(own_batch_size=BATCH)
    trainer.state.precision = case["precision"]
    with precision.computing_in(case["precision"]):
        trainer.prepare_step()
    images = ms.Tensor(np.zeros((BATCH, spec.config.channels, *spec.config.height_and_width)), ms.float32)
    if case["step"]:
        trainer.step.set_train()
        trainer.step.compile(images, ms.Tensor(np.zeros(BATCH), ms.int32))
    else:
        trainer.net.set_train(False)
        trainer.net.compile(images)


def answer(target: str, case: dict[str, Any]) -> None:
    began, error = time.perf_counter(), ""
    for module in (device, kernels, precision):         # a simulated chip doesn't tell
        module.chip = partial(str, case["chip"])
    try:
        ms.set_device(target)
        ms.set_context(mode=ms.GRAPH_MODE)
        with tempfile.TemporaryDirectory() as folder:
            compile_step(case, Path(folder))
    except Exception as problem:        # whatever it is, it is the answer
        error = f"{type(problem).__name__}: {problem}"
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "error": error}), flush=True)
    os._exit(0)         # plugins with stubs don't unload


def main(target: str, cases: Path) -> None:
    """A process each: in one for all, each graph would take longer to compile than the one before."""
    for number, case in enumerate(json.loads(cases.read_text())):
        print(f"== case {number}", file=sys.stderr, flush=True)
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            answer(target, case)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
