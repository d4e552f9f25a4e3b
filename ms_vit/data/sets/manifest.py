"""SHA256SUMS: the hash of every file of a folder, in the format of `sha256sum -c`."""

import hashlib
import re
from pathlib import Path

from ms_vit.data.folder import files_in
from ms_vit.data.threads import parallel_map
from ms_vit.errors import DataError

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (?!/|(?:.*/)?\.\.(?:/|$))(.+)")     # of a file below the folder, and no other


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file's bytes in hexadecimal, by any of hashlib's algorithms."""
    hash = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hash.update(block)
    return hash.hexdigest()


def digest_or_none(path: Path) -> str | None:
    """The SHA-256 of a file; None where it isn't there, is none (a pipe or a device never ends) or can't be read."""
    try:
        return digest(path) if path.is_file() else None
    except OSError:
        return None


def write(folder: Path) -> int:
    """Writes folder/SHA256SUMS over every other file in it that isn't hidden; returns how many.

    Raises DataError where a file can't be read.
    """
    files = [file for file in files_in(folder) if file != folder / NAME]
    entries = {}
    for file, hash in zip(files, parallel_map(digest_or_none, files, f"hashing {folder.name}", "files"), strict=True):
        if hash is None:
            raise DataError(f"can't read {file}; see to its permissions")
        entries[file.relative_to(folder).as_posix()] = hash
    save(entries, folder / NAME)
    return len(files)


def verify(folder: Path) -> dict[str, str]:
    """What differs from folder/SHA256SUMS: relative path -> "is missing" or "has changed".

    Files that it doesn't list are fine. Raises DataError where the list itself is damaged.
    """
    entries = parse(folder / NAME)
    found = parallel_map(digest_or_none, [folder / name for name in entries], f"verifying {folder.name}", "files")
    return {name: "has changed" if (folder / name).exists() else "is missing"
            for (name, expected), hash in zip(entries.items(), found, strict=True) if hash != expected}


def differences(folder: Path) -> str:
    """The first of these in a line, for an error; "" where nothing differs."""
    problems = [f"{name} {what}" for name, what in verify(folder).items()]
    more = f" and {len(problems) - 3:,} more" if len(problems) > 3 else ""
    return ", ".join(problems[:3]) + more


def save(entries: dict[str, str], path: Path) -> None:
    """Relative path -> SHA-256 as lines of `sha256sum`."""
    path.write_text("".join(f"{hash}  {name}\n" for name, hash in entries.items()), encoding="utf-8")


def parse(path: Path) -> dict[str, str]:
    """Relative path -> SHA-256 by lines of `sha256sum`. Raises DataError for a line that is none."""
    entries = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged; delete what it belongs to and make it again") from error
    for number, line in enumerate(filter(None, lines), 1):
        if not (match := LINE.fullmatch(line)):
            raise DataError(f"{path} is damaged at line {number}; delete what it belongs to and make it again")
        entries[match[2]] = match[1]
    return entries
