"""The device at hand: choosing it, and what it can do."""

import os

from ms_vit.errors import UsageError

DEVICES = ("CPU", "GPU", "Ascend")


def use_device(device: str | None = None) -> str:
    """Makes MindSpore compile graphs for `device` (default: what it finds); returns the device's name."""
    import mindspore as ms  # only where it is used: download and check count cores without it

    if device is not None:
        names = {name.lower(): name for name in DEVICES}
        if device.lower() not in names:
            raise UsageError(f'no device "{device}"; there are {", ".join(DEVICES)}')
        device = names[device.lower()]
        try:
            ms.set_device(device)
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"MindSpore {ms.__version__} finds no {device} here; "
                             "leave --device out to take what it finds") from error
    ms.set_context(mode=ms.GRAPH_MODE)
    return ms.get_context("device_target")


def cpu_count() -> int:
    """Cores that this process may use; in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sink_size(device: str, steps: int, most: int) -> int:
    """How many of an epoch's `steps` a device takes on its own, the data coming to it meanwhile; 0 where it takes none.

    That is MindSpore's sink mode, which the CPU lacks. The host looks at what they came to after each such number, so
    it is at most `most`, and it divides `steps`.
    """
    if device == "CPU":
        return 0
    return max(size for size in range(1, min(steps, most) + 1) if steps % size == 0)
