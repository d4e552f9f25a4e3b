"""What is made once and kept: compiled graphs in the user's cache, exports beside the weights they are of.

Each is found by a hash of all that decides it, the state of our sources included, and what is half-made is never found.
"""

import ast
import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).parent
DIGITS = 64     # of a SHA-256 in hex


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

    kept = cache_folder() / "graphs" / hash_of(ms.__version__, what, sources())[:16]
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
        with contextlib.suppress(OSError):      # nothing was compiled, or another process was the first
            new.rename(kept)
        forget_all_but_newest(kept.parent)
    finally:
        ms.set_context(enable_compile_cache=False)
        shutil.rmtree(new, ignore_errors=True)


def forget_all_but_newest(folder: Path, keep: int = 32) -> None:
    """Those that killed runs left half-made go this way, too. Another process may be renaming or doing the same."""
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
