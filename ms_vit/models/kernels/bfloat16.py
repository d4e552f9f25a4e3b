"""Matrix products in bfloat16 on the CPU, by operators of our own (bfloat16.h).

Only what enters a product is rounded, to 8 bits of mantissa; weights, gradients, sums and all between the products stay
float32. MindSpore has no such kernels for the CPU. It is how a network computes and not what it is, so no ViTConfig
says it, and a checkpoint is the same whichever trained it.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import mindspore as ms

from ms_vit.errors import UsageError
from ms_vit.models.kernels import compiled

_on = False


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Cells made inside multiply in bfloat16, if `precision` says so. Raises UsageError where this machine can't."""
    global _on
    if precision == "bfloat16" and (missing := what_is_missing()):
        raise UsageError(missing)
    before, _on = _on, precision == "bfloat16"
    try:
        yield
    finally:
        _on = before


def wanted() -> bool:
    """Whether cells that are made now shall use the operators of this module."""
    return _on and compiled.wanted()


def what_is_missing() -> str:
    """Why there is no bfloat16 here, and what to do, in a line; empty where there is."""
    device = ms.get_context("device_target")
    if device != "CPU":
        return f"bfloat16 is for CPUs so far, not for {device}; take float16 or float32"
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


class Linear(compiled.Single):
    """x W^T + b: (x [M, in], W [out, in], b [out]) -> [M, out], all float32."""

    def __init__(self):
        super().__init__()
        self.forward = compiled.operator("dense_bfloat16", lambda x, w, b: [x[0], w[0]], lambda x, w, b: x)
        self.backward = compiled.operator("dense_bfloat16_grad", lambda x, w, dy: (x, w, [w[0]]),
                                          lambda x, w, dy: (x, x, x))

    def construct(self, x, weight, bias):
        return self.forward(x, weight, bias)

    def bprop(self, x, weight, bias, out, dout):
        return self.backward(x, weight, dout)


class Attention(compiled.Attention):
    """compiled.Attention with both its products, and those of its gradient, in bfloat16."""

    NAME = "attention_bfloat16"
