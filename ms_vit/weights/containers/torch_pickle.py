"""What torch.save pickles, read without PyTorch: dictionaries, lists, text, numbers and tensors, by stand-ins.

The machine is ms_vit/unpickling.py's; it knows the names below, and each leads to a stand-in of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_vit import unpickling
from ms_vit.weights.containers.weight_file import BFLOAT16, BadFile, count_of, printable

DTYPES = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "bfloat16": BFLOAT16,
          "int8": np.dtype("<i1"), "int16": np.dtype("<i2"), "int32": np.dtype("<i4"), "int64": np.dtype("<i8"),
          "uint8": np.dtype("<u1"), "bool": np.dtype(np.bool_)}
STORAGES = {"HalfStorage": "float16", "FloatStorage": "float32", "DoubleStorage": "float64",
            "BFloat16Storage": "bfloat16", "CharStorage": "int8", "ShortStorage": "int16", "IntStorage": "int32",
            "LongStorage": "int64", "ByteStorage": "uint8", "BoolStorage": "bool"}


@dataclass(frozen=True)
class Storage:
    """A piece of memory that tensors look into: `size` bytes, kept in the file under `key`."""

    key: str
    dtype: np.dtype[Any]
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; `offset` and `strides` count elements of `dtype`, and `count` is how many it has."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    count: int

    def view(self, content: np.ndarray) -> np.ndarray:
        """The tensor's array, a view of `content`, the bytes of its storage."""
        elements = content[:content.size // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
        if not self.count:
            return np.empty(self.shape, self.dtype)
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(elements[self.offset:], self.shape, steps)


Check = Callable[[Storage], None]  # raises BadFile


class Nothing:
    """Stands in for what training leaves beside the weights: arguments, metrics, devices."""

    def __init__(self, *args: Any):
        pass


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = None, _hooks: Any = None,
                   flags: Any = None) -> Tensor:
    """Stands in for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    if flags:
        raise BadFile("is refused: it marks a tensor as conjugate or negative, which weights never are")
    return rebuild_tensor_as(storage, offset, shape, strides, storage.dtype if isinstance(storage, Storage) else None)


def rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
                      *_metadata: Any) -> Tensor:
    """Stands in for torch._utils._rebuild_tensor_v3, whose storage doesn't know the type of its elements."""
    return rebuild_tensor_as(storage, offset, shape, strides, dtype)


def rebuild_tensor_as(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any) -> Tensor:
    """A tensor that stays within its storage. Raises BadFile."""
    count = count_of(shape, "a tensor")
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype) or not isinstance(strides, tuple) or \
            len(strides) != len(shape) or not all(type(number) is int and number >= 0 for number in (offset, *strides)):
        raise BadFile("is damaged: a tensor in it is made of something else than a storage; download it again")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if count and last >= storage.size // dtype.itemsize:
        raise BadFile(f"is damaged: a tensor reaches beyond its storage {printable(storage.key)}; download it again")
    return Tensor(storage, dtype, offset, tuple(shape), strides, count)


def rebuild_parameter(data: Any, _grad: Any, _hooks: Any) -> Any:
    """Stands in for torch._utils._rebuild_parameter."""
    return data


def make_size(lengths: Any) -> tuple[Any, ...]:
    """Stands in for torch.Size."""
    return tuple(lengths)


KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch", "Size"): make_size,
    ("torch", "device"): Nothing,
    ("collections", "OrderedDict"): unpickling.Mapping,
    ("argparse", "Namespace"): Nothing,
    ("numpy.core.multiarray", "scalar"): Nothing,
    ("numpy._core.multiarray", "scalar"): Nothing,
    ("numpy", "dtype"): Nothing,
    ("_codecs", "encode"): Nothing,  # how the bytes of a NumPy number are pickled
    ("torch.storage", "UntypedStorage"): DTYPES["uint8"],
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{("torch", name): DTYPES[dtype] for name, dtype in STORAGES.items()},
}
class Unpickler(unpickling.Unpickler):
    """Reads one pickle; `check` compares each storage with the file, and a pickle without it may have none."""

    known = KNOWN

    def __init__(self, stream: unpickling.Program, check: Check | None):
        super().__init__(stream, encoding="latin1")  # text of Python 2
        self.check = check

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or any(view) or \
                type(count) is not int or count < 0 or self.check is None:
            raise BadFile("is damaged: it describes a storage in a way that torch.save does not; download it again")
        storage = Storage(key, dtype, count * dtype.itemsize)
        self.check(storage)
        return storage


def unpickle(stream: unpickling.Program, check: Check | None = None) -> Any:
    """The object of the next pickle in a stream. Raises BadFile."""
    try:
        return Unpickler(stream, check).load()
    except BadFile:
        raise
    except unpickling.Refused as error:
        raise BadFile(f"is refused: it asks for {printable(str(error))}, which no weights need; save the state dict "
                      "alone, or as safetensors") from error
    except KeyError as error:  # the machine's table has no such instruction
        raise BadFile("is damaged, or pickled in another protocol than torch.save's own (2); save it again") from error
    except Exception as error:  # a damaged pickle makes the machine that runs it raise nearly anything
        raise BadFile(f"is damaged: its pickle can't be read ({type(error).__name__}); download it again") from error
