"""safetensors (https://github.com/huggingface/safetensors): the length of a JSON header, the header, the tensors.

The library checks the header. The bytes are read here: its NumPy side knows no bfloat16, and maps the whole file.
"""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ms_vit import limits
from ms_vit.weights.containers.weight_file import (
    BFLOAT16,
    BadFile,
    WeightFile,
    parse_object,
    plain,
    printable,
    read_bytes,
)

DTYPES = {"BOOL": np.dtype(np.bool_), "BF16": BFLOAT16,
          **{f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}")
             for kind, sizes in {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}.items() for size in sizes}}


def is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def read_safetensors(path: Path) -> WeightFile:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > limits.MAX_HEADER:
            raise BadFile(f"is refused: its header claims {length:,} bytes, which no ViT needs; download it again")
        try:
            with safe_open(path, "numpy"):
                pass
        except SafetensorError as error:
            raise BadFile(f"is damaged or cut short ({printable(error)}); download it again") from error
        header = parse_object(file.read(length), "its header")
        metadata = header.pop("__metadata__", None) or {}
        arrays = {}
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise BadFile(f"holds {printable(name)} as {entry['dtype']}, which is not supported; "
                              "save it as F32 or BF16")
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            content = read_bytes(file, end - start, printable(name)).view(DTYPES[entry["dtype"]])
            arrays[name] = plain(content.reshape(entry["shape"]))
    return WeightFile(arrays, metadata=metadata)
