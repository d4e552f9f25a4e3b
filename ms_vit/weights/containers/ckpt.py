"""MindSpore's .ckpt: a protobuf message (mindspore/train/checkpoint.proto) of tags and tensors.

Read here, not by mindspore.load_checkpoint: that (2.10) takes whatever shape a file claims, whether or not its bytes
fill it, and twice the file's size in memory.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ms_vit import limits
from ms_vit.weights.containers.weight_file import (
    BFLOAT16,
    CHUNK,
    BadFile,
    WeightFile,
    count_of,
    fill,
    plain,
    printable,
)

DTYPES = {"Bool": np.dtype(np.bool_), "BFloat16": BFLOAT16,
          **{f"{kind}{8 * size}": np.dtype(f"<{code}{size}")
             for kind, code, sizes in (("Float", "f", (2, 4, 8)), ("Int", "i", (1, 2, 4, 8)),
                                       ("UInt", "u", (1, 2, 4, 8))) for size in sizes}}
CRC_MARK = b"crc_num"  # and ten bytes, the CRC-32 of all before, at the end of a file saved with crc_check=True
BROKEN = "is damaged, cut short or no MindSpore checkpoint; download it again"


@dataclass
class Entry:
    """A tensor in the file: its content may come in several slices, each a start and a length in bytes."""

    tag: str = ""
    shape: list[int] = field(default_factory=list)
    type: str = ""
    slices: list[tuple[int, int]] = field(default_factory=list)


def read_ckpt(path: Path) -> WeightFile:
    """Every tensor; text beside them and MindSpore's hash tables (MapParameter) are left out."""
    with open(path, "rb") as file:
        end = check_crc(file, path.stat().st_size)
        entries: dict[str, Entry] = {}
        last = Entry()
        for entry in values(file, end):
            if entry.type in ("", "str"):
                continue
            if entry.tag not in entries:
                entries[entry.tag] = last = entry
            # A tensor of more than 512 MB comes in slices, one after the other, each with the whole's shape.
            elif (entry.tag, entry.shape, entry.type) == (last.tag, last.shape, last.type):
                last.slices += entry.slices
            else:
                raise BadFile(f"is damaged: it holds {printable(entry.tag)} twice; download it again")
        return WeightFile({tag: read_entry(file, entry) for tag, entry in entries.items()})


def read_entry(file: IO[bytes], entry: Entry) -> np.ndarray:
    name = printable(entry.tag)
    if entry.type not in DTYPES:
        raise BadFile(f"holds {name} as {printable(entry.type)}, which is not supported; save it as float32")
    dtype = DTYPES[entry.type]
    size = sum(length for _, length in entry.slices)
    # MindSpore writes a scalar's shape as [0] in one version and as [] in another.
    shape = [] if entry.shape == [0] and size == dtype.itemsize else entry.shape
    if count_of(shape, name) * dtype.itemsize != size:
        raise BadFile(f"is damaged: {name} has another size than its shape; download it again")
    content = np.empty(size, np.uint8)
    filled = 0
    for start, length in entry.slices:
        file.seek(start)
        fill(content[filled:filled + length], file, name)
        filled += length
    return plain(content.view(dtype).reshape(shape))


def check_crc(file: IO[bytes], size: int) -> int:
    """Where the message ends: before the CRC, which is checked, or at the file's end."""
    start = max(size - len(CRC_MARK) - 10, 0)
    file.seek(start)
    tail = file.read()
    if not tail.startswith(CRC_MARK):
        return size
    file.seek(0)
    crc = 0
    for position in range(0, start, CHUNK):
        crc = zlib.crc32(file.read(min(CHUNK, start - position)), crc)
    if crc != int.from_bytes(tail[len(CRC_MARK):], "big"):
        raise BadFile("is damaged: its CRC is another than it says; download it again")
    return start


def values(file: IO[bytes], end: int) -> Iterator[Entry]:
    """Checkpoint.Value: 1 the tag, 2 a TensorProto. Other fields are skipped, as protobuf demands."""
    for number, start, length in fields(file, 0, end):
        if number == 1:
            entry = Entry()
            for inner, inner_start, inner_length in fields(file, start, start + length):
                if inner == 1:
                    entry.tag = text(file, inner_start, inner_length)
                elif inner == 2:
                    tensor(file, inner_start, inner_start + inner_length, entry)
            yield entry


def tensor(file: IO[bytes], start: int, end: int, entry: Entry) -> None:
    """TensorProto: 1 the dimensions, packed or one by one, 2 the type's name, 3 the content."""
    for number, at, length in fields(file, start, end):
        if number == 1 and length < 0:
            entry.shape.append(at)
        elif number == 1:
            file.seek(at)
            while file.tell() < at + length and len(entry.shape) <= limits.MAX_DIMS:
                entry.shape.append(varint(file))
        elif number == 2:
            entry.type = text(file, at, length)
        elif number == 3:
            entry.slices.append((at, length))
        if len(entry.shape) > limits.MAX_DIMS:
            raise BadFile(BROKEN)


def fields(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: number, start and length; or number, value and -1 for a number in the message itself."""
    for _ in range(limits.MAX_CKPT_FIELDS):
        if start == end:
            return
        file.seek(start)
        number, kind = divmod(varint(file), 8)
        if kind == 0:
            value = varint(file)
            start = file.tell()
            found = number, value, -1
        elif kind == 2:
            length = varint(file)
            found = number, file.tell(), length
            start = file.tell() + length
        else:
            raise BadFile(BROKEN)
        if start > end:
            raise BadFile(BROKEN)
        yield found
    raise BadFile(BROKEN)


def varint(file: IO[bytes]) -> int:
    """Seven bits a byte, the least first; the eighth says that there is more."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise BadFile(BROKEN)
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise BadFile(BROKEN)


def text(file: IO[bytes], start: int, length: int) -> str:
    if not 0 <= length <= limits.MAX_CKPT_TEXT:
        raise BadFile(BROKEN)
    file.seek(start)
    return file.read(length).decode()
