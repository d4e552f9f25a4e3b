"""torch.save's two containers (torch/serialization.py): a zip since PyTorch 1.6, a stream of pickles before."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from ms_vit import limits
from ms_vit.unpickling import Program
from ms_vit.weights.containers.torch_pickle import Storage, Tensor, unpickle
from ms_vit.weights.containers.weight_file import (
    BFLOAT16,
    BadFile,
    WeightFile,
    plain,
    printable,
    read_bytes,
    read_header,
)

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the first pickle of the stream
PROTOCOL = 1001
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")  # timm's order, then DeepSpeed's

Read = Callable[[Storage], np.ndarray]  # the bytes of a storage


def read_zip(path: Path, members: dict[str, zipfile.ZipInfo], archive: zipfile.ZipFile) -> WeightFile:
    """A zip with */data.pkl, which describes the tensors, and */data/KEY, a storage each."""
    (pickled,) = (name for name in members if name.endswith("/data.pkl") and name.count("/") == 1)
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise BadFile("is TorchScript, a program with weights in it; save the state dict of the model instead")
    if sum(info.file_size for info in members.values()) > path.stat().st_size:  # compressed, or on top of each other
        raise BadFile("is refused: it unpacks to more than its own size, and torch.save doesn't compress; "
                      "save it again")

    def opened(name: str) -> IO[bytes]:
        info = members[name]
        if info.CRC == 0:  # as written after torch.serialization.set_crc32_options(False)
            del info.CRC  # so zipfile doesn't check it
        return archive.open(info)

    def check(storage: Storage) -> None:
        info = members.get(f"{folder}data/{storage.key}")
        if info is None or info.file_size // storage.dtype.itemsize * storage.dtype.itemsize != storage.size:
            raise BadFile(f"is damaged: its storage {printable(storage.key)} is missing or of another size than it "
                          "says; download it again")

    def read(storage: Storage) -> np.ndarray:
        with opened(f"{folder}data/{storage.key}") as file:
            return read_bytes(file, members[f"{folder}data/{storage.key}"].file_size, f"storage {storage.key}")

    if f"{folder}byteorder" in members:
        with opened(f"{folder}byteorder") as file:
            if read_header(file) != b"little":
                raise BadFile("is written by a big-endian machine, which is not supported; save it as safetensors")
    with opened(pickled) as file:
        content = read_header(file)
    return select(unpickle(Program(content), check), read, path)


def is_stream(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read_stream(path: Path) -> WeightFile:
    """Pickles of a magic number, a version, the machine, the object and the storages' keys; then the storages."""
    storages: dict[str, Storage] = {}

    def check(storage: Storage) -> None:
        if storages.setdefault(storage.key, storage) != storage:
            raise BadFile(f"is damaged: it describes its storage {printable(storage.key)} in two ways; "
                          "download it again")

    with open(path, "rb") as file:
        stream = Program(file.read(limits.MAX_HEADER))
        stream.seek(len(MAGIC))
        version, _machine, loaded, keys = unpickle(stream), unpickle(stream), unpickle(stream, check), unpickle(stream)
        if version != PROTOCOL or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or \
                sorted(keys) != sorted(storages):
            raise BadFile("is damaged: its list of storages is another than its tensors need; download it again")
        starts = {}
        position = stream.tell()
        stream.close()  # a stream doesn't say how long its pickles are, so this one may hold megabytes of storages
        for key in keys:  # before each storage stands the number of its elements
            file.seek(position)
            count = int.from_bytes(file.read(8), "little")
            if count * storages[key].dtype.itemsize != storages[key].size:
                raise BadFile(f"is damaged or cut short at its storage {printable(key)}; download it again")
            starts[key] = position + 8
            position += 8 + storages[key].size
        if position > path.stat().st_size:
            raise BadFile(f"is cut short: its storages need {position:,} bytes; download it again")

        def read(storage: Storage) -> np.ndarray:
            file.seek(starts[storage.key])
            return read_bytes(file, storage.size, f"storage {storage.key}")

        return select(loaded, read, path)


def select(loaded: Any, read: Read, path: Path) -> WeightFile:
    """The weights in what a file's pickle made; only their storages are read, each of them once."""
    wrapper, tensors = unwrap(loaded)
    total = sum(tensor.count * (4 if tensor.dtype == BFLOAT16 else tensor.dtype.itemsize)
                for tensor in tensors.values())
    if total > (limit := max(limits.FREE_TORCH_BYTES, limits.MAX_TORCH_RATIO * path.stat().st_size)):
        raise BadFile(f"is refused: its tensors expand to more than {limit:,} bytes, which no weights of its size do")
    users: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        users.setdefault(tensor.storage.key, []).append(name)
    arrays: dict[str, np.ndarray] = {}
    for names in users.values():
        content = read(tensors[names[0]].storage)
        arrays |= {name: plain(tensors[name].view(content)) for name in names}
    return WeightFile({name: arrays[name] for name in tensors}, wrapper=wrapper)


def unwrap(loaded: Any) -> tuple[str | None, dict[str, Tensor]]:
    """The key below which a checkpoint keeps its weights (None: at the top), and the weights."""
    if not isinstance(loaded, dict):
        raise BadFile("holds no dictionary of tensors; save the state dict of the model")
    for wrapper in WRAPPERS:
        if isinstance(inner := loaded.get(wrapper), dict) and (tensors := named_tensors(inner)):
            return wrapper, tensors
    if tensors := named_tensors(loaded):
        return None, tensors
    keys = ", ".join(printable(key) for key in list(loaded)[:5])
    raise BadFile(f"holds no tensors where weights are kept; it has {keys or 'nothing'}; save the state dict alone")


def named_tensors(values: dict[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a dictionary, without the prefixes of DistributedDataParallel and torch.compile."""
    tensors: dict[str, Tensor] = {}
    for key, value in values.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            name = key
            for prefix in ("_orig_mod.", "module.", "_orig_mod."):  # either may wrap the other; timm's order
                name = name.removeprefix(prefix)
            if name in tensors:
                raise BadFile(f"holds {printable(name)} twice, with and without a prefix; save the state dict alone")
            tensors[name] = value
    return tensors
