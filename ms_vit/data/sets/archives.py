"""Unpacking archives from elsewhere: every member is checked before the first is written."""

import errno
import gzip
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ms_vit import limits
from ms_vit.errors import DataError
from ms_vit.progress import track

NOTES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
         tarfile.SOLARIS_XHDTYPE)
ZIP64 = 0xFFFF  # members by the end record of a zip that has so many or more
NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes in no encoding, ends of lines and paragraphs


@dataclass(frozen=True)
class Member:
    """What an archive says of one of its members; `kind` is "file", "folder" or what else it is."""

    name: str
    kind: str
    size: int


def unpack(archive: Path, out: Path) -> None:
    """Unpacks a zip, tar or tar.gz (told by its content) into the folder `out`.

    Raises DataError, before anything is written, where a member would land outside `out`, is a link or a device, or is
    there twice, and where the whole is absurdly larger than the archive or than the disk; and later where a member is
    cut short or fails its CRC. Files get this user's usual permissions, not the archive's.
    """
    read = reader_of(archive)
    try:
        members = list(read(archive, None))
        paths = checked(archive, members)
        wanted = sum(member.size for member in members)
        if wanted > (free := shutil.disk_usage(existing(out)).free):
            raise DataError(f"{archive} unpacks to {wanted:,} bytes and {out} has room for {free:,}; free some space")
        out.mkdir(parents=True, exist_ok=True)
        for folder in sorted({out.joinpath(*parts[:-1]) for parts in paths.values()}):
            folder.mkdir(parents=True, exist_ok=True)

        def write(member: Member, content: IO[bytes]) -> None:
            with open(out.joinpath(*paths[member.name]), "xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)

        for _ in track(read(archive, write), f"unpacking {archive.name}", "files", total=len(members)):
            pass
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes its reader raise nearly anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a position below 0
            raise
        raise DataError(f"{archive} is damaged ({reason(error)}); download it again") from error


Write = Callable[[Member, IO[bytes]], None]


def reader_of(archive: Path) -> Callable[[Path, Write | None], Iterator[Member]]:
    """What reads this archive: a function that goes through the members and hands each file's content to `write`."""
    with open(archive, "rb") as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return zip_members
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return tar_members
    raise DataError(f"{archive} is no zip, tar or tar.gz; look at what the server sent")


def zip_members(archive: Path, write: Write | None) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        # zipfile goes by the directory's length; a damaged entry in it can swallow those that follow.
        promised = zip_count(archive, opened)
        if promised not in (len(opened.infolist()), ZIP64):
            raise zipfile.BadZipFile(f"it has {len(opened.infolist()):,} of its {promised:,} members")
        for info in opened.infolist():
            name = info.orig_filename  # zipfile's own is cut at a NUL, and an honest archive has none
            plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
            kind = "folder" if name.endswith("/") else "file" if plain else "link or device"
            member = Member(name, kind, info.file_size)
            if write and kind == "file":
                with opened.open(info) as content:  # checks the CRC at the end
                    write(member, content)
            yield member


def zip_count(archive: Path, opened: zipfile.ZipFile) -> int:
    """The number of members by the end record (APPNOTE 4.3.16), which is the last thing in the file."""
    with open(archive, "rb") as file:
        file.seek(-22 - len(opened.comment), os.SEEK_END)
        return int.from_bytes(file.read(22)[10:12], "little")


def tar_members(archive: Path, write: Write | None) -> Iterator[Member]:
    with open(archive, "rb") as raw, gzip.open(raw) if raw.read(2) == b"\x1f\x8b" else raw as content:
        raw.seek(0)
        stream = Bounded(content, archive)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as opened:  # type: ignore[call-overload]
            for info in opened:
                if info.size > stream.limit:    # tarfile would look for its end in steps of 10 kB, for years
                    raise too_large(archive)
                # A sparse file can claim any size for a few bytes; archives of images have no use for them.
                plain = info.isreg() and not info.issparse()
                kind = "folder" if info.isdir() else "file" if plain else "link or device"
                member = Member(info.name, kind, info.size if kind == "file" else 0)
                extracted = opened.extractfile(info) if write and kind == "file" else None
                if write and extracted:
                    write(member, extracted)
                yield member
                opened.members.clear()  # else a million headers stay in memory
            while stream.read(1 << 20):  # gzip checks its CRC at the very end, after tar's last block
                pass
            # tarfile takes a damaged header, or the end of the file, for the end of the archive.
            if stream.written > opened.offset or stream.read_so_far < opened.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it has no end mark")


class Header(tarfile.TarInfo):
    """A tar's header. Those that only hold a name or notes are read into memory whole, so they must be short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        header = super().frombuf(buf, encoding, errors)
        if header.size > limits.MAX_TAR_NOTES and header.type in NOTES:
            raise tarfile.ReadError(f"a name or note of {header.size:,} bytes is too long")
        return header


class Bounded:
    """A stream that refuses to grow beyond what an archive of this size may hold.

    `read_so_far` counts its bytes, `written` those before the zeros at its end.
    """

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, archive: Path):
        self.stream = stream
        self.archive = archive
        self.limit = limit(archive)
        self.read_so_far = 0
        self.written = 0

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        if content := block.rstrip(b"\0"):
            self.written = self.read_so_far + len(content)
        self.read_so_far += len(block)
        if self.read_so_far > self.limit:
            raise too_large(self.archive)
        return block


def checked(archive: Path, members: Iterable[Member]) -> dict[str, tuple[str, ...]]:
    """Name -> parts of the path of every file. Raises DataError for a member that must not be written."""
    files: dict[str, tuple[str, ...]] = {}
    folders: set[tuple[str, ...]] = set()
    taken: set[tuple[str, ...]] = set()
    total = 0
    for member in members:
        if problem := refusal_of(member):
            raise DataError(f"{archive} is refused: its member {quoted(member.name)} {problem}")
        total += member.size
        if total > limit(archive):
            raise too_large(archive)
        parts = parts_of(member.name)
        folders |= {parts[:depth] for depth in range(1, len(parts) + (member.kind == "folder"))}
        if member.kind == "file":
            if parts in taken:
                raise DataError(f"{archive} is refused: its member {quoted(member.name)} is there twice")
            taken.add(parts)
            files[member.name] = parts
    for name, parts in files.items():
        if parts in folders:
            raise DataError(f"{archive} is refused: its member {quoted(name)} is a file and a folder")
    return files


def refusal_of(member: Member) -> str | None:
    """Why a member must not be written; None where it may."""
    name = member.name
    parts = parts_of(name)
    if member.kind not in ("file", "folder"):
        return "is a link or a device"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in parts:
        return "climbs out of its folder"
    if "\\" in name or any(unicodedata.category(letter) in NOT_IN_NAMES for letter in name):
        return "has a character that no file name should have"
    if member.kind == "file" and (not parts or name.endswith(("/", "/."))):
        return "has no file name"
    if any(len(part.encode()) > 255 for part in parts) or len(name.encode()) > limits.MAX_MEMBER_NAME:
        return "has a name that is too long"
    if len(parts) > limits.MAX_MEMBER_DEPTH:
        return "lies too deep"
    return "has an impossible size" if member.size < 0 else None


def parts_of(name: str) -> tuple[str, ...]:
    """A path's folders and its last part."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


def limit(archive: Path) -> int:
    return max(limits.FREE_ARCHIVE_BYTES, limits.MAX_ARCHIVE_RATIO * archive.stat().st_size)


def too_large(archive: Path) -> DataError:
    return DataError(f"{archive} is refused: it unpacks to more than {limit(archive):,} bytes, which no "
                     "archive of images of its size does")


def existing(path: Path) -> Path:
    """The nearest folder above (or at) a path that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def quoted(name: str) -> str:
    """A member's name fit for a line of text, whatever its maker put into it."""
    return repr(name if len(name) <= 100 else f"{name[:100]}...")


def reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
