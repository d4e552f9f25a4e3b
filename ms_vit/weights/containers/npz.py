"""NumPy's .npz, a zip of .npy files (numpy.lib.format), as Google publishes ViTs: no pickles, no bombs."""

import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ms_vit import limits
from ms_vit.weights.containers.weight_file import (
    BFLOAT16,
    BadFile,
    WeightFile,
    count_of,
    plain,
    printable,
    read_bytes,
)

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, members: dict[str, zipfile.ZipInfo], archive: zipfile.ZipFile) -> WeightFile:
    """Every array of numbers; text beside them (a date, a comment) is left out."""
    limit = max(limits.FREE_NPZ_BYTES, limits.MAX_NPZ_RATIO * path.stat().st_size)
    if sum(info.file_size for info in members.values()) > limit:
        raise BadFile(f"is refused: it unpacks to more than {limit:,} bytes, which no weights of its size do")
    arrays = {}
    for member, info in members.items():
        if member.endswith(".npy"):
            name = member.removesuffix(".npy")
            with archive.open(info) as file:
                array = read_npy(file, info.file_size, printable(name))
            if array is not None:
                arrays[name] = array
    return WeightFile(arrays)


def read_npy(file: IO[bytes], size: int, name: str) -> np.ndarray | None:
    """The array in a .npy of `size` bytes; None where it is text. Raises BadFile."""
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = HEADERS[version](file)
    except (ValueError, KeyError) as error:
        raise BadFile(f"is damaged: {name} has no header of NumPy's; download it again") from error
    if dtype.kind in "US":
        return None
    if dtype.kind not in "biuf" and dtype != BFLOAT16:
        raise BadFile(f"is refused: {name} is an array of {dtype}, and weights are numbers; save it without pickles")
    if (wanted := count_of(shape, name) * dtype.itemsize) != size - file.tell():
        raise BadFile(f"is damaged: {name} has another size than its shape; download it again")
    content = read_bytes(file, wanted, name).view(dtype)
    return plain(content.reshape(shape, order="F" if fortran else "C"))
