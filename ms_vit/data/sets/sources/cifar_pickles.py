"""Format cifar-pickles: CIFAR-10's Python version (https://www.cs.toronto.edu/~kriz/cifar.html), pickles in a tar.gz.

They may make one kind of object, an array of bytes, by stand-ins of our own; see ms_vit/unpickling.py.
"""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ms_vit import limits, unpickling
from ms_vit.data.sets.archives import unpack
from ms_vit.data.sets.cards import Card
from ms_vit.data.sets.sources.pngs import write_pngs
from ms_vit.errors import DataError
from ms_vit.unpickling import Program, Refused

FOLDER = "cifar-10-batches-py"
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]}
SIDE = 32


def lay_out(files: list[Path], out: Path, card: Card) -> None:
    """Writes the five training batches to out/train and the test batch to out/val, a PNG an image.

    The one file is the tar.gz, or the folder of what it unpacks to.
    """
    folder, unpacked = files[0], out / ".unpacked"
    if not folder.is_dir():
        unpack(folder, unpacked)
        folder = unpacked / FOLDER
    for name in ("batches.meta", *SPLITS["train"], *SPLITS["val"]):
        if not (folder / name).is_file():
            raise DataError(f"{files[0]} has no {FOLDER}/{name}; is it the Python version of CIFAR-10?")
    names = load(folder / "batches.meta").get("label_names")
    if names != card.class_ids:
        raise DataError(f"{files[0]} names the classes {shorten(names)}, but its card {shorten(card.class_ids)}")
    for split, batches in SPLITS.items():
        parts = [read(folder / name, len(card.class_ids)) for name in batches]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        write_pngs(images, labels, card.class_ids, out / split)
    shutil.rmtree(unpacked, ignore_errors=True)     # where there was something to unpack


def read(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] uint8 and labels [N] of a batch. Raises DataError."""
    batch = load(path)
    data = batch.get("data")
    if not isinstance(data, Array) or data.array.ndim != 2 or data.array.shape[1] != 3 * SIDE * SIDE:
        raise DataError(f"{in_archive(path)} holds no array of {3 * SIDE * SIDE} bytes an image")
    rows = data.array
    labels = batch.get("labels")
    if not isinstance(labels, list) or len(labels) != len(rows):
        raise DataError(f"{in_archive(path)} doesn't hold one label for each of its {len(rows):,} images")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise DataError(f"{in_archive(path)} has labels outside 0..{classes - 1}")
    images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)  # each row is a red, a green and a blue plane
    return np.ascontiguousarray(images), np.array(labels)


def load(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2, its arrays as Array. Raises DataError for anything else."""
    if path.stat().st_size > limits.MAX_CIFAR_BYTES:
        raise DataError(f"{in_archive(path)} is too large for a batch of CIFAR-10 ({path.stat().st_size:,} bytes)")
    try:
        # Latin-1 takes each byte for a letter: Python 2 kept both text and pixels in strings of bytes.
        loaded = Unpickler(Program(path.read_bytes()), encoding="latin1").load()
    except Refused as error:
        raise DataError(f"{in_archive(path)} is refused: it asks for {shorten(str(error))}, "
                        "which no batch of CIFAR-10 needs") from error
    except Exception as error:  # a damaged pickle makes the machine that runs it raise nearly anything
        raise DataError(f"{in_archive(path)} is damaged ({type(error).__name__}); download it again") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{in_archive(path)} holds no dictionary")
    return loaded


class Dtype:
    """Stands in for numpy.dtype: unsigned bytes only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if code != "u1":
            raise Refused(f"numpy.dtype({code!r})" if isinstance(code, str) else "a numpy.dtype that has no name")


class Array:
    """Stands in for numpy.ndarray; `array` is made from the bytes and the shape that the pickle gives."""

    array = np.empty(0, np.uint8)

    def fill(self, state: Any) -> None:
        _version, shape, dtype, fortran, content = state
        if not isinstance(dtype, Dtype) or fortran or not isinstance(content, str):
            raise Refused("an array of something else than bytes")
        self.array = np.frombuffer(content.encode("latin1"), np.uint8).reshape(shape)


def reconstruct(cls: Any, shape: Any, code: Any) -> Array:
    """Stands in for numpy's _reconstruct: an empty array that the state fills."""
    if cls is not Array:
        raise Refused("an array of another class")
    return Array()


class Unpickler(unpickling.Unpickler):
    """Knows three names, and none of them leads into NumPy."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
    }

    def set_state(self, target: Any, state: Any) -> None:
        if isinstance(target, Array):       # a Dtype's state is byte order and the like: nothing that a byte has
            target.fill(state)


def in_archive(path: Path) -> str:
    """A batch in an error's line: where it lies in the archive, for what was unpacked is gone by then."""
    return f"{FOLDER}/{path.name}"


def shorten(names: Any) -> str:
    """Text or a list of it in an error's line; what else comes out of a pickle may print as gigabytes."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "that are no names"
    text = ", ".join(names)
    return text if len(text) <= 200 else f"{text[:200]}..."
