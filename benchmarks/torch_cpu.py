"""Imports torchvision beside a PyTorch that its compiled part doesn't fit, as timm and transformers need it.

PyPI's torchvision for Linux is compiled for PyTorch's CUDA build. Beside a CPU build its library stays unloaded, and
`import torchvision` then stumbles over two operators of that library which its Python part describes. Declared, and
never called, they let it pass: models and transforms need only PyTorch's own operators.
"""

import importlib
import sys

import torch

try:
    importlib.import_module("torchvision")
except RuntimeError as error:       # "operator torchvision::nms does not exist"
    if "torchvision::nms" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]       # what the failed import left
    LIBRARY = torch.library.Library("torchvision", "DEF")       # kept: when it goes, its declarations go
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
