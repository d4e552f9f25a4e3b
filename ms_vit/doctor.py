"""ms-vit doctor: look at this machine, and say what stands between it and training."""

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ms_vit import cli
from ms_vit.errors import UserError, one_line
from ms_vit.progress import say

Finding = tuple[str, str]       # what was found; what to do, where that is needed


@dataclass(frozen=True)
class Health:
    """What was found: a line for each thing looked at, in `found`; `remedies` has those that need something done."""

    device: str
    found: dict[str, str]
    remedies: dict[str, str]

    @property
    def exit_code(self) -> int:
        return 1 if self.remedies else 0


def doctor(*, device: str | None = None) -> Health:
    """Look at this machine: what is installed, which card there is, and whether a network computes and learns on it.

    Args:
        device: CPU, GPU or Ascend, one card of several as in Ascend:3 (default: what MindSpore finds).
    """
    found, remedies, used = {}, {}, ""
    for title, finding in findings(device):
        used = finding[0] if title == "device" else used
        found[title] = finding[0]
        if finding[1]:
            remedies[title] = finding[1]
        say(f"{'  ' if not finding[1] else '! '}{title:10}{finding[0]}" + (f"; {finding[1]}" if finding[1] else ""))
    return Health(used, found, remedies)


def findings(device: str | None) -> Iterator[tuple[str, Finding]]:
    """One thing after the other, each with its title; what builds on a thing that is missing isn't looked at."""
    yield "Python", (f"{platform.python_version()} on {platform.system()} {platform.machine()}", "")
    if problem := cli.wrong_environment():
        yield "NumPy", ("unfit", problem)
        return
    import mindspore as ms
    import numpy as np

    from ms_vit import device as devices

    yield "MindSpore", (ms.__version__, "")
    yield "NumPy", (np.__version__, "")
    for kind in devices.CARDS:
        cards = devices.cards(kind)
        reason = devices.why_not(kind) if cards else ""
        yield kind, (f"{cards or 'no card'}{f', and MindSpore cannot use it: {reason}' if reason else ''}",
                     devices.REMEDIES[kind] if reason else "")
    used = attempt(lambda: (devices.use_device(device), ""))
    yield "device", used
    if used[1]:
        return
    if used[0] != "CPU":
        yield "toolkit", (devices.toolkit() or "no version told", "")
    yield from computing(used[0])


def computing(device: str) -> Iterator[tuple[str, Finding]]:
    """Whether a device that MindSpore uses computes what it should, and in what."""
    from ms_vit.device import chip, cpu_count
    from ms_vit.models.kernels import compiled, precision

    if device == "CPU":
        library = compiled.library()
        yield "cores", (str(cpu_count()), "")
        yield "compiler", (f"operators of our own in {library}", "") if library else (
            "none that builds ms-vit's operators", "install g++ or clang++; without it training is much slower")
    elif device == "Ascend":
        yield "chip", (chip() or "not told", "")
    missing = precision.what_is_missing("bfloat16")
    yield "precision", (f"{precision.best_precision()} by default{f' ({missing})' if missing else ''}", "")
    yield "product", attempt(matrix_product)
    yield "training", attempt(steps)


def attempt(look: Callable[[], Finding]) -> Finding:
    """What `look` finds; what stops it is what is wrong."""
    try:
        return look()
    except UserError as error:
        return "refused", one_line(str(error))
    except Exception as error:      # of MindSpore, a driver, a library: all of it is what the doctor is for
        return "failed", one_line(" ".join(f"{type(error).__name__}: {error}".split()))


def matrix_product() -> Finding:
    """One of 512 x 512, by MindSpore and by NumPy."""
    import mindspore as ms
    import numpy as np

    a, b = np.random.default_rng(0).normal(size=(2, 512, 512)).astype(np.float32)
    off = np.abs(ms.ops.matmul(ms.Tensor(a), ms.Tensor(b)).asnumpy() - a.astype(np.float64) @ b).max() / 512**0.5
    told = f"512 x 512 in float32, {off:.1e} of an entry's size from NumPy's"
    return told, "" if off < 1e-2 else "that is more than rounding, even to float16; test the card and its driver"


def steps() -> Finding:
    """A tiny network learns one batch by heart."""
    import time

    import mindspore as ms
    import numpy as np

    from ms_vit.models.config import ViTConfig
    from ms_vit.models.kernels import precision
    from ms_vit.models.vit import ViT
    from ms_vit.training.losses import CrossEntropy
    from ms_vit.training.optimizers import Adam
    from ms_vit.training.step import TrainStep

    best = precision.best_precision()
    with precision.computing_in(best):
        ms.set_seed(0)
        net = ViT(ViTConfig(image_size=16, patch_size=4, num_classes=4, dim=32, depth=2, num_heads=2, mlp_dim=64))
    step = TrainStep(net, CrossEntropy(), Adam(net.trainable_params(), np.full(1, 3e-3, np.float32)),
                     scale_loss=best == "float16")
    step.set_train()
    images = ms.Tensor(np.random.default_rng(0).normal(size=(8, 3, 16, 16)), ms.float32)
    labels, began = ms.Tensor(np.arange(8) % 4, ms.int32), time.perf_counter()
    losses = [float(step(images, labels)[0].asnumpy()) for _ in range(40)]
    took = time.perf_counter() - began
    told = f"a tiny ViT's loss from {losses[0]:.2f} to {losses[-1]:.2f} in 40 steps, {took:.0f} s"
    return told, "" if losses[-1] < losses[0] / 2 else "it doesn't learn; test the card and its driver"


def main(argv: list[str] | None = None) -> int:
    return cli.run(doctor, argv)


if __name__ == "__main__":
    sys.exit(main())
