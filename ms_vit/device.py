"""The device at hand: choosing it, and what it can do."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ms_vit.errors import UsageError
from ms_vit.progress import warn

DEVICES = ("CPU", "GPU", "Ascend")
CARDS = {"Ascend": "/dev/davinci[0-9]*", "GPU": "/dev/nvidia[0-9]*"}       # files of the drivers
PLUGINS = {"Ascend": "libmindspore_ascend", "GPU": "libmindspore_gpu"}
REMEDIES = {
    "Ascend": "source CANN's set_env.sh first (the scripts do), with a CANN that this MindSpore asks for",
    "GPU": "MindSpore takes CUDA 11.6 or 11.8, with nvcc in $CUDA_HOME/bin and its libraries in LD_LIBRARY_PATH (the "
           "scripts see to both)",
}


def use_device(device: str | None = None, *, deterministic: bool = False) -> str:
    """Makes MindSpore compile graphs for `device` (default: what it finds); returns the device's name.

    device: CPU, GPU or Ascend, or one of several cards, as in Ascend:3. deterministic: has GPU and Ascend give the same
    bits in every run, as the CPU does; that costs speed. A card that is there and isn't used without being asked is
    told. Raises UsageError where MindSpore doesn't find the device, with its own reason.
    """
    import mindspore as ms  # only where it is used: download and check count cores without it

    ms.set_context(mode=ms.GRAPH_MODE)
    if device is None:
        used = ms.get_context("device_target")
        for kind, reason in unused_cards(used).items():
            warn(f"{cards(kind)} is there, and MindSpore works on the CPU: {reason}. For {kind}: {REMEDIES[kind]}")
    else:
        used, number = parse(device)
        try:
            if number is not None or used != ms.get_context("device_target"):       # else it is in use, maybe for long
                ms.set_device(used, *(() if number is None else (number,)))
        except (RuntimeError, ValueError) as error:
            reason = reason_of(used, str(error))
            raise UsageError(f"MindSpore {ms.__version__} finds no {device} here{f': {reason}' if reason else ''}; "
                             + (f"{REMEDIES[used]}, or " if used in REMEDIES else "")
                             + "leave --device out to take what it finds") from error
    if deterministic and used != "CPU":
        ms.set_deterministic(True)
    return used


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Has MindSpore run operation by operation inside: for what is done a few times, compiling takes longer."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=before)


def parse(device: str) -> tuple[str, int | None]:
    """Ascend:3 -> Ascend, 3; without a number whichever is MindSpore's, for a launcher gives one. Raises UsageError."""
    name, colon, number = device.partition(":")
    names = {name.lower(): name for name in DEVICES}
    if name.lower() not in names:
        raise UsageError(f'no device "{device}"; there are {", ".join(DEVICES)}')
    if colon and not number.isdecimal():
        raise UsageError(f'no device "{device}"; which card is a number from 0, as in {names[name.lower()]}:0')
    return names[name.lower()], int(number) if number else None


def unused_cards(used: str) -> dict[str, str]:
    """Kinds of cards whose drivers are here, where MindSpore works on the CPU all the same, and its reason."""
    if used != "CPU":
        return {}
    return {kind: why_not(kind) for kind in CARDS if cards(kind)}


def cards(device: str) -> str:
    """The files of a kind's driver, one for each card, in words; empty where there is none."""
    return ", ".join(sorted(glob.glob(CARDS[device])))


def why_not(device: str) -> str:
    """Why MindSpore doesn't find a device, in its own words and one line; empty where it does."""
    import mindspore as ms

    before = ms.get_context("device_target")
    try:
        ms.set_context(device_target=device)
    except (RuntimeError, ValueError) as error:
        return reason_of(device, str(error)) or {"GPU": "no nvcc answers"}.get(device, "it tells no reason")
    ms.set_context(device_target=before)
    return ""


def reason_of(device: str, error: str) -> str:
    """What an error of MindSpore says on the loading of its plugin for a device, in one line; else nothing."""
    plugin = PLUGINS.get(device, "no plugin")
    found = re.findall(rf"Load dynamic library: ({plugin}\S*) failed\. *(.+)", error)
    return "; ".join(f"{name}: {why.strip()}" for name, why in found)


def chip() -> str:
    """Which Ascend this is, in CANN's words, lower case: "ascend910" is the first, "ascend910b" its successor (A2)."""
    from mindspore._c_expression import MSContext  # mindspore.hal doesn't tell

    return MSContext.get_instance().get_ascend_soc_version()


def toolkit() -> str:
    """The version of CANN or CUDA that is here, as their files tell; empty where there is none."""
    files = [(os.environ.get("ASCEND_HOME_PATH"), "**/ascend_toolkit_install.info", r"^version=(\S+)", "CANN"),
             (os.environ.get("CUDA_HOME"), "version.json", r'"cuda" *: *{[^}]*"version" *: *"([\d.]+)"', "CUDA")]
    for home, pattern, version, name in files:
        for file in sorted(Path(home).glob(pattern)) if home else ():
            if found := re.search(version, file.read_text(errors="replace"), re.MULTILINE):
                return f"{name} {found[1]}"
    return ""


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
