"""What the readers of all containers share: the result, the error, and bytes that become arrays."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ms_vit import limits

BFLOAT16 = np.dtype("V2")  # as ml_dtypes names it in a file; NumPy has no such number
CHUNK = 1 << 20  # bytes


class BadFile(Exception):
    """What is wrong with a weight file and what to do, to stand after the file's name in one line."""


@dataclass
class WeightFile:
    """The tensors of a weight file, and what it says about itself.

    `arrays` are C-ordered arrays of integers, bools, float16, float32 or float64, by their names in the file; bfloat16
    is widened to float32, which loses nothing. Tensors that share memory in a .pth share it here, so copy before you
    write to one. `wrapper` is the key below which a .pth holds them ("model", "state_dict_ema", ...), None where there
    is none. `metadata` is that of a safetensors file. `configs` holds the JSON files which describe a model in a folder
    of the layout of Hugging Face or timm: "config", "preprocessor_config".
    """

    arrays: dict[str, np.ndarray]
    wrapper: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_bytes(file: IO[bytes], size: int, what: str) -> np.ndarray:
    """The next `size` bytes as uint8; `what` is named where the file ends before. Check `size` before you ask."""
    content = np.empty(size, np.uint8)
    fill(content, file, what)
    return content


def fill(content: np.ndarray, file: IO[bytes], what: str) -> None:
    """Reads as many bytes as `content` holds into it."""
    rest = content.data
    while rest:
        block = file.read(min(CHUNK, len(rest)))
        if not block:
            raise BadFile(f"is cut short: it ends within {what}; download it again")
        rest[:len(block)] = block
        rest = rest[len(block):]


def plain(array: np.ndarray) -> np.ndarray:
    """The array in C order, of a type that NumPy can calculate with; itself where it is that already."""
    if array.dtype == BFLOAT16:  # the upper half of a float32
        wide = array.view(np.uint16).astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    if array.dtype == np.bool_:  # a damaged file may hold bytes other than 0 and 1
        return np.not_equal(array.view(np.uint8), 0, order="C")
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def count_of(shape: Any, what: str) -> int:
    """The number of elements of a shape that a file claims. Raises BadFile for what is no shape."""
    if not isinstance(shape, (list, tuple)) or len(shape) > limits.MAX_DIMS or \
            not all(type(length) is int and 0 <= length < 1 << 48 for length in shape):
        raise BadFile(f"is damaged: {what} has an impossible shape; download it again")
    count = 1
    for length in shape:
        count *= length
    return count


def parse_object(content: bytes, what: str) -> dict[str, Any]:
    """The object in a piece of JSON. Raises BadFile."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"is damaged: {what} is no valid JSON; download it again") from error
    if not isinstance(values, dict):
        raise BadFile(f"is damaged: {what} is no JSON object; download it again")
    return values


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BadFile, to stand after the file's name."""
    with open(path, "rb") as file:
        return parse_object(read_header(file), "it")


def read_header(file: IO[bytes]) -> bytes:
    """All the rest of a file or of a zip's member that must be small."""
    content = file.read(limits.MAX_HEADER + 1)
    if len(content) > limits.MAX_HEADER:
        raise BadFile(f"is refused: what describes its tensors takes more than {limits.MAX_HEADER:,} bytes, "
                      "which no ViT needs")
    return content


def printable(name: object) -> str:
    """Text from a file fit for a line, whatever its maker put into it."""
    text = str(name)
    return ascii(text if len(text) <= 100 else f"{text[:100]}...")[1:-1]
