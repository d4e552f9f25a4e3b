"""What matrix products are computed in: float32, or half of its bits.

The rest of a network isn't: LayerNorm, softmax, residuals, the head, the loss and all statistics stay float32, and so
do weights, their gradients and the optimiser. (MindSpore's amp levels exempt LayerNorm by its class, and ours is
another.) It is how a network computes and not what it is, so no ViTConfig says it, and a checkpoint is the same
whichever trained it. On the CPU bfloat16 is by operators of our own (bfloat16.py); GPU and Ascend have it or float16
themselves.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import mindspore as ms

from ms_vit.device import chip, toolkit
from ms_vit.errors import UsageError
from ms_vit.models.kernels import compiled

PRECISIONS = ("float32", "bfloat16", "float16")
# The first 910, and chips for prediction: without bfloat16, and without a fused operator for attention.
FIRST_CHIPS = ("ascend910", "ascend310", "ascend310p")

_now = "float32"


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Cells made inside multiply in `precision`. Raises UsageError where this machine can't."""
    global _now
    if missing := what_is_missing(precision):
        raise UsageError(missing)
    before, _now = _now, precision
    try:
        yield
    finally:
        _now = before


def now() -> str:
    """The precision of cells that are made now."""
    return _now


def compiled_with(precision: str) -> str:
    """What graphs are compiled with here, whatever they are of: device, chip, toolkit, our operators, precision."""
    operators = compiled.library() if compiled.wanted() else None
    return f"{ms.get_context('device_target')} {chip()} {toolkit()} {operators} {precision}"


def product_type() -> Any:
    """What cells that are made now shall round to ahead of a product, as a type of MindSpore; None for float32."""
    return {"float32": None, "bfloat16": ms.bfloat16, "float16": ms.float16}[_now]


def best_precision() -> str:
    """What "auto" means for a new run: bfloat16 where there is such a thing, else float16 on GPU and Ascend."""
    if not what_is_missing("bfloat16"):
        return "bfloat16"
    return "float32" if ms.get_context("device_target") == "CPU" else "float16"


def what_is_missing(precision: str) -> str:
    """Why there is no such precision here, and what to do, in a line; empty where there is."""
    if precision != "bfloat16":
        return ""
    device = ms.get_context("device_target")
    if device == "GPU":
        return "MindSpore has no bfloat16 on GPUs; take float16 or float32"
    if device == "Ascend":
        return f"the chip {chip()} has no bfloat16; take float16 or float32" if chip() in FIRST_CHIPS else ""
    if os.environ.get("MS_VIT_KERNELS") == "plain":
        return "bfloat16 needs the operators that MS_VIT_KERNELS=plain leaves out; unset that, or take float32"
    library = compiled.library()
    if library is None:
        return ("bfloat16 needs a C++ compiler, and there is none here that builds ms-vit's operators; install g++ or "
                "clang++, or take float32")
    if not hasattr(ctypes.CDLL(str(library)), "dense_bfloat16"):
        return ("bfloat16 needs a processor with AVX512-BF16 and a compiler that knows it (g++ 10 or clang++ 10); "
                "one of both is missing here, so take float32")
    return ""
