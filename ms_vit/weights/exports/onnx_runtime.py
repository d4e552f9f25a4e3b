"""ONNX files as ONNX Runtime runs them, on the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from ms_vit.device import cpu_count
from ms_vit.weights.exports.onnx_graph import write

__all__ = ["run", "write"]


def run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()      # onnxruntime counts the machine's cores, a container's or not
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]
