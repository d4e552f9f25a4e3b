"""Format idx: MNIST's gzipped arrays of bytes (https://yann.lecun.com/exdb/mnist, "file formats")."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ms_vit.data.sets.archives import limit
from ms_vit.data.sets.cards import Card
from ms_vit.data.sets.sources.pngs import write_pngs
from ms_vit.errors import DataError

UBYTE = 0x08  # the type code of unsigned bytes, the only one that pixels and labels come in


def lay_out(files: list[Path], out: Path, card: Card) -> None:
    """Writes the files named train* to out/train and those named t10k* or test* to out/val, a PNG an image."""
    arrays = [(file, read(file)) for file in files]
    for split, prefixes in (("train", ("train",)), ("val", ("t10k", "test"))):
        parts = [(file, array) for file, array in arrays if file.name.startswith(prefixes)]
        images = [part for part in parts if part[1].ndim == 3]
        labels = [part for part in parts if part[1].ndim == 1]
        if len(images) != 1 or len(labels) != 1:
            raise DataError(f"{card.name} needs one idx file of images and one of labels named {prefixes[0]}*; "
                            f"it has {len(images)} and {len(labels)}")
        write_split(*images[0], *labels[0], out / split, card)


def write_split(images_file: Path, images: np.ndarray, labels_file: Path, labels: np.ndarray, split: Path,
                card: Card) -> None:
    if len(images) != len(labels):
        raise DataError(f"{images_file} has {len(images):,} images, {labels_file} has {len(labels):,} labels")
    if not images.size:
        raise DataError(f"{images_file} holds no pixels")
    if labels.max() >= len(card.class_ids):
        raise DataError(f"{labels_file} has label {labels.max()}; the card {card.name} names "
                        f"{len(card.class_ids)} classes")
    write_pngs(images, labels, card.class_ids, split)


def read(path: Path) -> np.ndarray:
    """The array of a gzipped idx file, uint8: [N, H, W] images or [N] labels.

    Raises DataError where the header, the length and the checksum don't agree; reads no more than the header says.
    """
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != bytes((0, 0, UBYTE)) or magic[3] not in (1, 3):
                raise DataError(f"{path} is no idx file of images or labels: it begins with {magic.hex() or 'nothing'}")
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise DataError(f"{path} is cut short in its header; download it again")
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
            wanted = math.prod(shape)
            if wanted > limit(path):
                raise DataError(f"{path} claims {wanted:,} bytes; more than {limit(path):,} can't be in a file of its "
                                "size; download it again")
            content = file.read(wanted)
            if len(content) < wanted or file.read(1):  # the read at the end also makes gzip check its CRC
                raise DataError(f"{path} doesn't hold the {wanted:,} bytes that its header tells; download it again")
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); download it again") from error
    return np.frombuffer(content, np.uint8).reshape(shape)
