"""Every function of compiled.cc under AddressSanitizer and UndefinedBehaviorSanitizer, over shapes that fill no vector.

    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
        python tests/sanitize_kernels.py

It calls them as MindSpore does, without MindSpore, whose own libraries would be in the way. The first fault ends it
with a report; it is no part of the suite, since it needs the sanitizers' libraries before Python begins.
"""

import ctypes
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).parents[1] / "ms_vit" / "models" / "kernels" / "compiled.cc"
FLAGS = ["-std=c++17", "-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         "-fPIC", "-shared", "-pthread"]
TYPES = {"f": (np.float32, b"float32"), "h": (np.uint16, b"bfloat16"), "i": (np.int32, b"int32")}
DROP = ["i1", "i1", "i2", "f2"]                         # step, part, salt, numbers
called = set()


def array(random, text: str) -> tuple[np.ndarray, bytes]:
    """"f3x4" is float32 [3, 4], of numbers around 1, or whole ones."""
    kind, name = TYPES[text[0]]
    shape = [int(size) for size in text[1:].split("x")]
    values = random.normal(size=shape).astype(np.float32)
    if kind is np.uint16:
        return (values.view(np.uint32) >> 16).astype(np.uint16), name
    return (np.ones(shape, np.int32) if kind is np.int32 else values), name


def call(library: ctypes.CDLL, function: str, *texts: str, given: dict[int, list[float]] | None = None) -> None:
    """With inputs and outputs by their texts; some may be `given`."""
    random = np.random.default_rng(0)
    arrays = [array(random, text) for text in texts]
    for place, numbers in (given or {}).items():
        arrays[place][0][...] = numbers
    shapes = [(ctypes.c_int64 * values.ndim)(*values.shape) for values, _ in arrays]
    count, address = len(arrays), ctypes.POINTER(ctypes.c_int64)
    result = getattr(library, function)(
        count, (ctypes.c_void_p * count)(*[values.ctypes.data for values, _ in arrays]),
        (ctypes.c_int * count)(*[values.ndim for values, _ in arrays]),
        (address * count)(*[ctypes.cast(shape, address) for shape in shapes]),
        (ctypes.c_char_p * count)(*[name for _, name in arrays]), None, None)
    assert result == 0, function
    called.add(function)


def elementwise(library) -> None:
    for n in (1, 17, 40000):
        call(library, "square_sum", f"f{n}", "f1")
        for kind in ("exact", "tanh"):
            call(library, f"gelu_{kind}", f"f{n}", f"f{n}")
            call(library, f"gelu_{kind}_grad", f"f{n}", f"f{n}", f"f{n}")
        call(library, "dropout", f"f{n}", *DROP, f"f{n}", given={4: [5e6, 2]})
        call(library, "adam", f"f{n}", f"f{n}", f"f{n}", f"f{n}", "f8", "f2", "f1",
             given={2: 1.0, 4: [1, 1e-3, 0.9, 0.99, 0.9, 0.99, 1e-8, 1], 5: [1, 0.1]})
    for h, w, c in ((1, 1, 1), (7, 4, 3)):
        windows = f"f2x{(h + 1) // 2}x{(w + 1) // 2}x{9 * c}"
        for stride, made in (("f1", f"f2x{h}x{w}x{9 * c}"), ("f2", windows)):
            call(library, "windows", f"f2x{h}x{w}x{c}", stride, made)
            call(library, "windows_grad", f"f2x{h}x{w}x{c}", stride, made, f"f2x{h}x{w}x{c}")
        pixels, pooled, row = f"f2x{2 * h}x{2 * w}x{c}", f"f2x{h}x{w}x{c}", f"f{c}"
        call(library, "max_pool", pixels, pooled)
        call(library, "max_pool_grad", pixels, pooled, pooled, pixels)
        call(library, "batch_norm", pixels, row, row, "f1", pixels, row, row, given={3: [1e-5]})
        call(library, "batch_norm_grad", pixels, row, "f1", row, row, pixels, pixels, row, row,
             given={2: [1e-5], 4: 1.0})
        if hasattr(library, "conv_bfloat16"):
            call(library, "conv_bfloat16", pooled, f"f5x{9 * c}", "f5", f"f2x{h}x{w}x5")
            call(library, "conv_bfloat16_grad_weight", pooled, f"f2x{h}x{w}x5", f"f5x{9 * c}", "f5")


def rows(library, m: int, k: int, n: int) -> None:
    """What works on rows [m, k], towards a width n."""
    x, row, y = f"f{m}x{k}", f"f{k}", f"f{m}x{n}"
    call(library, "layer_norm", x, row, row, "f1", x, given={3: [1e-6]})
    call(library, "layer_norm_grad", x, row, "f1", x, x, row, row, given={2: [1e-6]})
    if not hasattr(library, "dense_bfloat16"):
        return
    packed = f"i{-(-n // 64)}x{-(-k // 2)}x64"
    call(library, "layer_norm_bfloat16", x, row, row, "f1", f"h{m}x{k}", given={3: [1e-6]})
    call(library, "pack_bfloat16", f"f{n}x{k}", packed)
    for inputs, weight, outputs in itertools.product("fh", (f"f{n}x{k}", packed), "fh"):
        call(library, "dense_bfloat16", f"{inputs}{m}x{k}", weight, f"f{n}", f"{outputs}{m}x{n}")
    call(library, "dense_bfloat16_grad_input", f"f{n}x{k}", y, x)
    for inputs in "fh":
        call(library, "dense_bfloat16_grad_weight", f"{inputs}{m}x{k}", y, f"f{n}x{k}", f"f{n}")
        for kind in ("exact", "tanh"):
            call(library, f"mlp_bfloat16_{kind}", f"{inputs}{m}x{k}", f"f{n}x{k}", f"f{n}", f"f{k}x{n}", row, *DROP, x,
                 f"h{m}x{n}", given={8: [5e6, 2]})
            call(library, f"mlp_bfloat16_{kind}_grad", f"{inputs}{m}x{k}", f"f{n}x{k}", f"f{k}x{n}", f"h{m}x{n}", *DROP,
                 x, x, f"f{n}x{k}", f"f{n}", f"f{k}x{n}", row, given={7: [5e6, 2]})


def heads(library, batch: int, tokens: int, count: int, dim: int) -> None:
    width, few = count * dim, f"f{count}"
    shape, wide = f"{batch}x{tokens}x{width}", f"{batch}x{tokens}x{3 * width}"
    drops = {5: [5e6, 2]}
    call(library, "attention", f"f{wide}", few, *DROP, f"f{shape}", given=drops)
    call(library, "attention_grad", f"f{wide}", few, *DROP, f"f{shape}", f"f{shape}", f"f{wide}", given=drops)
    if not hasattr(library, "dense_bfloat16"):
        return
    call(library, "attention_bfloat16", f"h{wide}", few, *DROP, f"h{shape}", given=drops)
    call(library, "attention_bfloat16_grad", f"h{wide}", few, *DROP, f"f{shape}", f"f{wide}", given=drops)
    model, hidden = width + 3, 2 * width + 1
    x, row = f"f{batch}x{tokens}x{model}", f"f{model}"
    for kind in ("exact", "tanh"):
        call(library, f"block_bfloat16_{kind}", x, "f2", row, row, f"f{3 * width}x{model}", f"f{3 * width}",
             f"f{model}x{width}", row, row, row, f"f{hidden}x{model}", f"f{hidden}", f"f{model}x{hidden}", row, x,
             given={1: [count, 1e-6]})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernels.so"
        subprocess.run(["g++", *FLAGS, "-o", str(built), str(SOURCE)], check=True)
        library = ctypes.CDLL(str(built))
        library.use_threads(2)
        elementwise(library)
        for m, k, n in ((1, 1, 1), (2, 33, 65), (49, 64, 17), (65, 31, 130), (600, 10, 70), (9001, 5, 7)):
            rows(library, m, k, n)
        for batch, tokens, count, dim in ((1, 1, 1, 1), (2, 5, 3, 7), (1, 97, 2, 16), (1, 200, 1, 33)):
            heads(library, batch, tokens, count, dim)
    sources = [SOURCE.read_text()] + [SOURCE.with_name("bfloat16.h").read_text()] * hasattr(library, "dense_bfloat16")
    known = set(re.findall(r"^KERNEL\((\w+)\)", "\n".join(sources), re.MULTILINE))
    assert called == known, f"not called: {known - called}"
    print(f"{len(called)} functions, no fault")


if __name__ == "__main__":
    sys.exit(main())
