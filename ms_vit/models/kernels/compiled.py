"""compiled.cc as MindSpore operators: built with the machine's own C++ compiler, where it has one.

MindSpore's CPU kernels for LayerNorm, GELU and the operations around attention take more time than the matrix products
of a ViT between them. Nobody has to install a compiler: without one, kernels/__init__.py composes the same functions
from MindSpore's operators. MS_VIT_KERNELS=plain in the environment asks for that.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.signature import make_sig, sig_dtype, sig_rw

from ms_vit.caches import cache_folder
from ms_vit.device import cpu_count
from ms_vit.models.config import GeluKind
from ms_vit.progress import warn

SOURCE = Path(__file__).with_name("compiled.cc")
INCLUDED = SOURCE.with_name("bfloat16.h")
# Sums may be reordered, so that they run in vectors. -ffast-math would do more: infinities would go unnoticed, and the
# whole process would flush denormal numbers to zero.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math",
         "-fno-math-errno", "-fPIC", "-shared", "-pthread"]
_off = False


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Cells made inside use MindSpore's operators alone, so that their graph runs elsewhere, too (export)."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def wanted() -> bool:
    """Whether cells that are made now shall use the operators of this module."""
    return (not _off and os.environ.get("MS_VIT_KERNELS") != "plain" and ms.get_context("device_target") == "CPU"
            and library() is not None)


@functools.cache
def library() -> Path | None:
    """The built compiled.cc, kept in the user's cache from run to run; None where it can't be built."""
    if platform.system() not in ("Linux", "Darwin"):        # MindSpore takes such operators nowhere else
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        return None
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        decides = [SOURCE.read_text(), INCLUDED.read_text(), version, *FLAGS, processor()]
        key = hashlib.sha256("\0".join(decides).encode()).hexdigest()[:16]
        built = cache_folder() / f"kernels-{key}.so"
        if not built.is_file():
            build(compiler, built)
        ctypes.CDLL(str(built)).use_threads(cpu_count())
    except (OSError, subprocess.CalledProcessError) as error:
        told = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or ["it doesn't say why"]
        warn(f"going on with MindSpore's slower operators: {compiler} can't build {SOURCE.name} ({told[0]}); "
             "name another compiler by CXX")
        return None
    return built


def build(compiler: str, built: Path) -> None:
    """Beside first and then renamed: two runs may build at once."""
    built.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        part = Path(folder) / built.name
        subprocess.run([compiler, *FLAGS, "-o", str(part), str(SOURCE)], check=True, capture_output=True, text=True)
        part.replace(built)


def processor() -> str:
    """What -march=native depends on: a home folder may be shared by different machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    telling = ("model", "flags", "Features", "CPU")
    return platform.machine() + "".join(line for line in lines if line.startswith(telling))


def operator(name: str, shapes: Callable[..., Any], types: Callable[..., Any]) -> ops.Custom:
    """A function of compiled.cc; `shapes` and `types` tell its outputs' from its inputs'."""
    return ops.Custom(f"{library()}:{name}", out_shape=shapes, out_dtype=types, func_type="aot")


def changing(custom: ops.Custom, changed: int, inputs: int) -> ops.Custom:
    """An operator that changes the first `changed` of its inputs, which are Parameters; MindSpore keeps the order."""
    custom.add_prim_attr("side_effect_mem", True)
    custom.set_signatures(tuple(
        make_sig(f"x{i}", sig_rw.RW_WRITE if i < changed else sig_rw.RW_READ, dtype=sig_dtype.T)
        for i in range(inputs)))
    return custom


class Single(nn.Cell):
    """A cell for float32 alone, which the flags of mixed precision leave as it is.

    They go to all cells of a network; in PyNative mode this one would be handed float16 where its caller saw float32.
    """

    def add_flags(self, **flags):
        if flags.get("fp16") or flags.get("bf16"):
            flags |= {"fp16": False, "bf16": False, "fp32": True}
        super().add_flags(**flags)


def of_dropping(step: Tensor, part: Tensor, salt: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
    """The gradient of what tells which values drop (see Dropout): none."""
    return ops.zeros_like(step), ops.zeros_like(part), ops.zeros_like(salt), ops.zeros_like(numbers)


class Gelu(Single):
    """GELU, exact or by tanh: [...] -> [...], float32."""

    def __init__(self, kind: GeluKind):
        super().__init__()
        self.forward = operator(f"gelu_{kind}", lambda x: x, lambda x: x)
        self.backward = operator(f"gelu_{kind}_grad", lambda x, dy: x, lambda x, dy: x)

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, out, dout):
        return (self.backward(x, dout),)


class LayerNorm(Single):
    """(x [..., D], weight [D], bias [D]) -> [..., D], float32."""

    def __init__(self, epsilon: float):
        super().__init__()
        self.epsilon = Tensor([epsilon], ms.float32)
        self.forward = operator("layer_norm", lambda x, w, b, e: x, lambda x, w, b, e: x)
        self.backward = operator("layer_norm_grad", lambda x, w, e, dy: (x, w, w), lambda x, w, e, dy: (x, x, x))

    def construct(self, x, weight, bias):
        return self.forward(x, weight, bias, self.epsilon)

    def bprop(self, x, weight, bias, out, dout):
        return self.backward(x, weight, self.epsilon, dout)


class Attention(Single):
    """Multi-head attention of queries, keys and values side by side: [B, N, 3 * H * d] -> [B, N, H * d], float32.

    The matrix of attention weights never exists as a whole, as in FlashAttention (Dao et al. 2022). What follows qkv is
    as Dropout has it, which acts on the weights, [B, H, N, N].
    """

    def __init__(self, num_heads: int):
        super().__init__()
        self.heads = Tensor([0.0] * num_heads, ms.float32)     # tells their number by its shape
        self.forward = operator("attention", lambda qkv, *rest: [qkv[0], qkv[1], qkv[2] // 3], lambda qkv, *rest: qkv)
        self.backward = operator("attention_grad", lambda qkv, *rest: qkv, lambda qkv, *rest: qkv)

    def construct(self, qkv, step, part, salt, numbers):
        return self.forward(qkv, self.heads, step, part, salt, numbers)

    def bprop(self, qkv, step, part, salt, numbers, out, dout):
        return (self.backward(qkv, self.heads, step, part, salt, numbers, out, dout),
                *of_dropping(step, part, salt, numbers))


class Dropout(Single):
    """(x [...], step [1], part [1], salt [2], (threshold, scale) [2]) -> [...], float32.

    The second to the fourth are int32.
    """

    def __init__(self):
        super().__init__()
        self.drop = operator("dropout", lambda x, s, p, t, n: x, lambda x, s, p, t, n: x)

    def construct(self, x, step, part, salt, numbers):
        return self.drop(x, step, part, salt, numbers)

    def bprop(self, x, step, part, salt, numbers, out, dout):
        return (self.drop(dout, step, part, salt, numbers), *of_dropping(step, part, salt, numbers))


class Windows(Single):
    """The 3x3 windows around every pixel, or every second: [B, H, W, C] -> [B, H / stride, W / stride, 9 * C], float32.

    What is odd is rounded up.
    """

    def __init__(self, stride: int = 2):
        super().__init__()
        # Tells it by its shape: MindSpore keeps one rule of shapes for all operators of a name.
        self.stride = Tensor([0.0] * stride, ms.float32)
        self.forward = operator("windows", lambda x, s: [x[0], -(-x[1] // s[0]), -(-x[2] // s[0]), 9 * x[3]],
                                lambda x, s: x)
        self.backward = operator("windows_grad", lambda x, s, dy: x, lambda x, s, dy: x)

    def construct(self, x):
        return self.forward(x, self.stride)

    def bprop(self, x, out, dout):
        return (self.backward(x, self.stride, dout),)


class MaxPool(Single):
    """The largest of each 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, C], float32; H and W are even."""

    def __init__(self):
        super().__init__()
        self.forward = operator("max_pool", lambda x: [x[0], x[1] // 2, x[2] // 2, x[3]], lambda x: x)
        self.backward = operator("max_pool_grad", lambda x, y, dy: x, lambda x, y, dy: x)

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, out, dout):
        return (self.backward(x, out, dout),)


class BatchNorm(Single):
    """(x [..., C], weight [C], bias [C]) -> [..., C], and mean and variance [C] of all but the last axis; float32."""

    def __init__(self, epsilon: float):
        super().__init__()
        self.epsilon = Tensor([epsilon], ms.float32)
        self.forward = operator("batch_norm", lambda x, w, b, e: (x, w, w), lambda x, w, b, e: (x, x, x))
        self.backward = operator("batch_norm_grad", lambda x, w, e, m, v, dy: (x, w, w),
                                 lambda x, w, e, m, v, dy: (x, x, x))

    def construct(self, x, weight, bias):
        return self.forward(x, weight, bias, self.epsilon)

    def bprop(self, x, weight, bias, out, dout):
        return self.backward(x, weight, self.epsilon, out[1], out[2], dout[0])      # the moments are for looking at


class SquareSum(Single):
    """The sum of all squares: [...] -> [1], float32; without a gradient."""

    def __init__(self):
        super().__init__()
        self.forward = operator("square_sum", lambda x: [1], lambda x: x)

    def construct(self, x):
        return self.forward(x)


class Adam(nn.Cell):
    """A step of Adam or AdamW in one pass, which changes its first three inputs; see training/optimizers.py.

    (param [...], moment1 [...], moment2 [...], gradient [...], common [8], own [2]) -> done [1], float32. `common` are
    a factor of the gradient, the learning rate, beta1, beta2, both to the power of the step, epsilon, and whether
    weight decay is decoupled (1 or 0); `own` are a factor of the rate, and weight decay.
    """

    def __init__(self):
        super().__init__()
        self.change = changing(operator("adam", lambda p, m, v, g, c, o: [1], lambda p, m, v, g, c, o: p), 3, 6)

    @ms.jit         # outside of a graph MindSpore would take all custom operators' signatures for this one's
    def construct(self, param, moment1, moment2, gradient, common, own):
        return self.change(param, moment1, moment2, gradient, common, own)
