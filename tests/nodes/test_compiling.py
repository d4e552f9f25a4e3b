"""What recipes ask for compiles for Ascend and GPU, without one: which kernels are chosen, and in which types.

MindSpore's own plugins compile it, with stubs in the place of CANN's and CUDA's libraries (stubs.py). Nothing is run.
"""

import collections
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import mindspore
import pytest
from conftest import REPOSITORY

from ms_vit.recipe import RECIPES, Recipe
from nodes import stubs

PROGRAM = Path(__file__).with_name("compiling.py")
DEVICES = {"Ascend": ("float32", "float16", "bfloat16"), "GPU": ("float32", "float16")}
SMALL = {"model.image_size": 16, "model.patch_size": 4, "model.dim": 32, "model.depth": 1, "model.num_heads": 2,
         "model.mlp_dim": 64, "augment.train": ["Decode()", "HWC2CHW()"]}
DROPS = {"model.dropout": 0.1, "model.attention_dropout": 0.1, "model.drop_path": 0.1}
OPTIONS = {
    "all that drops, less memory, all tokens, LayerScale, QK-norm": DROPS | {
        "train.recompute": True, "train.accumulate": 2, "model.registers": 2, "model.layer_scale": True,
        "model.qk_norm": True},
    "mixed images, their average, LAMB": {"augment.mixup": 0.2, "augment.cutmix": 1.0, "train.ema": 0.99,
                                          "optimizer.name": "lamb", "loss.name": "bce"},
    "a head that learns from a hard teacher, Lion": {"model.distilled": True, "train.teacher": "any",
                                                     "optimizer.name": "lion"},
    "the head alone, SGD": {"optimizer.tune": "head", "optimizer.name": "sgd"},
    "a stem, layers that learn the less, Adam": {"model.stem": [8, 16], "optimizer.layer_decay": 0.7,
                                                 "optimizer.name": "adam", "model.gelu": "tanh"},
}
# Older kernels (aclop) that a step may be made of; all of them run on the AI cores. What isn't here is a surprise.
ACLOP = {"Adam", "AddN", "Argmax", "Assign", "BiasAdd", "BiasAddGrad", "Concat", "Conv2D", "Conv2DBackpropFilter",
         "Conv2DBackpropInput", "Equal", "Gather", "OneHot", "Pow", "RealDiv", "ReduceMean", "Softmax",
         "SoftmaxBackward", "Split", "SplitWithSize", "Sqrt", "Stack", "StridedSlice", "StridedSliceGrad",
         "TensorMove"}


@dataclasses.dataclass
class Compiled:
    """seconds that it took, what went wrong, kernels by (kind, name), and the log."""

    seconds: float
    error: str
    kernels: collections.Counter

    @property
    def aclop(self) -> collections.Counter:
        return collections.Counter({name: n for (kind, name), n in self.kernels.items() if kind == "acl_kernel"})


@pytest.fixture(scope="session")
def compile_for(tmp_path_factory):
    """compile_for("Ascend", cases) -> what each came to."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("MindSpore has its Ascend and GPU plugins in the wheel for Linux on x86-64")
    if missing := stubs.missing_tools():
        pytest.skip(f"the stub libraries need {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("stubs")

    def compile_for(device: str, cases: Sequence[dict], *, log: bool = True,
                    graphs: Path | None = None) -> list[Compiled]:
        listed = folder / "cases.json"
        listed.write_text(json.dumps([{"chip": "ascend910b", "step": True, **case} for case in cases]))
        environment = {**os.environ, **stubs.environment(device, folder / device), "GLOG_v": "1" if log else "3",
                       "PYTHONPATH": str(REPOSITORY)}
        if graphs:
            environment |= {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(graphs)}
        ran = subprocess.run([sys.executable, str(PROGRAM), device, str(listed)], env=environment, capture_output=True,
                             text=True, errors="replace", cwd=folder)
        told = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"seconds"')]
        logs = ran.stderr.split("== case ")[1:]
        assert len(told) == len(cases), ran.stderr[-3000:]
        return [Compiled(**each, kernels=collections.Counter(
            (kind, name) for name, kind in re.findall(r"kernel opname:(\w+), kernel type:(\w+)", log)))
            for each, log in zip(told, logs, strict=True)]
    return compile_for


def different_recipes() -> list[str]:
    """Those whose steps differ in sizes alone are there once."""
    steps = {}
    for file in sorted(RECIPES.glob("*.yaml")):
        recipe = Recipe.load(file.stem)
        config = recipe.model.configure(num_classes=10)
        kinds = {key: bool(value) if isinstance(value, float | int | tuple) else value
                 for key, value in dataclasses.asdict(config).items()}
        steps.setdefault(f"{kinds} {recipe.optimizer.name} {recipe.loss.name} {bool(recipe.train.teacher)} "
                         f"{bool(recipe.train.ema)} {bool(recipe.augment.mixup)} {bool(recipe.augment.cutmix)}",
                         file.stem)
    return list(steps.values())


def pairs() -> list[tuple[str, str]]:
    return [(device, precision) for device, precisions in DEVICES.items() for precision in precisions]


Cases: TypeAlias = list[tuple[str, str, dict]]      # device, what the case is called, and itself


def asked(recipes: dict) -> Cases:
    """Every recipe, changed by `recipes`, and every group of options, for every device in every precision."""
    what = [(name, name, recipes) for name in different_recipes()]
    what += [(title, "digits", SMALL | changes) for title, changes in OPTIONS.items()]
    return [(device, title, {"recipe": name, "precision": precision, "changes": changes})
            for title, name, changes in what for device, precision in pairs()]


def compiled_all(compile_for, cases: Cases, *, log: bool) -> list[tuple[str, str, str, Compiled]]:
    """Device, what it is called, precision, and what each came to."""
    return [(device, title, case["precision"], each) for device in DEVICES
            for mine in ([(title, case) for on, title, case in cases if on == device],)
            for (title, case), each in zip(mine, compile_for(device, [case for _, case in mine], log=log), strict=True)]


def failures(found: list[tuple[str, str, str, Compiled]]) -> dict:
    return {(device, title, precision): each.error for device, title, precision, each in found if each.error}


def report(found: list[tuple[str, str, str, Compiled]]) -> str:
    """A line for each, with its kernels by kind."""
    lines = ["| what | device | precision | compiled in s | kernels by kind |", "| :-- | :-- | :-- | --: | :-- |"]
    for device, title, precision, each in found:
        kinds = collections.Counter()
        for (kind, _), count in each.kernels.items():
            kinds[kind.removesuffix("_kernel")] += count
        told = each.error or ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "not told"
        lines.append(f"| {title} | {device} | {precision} | {each.seconds} | {told} |")
    return "\n".join([f"MindSpore {mindspore.__version__}, stubs in the place of CANN and CUDA.", "", *lines, ""])


@pytest.mark.timeout(900)
def test_every_recipe_and_option_compiles(compile_for):
    """Each for one device and one precision, of which all have their turn; `-m nodes` has all of all."""
    every, turns = asked({"model.depth": 1}), len(pairs())
    cases = [every[at * turns + at % turns] for at in range(len(every) // turns)]
    assert not failures(compiled_all(compile_for, cases, log=False))


@pytest.mark.nodes
@pytest.mark.timeout(7200)
def test_every_recipe_and_option_compiles_for_every_device_in_every_precision(compile_for, request):
    found = compiled_all(compile_for, asked({}), log=True)
    if file := request.config.getoption("--report"):
        file.write_text(report(found))
    assert not failures(found)


BASE = {"recipe": "imagenet-subset", "precision": "bfloat16", "changes": DROPS | {"model.name": "vit_base_patch16_224"}}


@pytest.fixture(scope="session")
def whole_step(compile_for):
    """The step of ViT-B/16 at 224 with all that drops, for the 910B in bfloat16: twelve blocks."""
    (compiled,) = compile_for("Ascend", [BASE])
    assert not compiled.error
    return compiled


def test_no_kernel_of_a_step_at_full_size_runs_on_the_ai_cpu(whole_step):
    assert set(whole_step.aclop) <= ACLOP
    assert {name for kind, name in whole_step.kernels if kind == "opapi_kernel"} >= {
        "DropoutGenMaskExt", "DropoutDoMaskExt", "LayerNormExt", "LayerNormGradExt", "GeluExt", "GeluGradExt", "Dense",
        "Softmax", "BatchMatMul"}


def test_older_kernels_of_a_step_are_few(whole_step):
    # An Adam and no other for each of 152 parameters; a mask and what it is made from for each of 37 layers that drop.
    assert whole_step.aclop["Adam"] == 152
    assert whole_step.aclop.total() - whole_step.aclop["Adam"] < 100
    assert whole_step.kernels.total() < 2600


def test_flash_attention_is_the_chips(compile_for):
    small = {"recipe": "digits", "changes": SMALL | {"model.dim": 64}, "step": False}
    new, old, whole = compile_for("Ascend", [small | {"precision": "bfloat16"},
                                             small | {"precision": "float16", "chip": "ascend910"},
                                             small | {"precision": "float32"}])
    assert [each.kernels["opapi_kernel", "FlashAttentionScore"] for each in (new, old, whole)] == [1, 0, 0]


def types_of(graphs: Path, operator: str) -> set[str]:
    """The types of the first input of an operator's calls in the graphs as they were validated."""
    text = "".join(file.read_text() for file in graphs.glob("*_validate_*.ir"))
    calls = re.findall(rf"= (?:PrimFunc_|Prim_)?{operator}\(.*\n +: \(<(?:Ref\[)?Tensor\[(\w+)\]", text)
    return set(calls)


@pytest.mark.parametrize(("device", "precision", "low"), [("Ascend", "bfloat16", "BFloat16"),
                                                          ("GPU", "float16", "Float16")])
def test_products_alone_are_in_low_precision(compile_for, tmp_path, device, precision, low):
    case = {"recipe": "digits", "precision": precision,
            "changes": SMALL | {"model.stem": [8, 16], "model.attention_dropout": 0.1, "augment.mixup": 0.2}}
    (compiled,) = compile_for(device, [case], graphs=tmp_path)
    assert not compiled.error
    assert types_of(tmp_path, "Conv2D") == types_of(tmp_path, "BatchMatMul") == {low}
    assert types_of(tmp_path, "Dense") == {low, "Float32"}          # of which the head is
    norm = "LayerNormExt" if device == "Ascend" else "LayerNorm"
    for exact in (norm, "Softmax", "LogSoftmax", "Adam"):
        assert types_of(tmp_path, exact) == {"Float32"}, exact
