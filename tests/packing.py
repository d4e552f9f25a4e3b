"""Files for tests, written by hand with whatever a test asks for in them: archives, weight files, data sets, images.

And what is asked of every reader of files of strangers: `refusal`.
"""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ms_vit.data.sets.cards import Card
from ms_vit.errors import UserError, one_line

Content = bytes | str | Callable[[Path], Any]
HACK = "open('hacked', 'w')"    # what code in a file would do if it were run
MEMORY = 400_000_000            # bytes that a refusal may take at most; the largest input of a test has 2 MB


def refusal(read: Callable[[Path], Any], path: Path, error: type[UserError] = UserError) -> str:
    """The line that a reader answers a bad file with. It writes nothing beside the file and fills no memory."""
    folder = path if path.is_dir() else path.parent
    before, memory = sorted(folder.rglob("*")), peak_memory(reset=True)
    with pytest.raises(error) as caught:
        read(path)
    memory = peak_memory() - memory
    text = one_line(str(caught.value))
    assert text.isprintable() and len(text) < 2100 and memory < MEMORY, f"{memory:,} bytes: {text}"
    assert sorted(folder.rglob("*")) == before
    return text


def peak_memory(reset: bool = False) -> int:
    """Bytes of memory that this process has had at once since the last reset; 0 where the system doesn't tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return 0


# --------------------------------------------------------------------------------------------------------- any content

def cases(table: dict[str, tuple[Any, ...]]) -> list[Any]:
    """A table of name -> values as pytest's parameters, each called by its name."""
    return [pytest.param(*values, id=name) for name, values in table.items()]


def put(path: Path, content: Content) -> Path:
    """Bytes or text into a file, or a function that puts there what it likes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def written(write: Callable[[Path], Any]) -> bytes:
    """The bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")     # zipfile warns of what is meant here
        path = Path(folder) / "x"
        found = write(path)
        return (found if isinstance(found, Path) else path).read_bytes()


def sparse(header: bytes, size: int) -> Callable[[Path], None]:
    """A file that claims and seems to have a size, and takes no room on the disk."""
    def make(path: Path) -> None:
        path.write_bytes(header)
        os.truncate(path, size)
    return make


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content and len(old) == len(new)
    return content.replace(old, new)


# What lies where a file should be.
ODDITIES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda path: None, "a folder": Path.mkdir, "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"), "a loop": lambda path: path.symlink_to(path)}


# ------------------------------------------------------------------------------------------------------------ archives

def make_zip(path: Path, members: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# ------------------------------------------------------------------------------------------------ torch.save's files

TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    content = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name_of(path: str) -> bytes:
    module, name = path.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode()


def storage(key: str, count: int, kind: str = "torch.FloatStorage") -> bytes:
    return b"(" + text("storage") + name_of(kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(content: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    return (name_of("torch._utils._rebuild_tensor_v2") + b"(" + content + number(offset) + numbers(shape)
            + numbers(strides) + b"\x89" + name_of("collections.OrderedDict") + b")RtR")


def mapping(entries: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def pickled(content: bytes) -> bytes:
    return b"\x80\x02" + content + b"."


def write_zip(path: Path, content: bytes, storages: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled(content))
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_stream(path: Path, content: bytes, storages: dict[str, bytes], size: int = 4) -> Path:
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    data = b"".join(struct.pack("<q", len(data) // size) + data for data in storages.values())
    path.write_bytes(TORCH_MAGIC + pickled(number(1001)) + pickled(b"}") + pickled(content) + pickled(keys) + data)
    return path


# ------------------------------------------------------------------------------------------------ other weight files

def safetensors(header: Any, data: bytes, length: int | None = None) -> bytes:
    """A header of one's own, as JSON or as it is, whose length may be another than is told."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def terabyte(path: Path) -> None:
    """Weights as large as they say, which take no room on the disk."""
    header = safetensors({"w": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}, b"")
    sparse(header, len(header) + (1 << 40))(path)


def npy(data: bytes, **header: Any) -> bytes:
    """A .npy of six numbers, unless `header` says otherwise."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (6,)} | header)
    return buffer.getvalue() + data


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], **metadata: str) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + b"".join(data for *_, data in tensors.values()))
    return path


def varint(value: int) -> bytes:
    return (bytes([value & 0x7F | 0x80]) + varint(value >> 7)) if value > 0x7F else bytes([value])


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def write_ckpt(path: Path, tensors: list[tuple[str, str, list[int], bytes]], packed: bool = False) -> Path:
    def dims(shape: list[int]) -> bytes:
        return message(1, b"".join(map(varint, shape))) if packed else b"".join(b"\x08" + varint(n) for n in shape)

    path.write_bytes(b"".join(
        message(1, message(1, tag.encode()) + message(2, dims(shape) + message(2, kind.encode()) + message(3, data)))
        for tag, kind, shape, data in tensors))
    return path


# ----------------------------------------------------------------------------------------------------------- data sets

def idx_file(path: Path, array: np.ndarray, shape: tuple[int, ...] | None = None, type: int = 8) -> Path:
    shape = array.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, type, len(shape), *shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))
    return path


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did: strings of bytes."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(content)) + content)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[str] = dispatch[bytes] = save_text


def python2_pickle(path: Path, value: Any) -> Path:
    with open(path, "wb") as file:
        Python2Pickler(file, 2, fix_imports=False).dump(value)
    return path


def cifar(folder: Path, name: str = "data_batch_2", content: bytes | None = None, **changes: Any) -> Path:
    """A small archive like CIFAR-10's, one batch of it changed."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    python2_pickle(batches / "batches.meta", {"label_names": Card.load("cifar10").class_ids})
    for batch in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        value = {"data": np.full((2, 3072), 7, np.uint8), "labels": [0, 9]}
        python2_pickle(batches / batch, value | (changes if batch == name else {}))
    if content is not None:
        (batches / name).write_bytes(content)
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(batches, batches.name)
    return folder / "cifar.tar.gz"


def laughs(levels: int = 9) -> bytes:
    """Pickle: lists of ten times the list before; two hundred bytes that hold a billion entries."""
    deep = b"](]U\x03lola"
    for level in range(levels):
        deep += b"q" + bytes([level]) + b"](" + (b"h" + bytes([level])) * 10 + b"e"
    return deep + b"e"


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any):
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


# -------------------------------------------------------------------------------------------------------------- images

def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows: bytes, *, width: int = 4, height: int = 4, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG, grey unless `colour` is another type, of such rows, each led by the byte of its filter; `extra` chunks
    come before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
