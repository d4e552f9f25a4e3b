"""What is made once and kept: compiled graphs in the user's cache, exports beside the weights they are of.

Each is found by a hash of all that decides it, the state of our sources included, and what is half-made is never found.
"""

import ast
import contextlib
import functools
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).parent
PLACE, GRAPH = "rank_*/graph_cache", "compile_cache_"      # MindSpore's, in compile_cache_path
DIGITS = 64     # of a SHA-256 in hex

one_at_a_time = threading.Lock()


def cache_folder() -> Path:
    """Where what can be made again is kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ms-vit"


@contextlib.contextmanager
def graph_cache(what: str) -> Iterator[None]:
    """Keeps the graph that is compiled first inside; the next time the same is asked for, it is only read.

    `what` names all that decides it, and which one of a run's graphs it is. Of several threads that come here one waits
    for the other, as no other graph may be compiled meanwhile; so it is not to be nested.

    MindSpore (2.10) reads compile_cache_path once: all graphs of a process are in one folder, told by their number in
    the process, and source files and parameters alone are compared. It would take a graph with another dropout or rate,
    or validation's in place of training's, for the same. So each `what`, with each state of our sources, has a folder
    of its own, whose graph is laid into the process's under the number that comes next, and alone.
    """
    import mindspore as ms

    with one_at_a_time:
        folder = folder_of_process()
        if folder is None:
            yield
            return
        kept = folder.parent / hash_of(ms.__version__, what, sources())[:16]
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
        try:
            with what_is_kept_is_right():
                number = next_number(folder)
                lay_out_graph(kept, folder, number)
                yield
            keep_graph(folder, number, kept)
            forget_all_but_newest(kept.parent)
        finally:
            ms.set_context(enable_compile_cache=False)
            shutil.rmtree(folder, ignore_errors=True)


def folder_of_process() -> Path | None:
    """Where MindSpore writes and reads graphs while this process lives; None where there can't be such."""
    try:
        ast.parse(Path(sys.argv[0]).read_text())    # MindSpore reads the program that was started, and stumbles over -c
        folder = path_of_process()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, SyntaxError):      # no such program; no home, or one that can't be written
        return None
    return folder


@functools.cache
def path_of_process() -> Path:
    """Its path, one for all of its life: the folder comes and goes with each graph. Raises OSError."""
    (graphs := cache_folder() / "graphs").mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="process-", dir=graphs))


@contextlib.contextmanager
def what_is_kept_is_right() -> Iterator[None]:
    """Inside, MindSpore compares no source files: it would read no graph after its first was in an empty folder."""
    name = "MS_DEV_FORCE_USE_COMPILE_CACHE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def next_number(folder: Path) -> int | None:
    """What MindSpore calls the next graph, told by one that is compiled to find that out; None where it can't write."""
    import mindspore as ms

    from ms_vit.cell import TopCell

    class Twice(TopCell):
        def construct(self, x):
            return x + x

    Twice().compile(ms.Tensor(0.0))
    numbers = [int(file.stem.removeprefix(GRAPH)) for file in folder.glob(f"{PLACE}/{GRAPH}*")]
    return max(numbers) + 1 if numbers else None


def lay_out_graph(kept: Path, folder: Path, number: int | None) -> None:
    """Has MindSpore find the kept graph, if there is one, under this number. It counts as new from now on."""
    with contextlib.suppress(OSError):      # there is none, or it is another user's
        os.utime(kept)
    for place in folder.glob(PLACE) if number is not None else ():
        for file in kept.glob("graph.*"):
            with contextlib.suppress(OSError):      # a file system without links: it is compiled
                os.link(file, place / f"{GRAPH}{number}{file.suffix}")


def keep_graph(folder: Path, number: int | None, kept: Path) -> None:
    """Moves what MindSpore has written under this number, if anything, to where it is found again."""
    new = kept.with_name(f"{kept.name}.{os.getpid()}")      # half a graph must not be found by the next run
    with contextlib.suppress(OSError):      # another process was the first
        for file in [] if kept.is_dir() else folder.glob(f"{PLACE}/{GRAPH}{number}.*"):
            new.mkdir(exist_ok=True)
            file.rename(new / f"graph{file.suffix}")
        new.rename(kept)
    shutil.rmtree(new, ignore_errors=True)


def forget_all_but_newest(folder: Path, keep: int = 32) -> None:
    """The newest were made or used last. Those that killed runs left half-made go this way, too.

    Another process may be renaming or doing the same.
    """
    made: list[tuple[float, Path]] = []
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            made.append((entry.stat().st_mtime, entry))
    for _, entry in sorted(made)[:-keep]:
        shutil.rmtree(entry, ignore_errors=True)


def sources(*packages: str) -> str:
    """The Python of these packages of ours, or of all."""
    files = (file for name in packages or ("",) for file in (PACKAGE / name).rglob("*.py"))
    return "\0".join(file.read_text(encoding="utf-8") for file in sorted(files))


def hash_of(*texts: str, arrays: dict[str, np.ndarray] | None = None) -> str:
    """SHA-256 of texts and arrays, in hex."""
    digest = hashlib.sha256("\0".join(texts).encode())
    for name, array in sorted((arrays or {}).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def seal(path: Path, key: str, envelope: bytes) -> None:
    """Appends to a kept file `envelope`, in which its format hides what follows, and the SHA-256 of `key` and the file.

    So whether it is what was kept under `key` shows in the file itself, wherever it is moved.
    """
    with path.open("ab") as file:
        file.write(envelope)
        file.flush()
        file.write(seal_of(np.memmap(path, mode="r"), key))


def is_sealed(path: Path, key: str) -> bool:
    """Whether a file is, to the last byte, what was sealed with `key`."""
    content = np.memmap(path, mode="r")
    return bytes(content[-DIGITS:]) == seal_of(content[:-DIGITS], key)


def seal_of(content: np.ndarray, key: str) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(content.data)
    return digest.hexdigest().encode()
