"""ms-vit pack: a folder of images becomes a few large files, from which training reads the same pixels."""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_vit import cli, signals
from ms_vit.data.labels import META
from ms_vit.data.sets import manifest
from ms_vit.data.stores import SHARD, ClassFolders, is_packed, store_of
from ms_vit.data.survey import FLAT, splits_of
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say
from ms_vit.writing import only_one

BESIDE = (Path("card.yaml"), META)      # what tells the names of a folder's classes


@dataclass(frozen=True)
class Packing:
    """A packed folder.

    Args:
        folder: where it is.
        images: how many are in it.
        left_out: how many were left out because they can't be read.
        shards: how many MindRecord files hold them.
        new: False where it was there already, and was verified.
        seconds: what it took.
    """

    folder: Path
    images: int
    left_out: int
    shards: int
    new: bool
    seconds: float


@signals.caught()        # MindSpore's threads, which begin when it is imported, inherit that
def pack(folder: Path, out: Path | None = None, shard_mb: int = 256,
         bad_images: Literal["strict", "skip"] = "strict") -> Packing:
    """Pack a folder of images into MindRecord shards, for disks that are slow with a million files.

    The result is a data folder as any: give it to train by --data.name, to eval by --data. Its batches are the folder's
    to the bit. Each image is read to its last pixel before it is packed; infer/ stays where it is. Interrupted, the
    same command goes on; once the result is there, it only verifies that.

    Args:
        folder: holds train/CLASS/IMAGE and val/CLASS/IMAGE (or the like), or CLASS/IMAGE at once.
        out: the folder to make (default: FOLDER-packed).
        shard_mb: megabytes of images in a shard, about.
        bad_images: strict stops at an image that can't be read, skip leaves out all such.
    """
    began = time.monotonic()
    cli.at_least_one(shard_mb=shard_mb)
    splits = splits_of(folder)
    if not splits:
        raise DataError(f"{folder} has no train/, val/ or test/; give a folder that holds train/CLASS/IMAGE files, or "
                        "CLASS/IMAGE files")
    if any(is_packed(folder / place) for place in splits.values()):
        raise UsageError(f"{folder} is packed already; give a folder of images")
    out = out or folder.with_name(f"{folder.resolve().name}-packed")
    left_out, new = 0, not out.exists()
    if new:
        part = out.with_name(f".{out.name}.part")
        with only_one(part, f"another process packs {folder} into {out}; wait for it, or give another --out"):
            left_out = make(folder, splits, part, shard_bytes=shard_mb * 1_000_000, skip=bad_images == "skip")
            os.rename(part, out)
    else:
        verify(out)
    stores = [store_of(out / place) for place in splits.values()]
    images = sum(len(store.names) for store in stores)
    shards = sum(len(list((out / place).glob(f"*{SHARD}"))) for place in splits.values())
    say(f"{out}: {images:,} images in {shards:,} shards, {'packed' if new else 'verified'}"
        + (f"; {left_out:,} left out because they can't be read" if left_out else ""))
    return Packing(out, images, left_out, shards, new, round(time.monotonic() - began, 3))


def make(folder: Path, splits: dict[str, str], part: Path, *, shard_bytes: int, skip: bool) -> int:
    """Packs every split into `part`, or goes on with that; returns how many images were left out."""
    from ms_vit.data.packing import pack_split, tidy

    left_out = 0
    for split, place in splits.items():
        packed, missing = pack_split(ClassFolders(folder / place, flat=split == FLAT), part / place,
                                     shard_bytes=shard_bytes, skip=skip)
        if not packed:
            raise DataError(f"{folder / place} has no image that can be packed; replace or remove it")
        left_out += missing
    for place in splits.values():
        tidy(part / place)
    for name in BESIDE:
        if (folder / name).is_file():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, part / name)
    manifest.write(part)
    return left_out


def verify(folder: Path) -> None:
    """Raises DataError unless `folder` is a packed one, unchanged."""
    if not (folder / manifest.NAME).is_file():
        raise DataError(f"{folder} is there and wasn't made by ms-vit pack; move it away, or give another --out")
    if differences := manifest.differences(folder):
        raise DataError(f"{folder} is not as it was packed: {differences}; remove it and pack again")


def main(argv: list[str] | None = None) -> int:
    return cli.run(pack, argv)


if __name__ == "__main__":
    sys.exit(main())
