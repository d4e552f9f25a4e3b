"""Files that are there whole or not at all."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ms_vit.errors import DataError


def write_whole(path: Path, text: str) -> None:
    """Writes a text beside its place (.NAME.part), flushes it to the disk and renames it. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    flush(part)
    part.replace(path)


def flush(path: Path) -> None:
    """Has a file's, or a folder's, content on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_one(folder: Path, busy: str) -> Iterator[None]:
    """Makes a folder and keeps others out who come by this, too; they get `busy` as a DataError."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems can't lock, and most people are alone
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(busy) from error
        yield
    finally:
        os.close(lock)
