"""What gives logits for images: the network in MindSpore, or its export in ONNX Runtime or OpenVINO.

Each is a function: images [n, C, H, W] float32 -> logits [n, num_classes] float32.
"""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from ms_vit.caches import graph_cache
from ms_vit.device import use_device
from ms_vit.errors import UsageError
from ms_vit.inference.kept import Logits, load_kept
from ms_vit.models.kernels import pack
from ms_vit.models.kernels.precision import PRECISIONS, compiled_with, computing_in
from ms_vit.progress import say
from ms_vit.weights.exports import FORMATS, Exporter, exporter
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.loading import load_model

# The fastest first (benchmarks/results/engines-2026-11-25-*.md), with the precisions that each computes in.
ENGINES = {"openvino": ("float32", "bfloat16"), "onnx": ("float32",), "mindspore": PRECISIONS}


def load_engine(name: str, weights: Path, model: str | None, *, device: str | None, batch_size: int,
                singly: bool = False, precision: str = "float32") -> tuple[Logits, ModelSpec]:
    """The logits of a weight file's network by an engine, for up to `batch_size` images, and what goes with them.

    The file may be OpenVINO's (.xml), too, for that engine. "auto" is the fastest that is installed, and is told.
    singly: MindSpore doesn't fill a batch up for few images; see on_mindspore.

    Raises UsageError where there is no such engine, it isn't installed, or it doesn't run on `device` in `precision`.
    """
    if name not in (*ENGINES, "auto"):
        raise UsageError(f'no engine "{name}"; there are {", ".join(ENGINES)}, auto')
    if precision not in PRECISIONS:
        raise UsageError(f'no precision "{precision}" to predict in; there are {", ".join(PRECISIONS)}')
    ir = weights.suffix == FORMATS["openvino"].suffix
    if name == "auto":
        name = "openvino" if ir else fastest(device, precision)
        say(f"engine: {name}, {f'which {weights} is for' if ir else f'the fastest here for {precision}'}")
    if precision not in ENGINES[name]:
        raise UsageError(f"--engine {name} computes in {' or '.join(ENGINES[name])}, not in {precision}; leave one of "
                         "both out")
    if name == "mindspore":
        use_device(device)
        with computing_in(precision):
            net, spec = load_model(weights, model)
        pack(net)
        graph = f"{spec.config} {device} {compiled_with(precision)}"
        return on_mindspore(net, batch_size, singly, graph=graph), spec
    if device is not None and device.lower() != "cpu":
        raise UsageError(f"--engine {name} runs on the CPU, not on {device}; leave --device out")
    to = exporter(name)
    if name == "openvino":
        to = in_openvino(to, precision)
        if ir:
            return load_ir(to, weights)
    return load_kept(to, weights, model, precision)


def fastest(device: str | None, precision: str) -> str:
    """The first of ENGINES that is installed and computes in `precision` on `device`, or on what MindSpore finds."""
    if use_device(device) == "CPU":
        for name in [name for name in ENGINES if name in FORMATS and precision in ENGINES[name]]:
            with contextlib.suppress(UsageError):
                exporter(name)
                return name
    return "mindspore"


def in_openvino(to: Exporter, precision: str) -> Exporter:
    """OpenVINO for a precision. Raises UsageError where this processor has none such."""
    from ms_vit.weights.exports import openvino_ir

    openvino_ir.refuse_precision(precision)
    return replace(to, run=partial(openvino_ir.run, precision=precision))


def load_ir(to: Exporter, path: Path) -> tuple[Logits, ModelSpec]:
    """An OpenVINO export, which was compared with its network, or scored, when it was written. Raises DataError."""
    from ms_vit.weights.exports.openvino_ir import read_spec

    spec = read_spec(path)
    return to.run(path), spec


def on_mindspore(net: nn.Cell, batch_size: int, singly: bool = False, *, graph: str) -> Logits:
    """A network in MindSpore, for up to `batch_size` images; it must not be training.

    A smaller batch is filled up and the filling's answers dropped: another shape would compile the graph anew.
    singly: that is done once, for a batch of one, and up to half a batch goes image by image.
    graph: names all that decides what is compiled, but for the shape of a batch; see graph_cache, which keeps it.
    """
    compiled: set[tuple[int, ...]] = set()

    def predict(images: np.ndarray) -> np.ndarray:
        first = images.shape not in compiled
        compiled.add(images.shape)
        with graph_cache(f"logits {images.shape} {graph}") if first else contextlib.nullcontext():
            return net(ms.Tensor(images)).asnumpy().astype(np.float32)

    def logits(images: np.ndarray) -> np.ndarray:
        if singly and len(images) <= batch_size // 2:
            return np.concatenate([predict(images[at:at + 1]) for at in range(len(images))])
        missing = batch_size - len(images)
        if missing:
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        return predict(images)[:batch_size - missing]
    return logits
