"""The device at hand: choosing it, and what it can do."""

import ast
import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

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


def amp_level(level: str, device: str) -> str:
    """What "auto" mixed precision means on a device: float16 where it is fast."""
    if level != "auto":
        return level
    return "O2" if device == "Ascend" else "O0"


def cache_folder() -> Path:
    """Where what can be made again is kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ms-vit"


@contextlib.contextmanager
def graph_cache(what: str) -> Iterator[None]:
    """Keeps the graphs that are compiled inside; the next time the same are asked for, they are only read.

    `what` names all that decides them, and which one of a run's graphs it is. MindSpore compares source files and
    parameters alone, and tells a process's graphs by their order: it would take a graph with another dropout or rate,
    or validation's in place of training's, for the same. So each `what`, with each state of our sources, has a folder.
    """
    import mindspore as ms

    sources = sorted(Path(__file__).parent.rglob("*.py"))
    key = hashlib.sha256("\0".join([ms.__version__, what, *(file.read_text() for file in sources)]).encode())
    kept = cache_folder() / "graphs" / key.hexdigest()[:16]
    # Half a graph must not be found by the next run: what is new takes its place when all of it is there.
    new = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        ast.parse(Path(sys.argv[0]).read_text())    # MindSpore reads the program that was started, and stumbles over -c
        (kept if kept.is_dir() else new).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, SyntaxError):      # no such program; no home, or one that can't be written
        yield
        return
    ms.set_context(enable_compile_cache=True, compile_cache_path=str(kept if kept.is_dir() else new))
    try:
        yield
        if new.is_dir() and not kept.is_dir():
            new.rename(kept)
        forget_all_but_newest(kept.parent)
    finally:
        ms.set_context(enable_compile_cache=False)
        shutil.rmtree(new, ignore_errors=True)


def forget_all_but_newest(folder: Path, keep: int = 32) -> None:
    """Those that killed runs left half-made go this way, too."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)[:-keep]:
        shutil.rmtree(entry, ignore_errors=True)
