"""Format image-archive: an archive that holds train/ val/ infer/ as they should be, maybe below one top folder."""

import shutil
from pathlib import Path

from ms_vit.data.sets.archives import unpack
from ms_vit.data.sets.cards import Card
from ms_vit.errors import DataError

DEVKIT = "ILSVRC2012_devkit_t12"


def lay_out(files: list[Path], out: Path, card: Card) -> None:
    """Unpacks the archives into `out`, and ImageNet's devkit where one lies packed beside the splits.

    Raises DataError where an archive is bad or they hold no train/ or no val/.
    """
    for file in files:
        unpacked = out / ".unpacked"
        unpack(file, unpacked)
        for entry in sorted(top_of(unpacked).iterdir()):
            if (out / entry.name).exists():
                raise DataError(f"{file} holds {entry.name!r} as another file of {card.name} does; mend the card")
            if not entry.name.startswith((".", "__MACOSX")):
                entry.rename(out / entry.name)
        shutil.rmtree(unpacked)
    for split in ("train", "val"):
        if not (out / split).is_dir():
            raise DataError(f"{' and '.join(map(str, files))} should hold a folder {split}/, at the top or one folder "
                            "below; is it the right archive?")
    if (packed := out / f"{DEVKIT}.tar.gz").is_file():
        unpack_devkit(packed)


def top_of(unpacked: Path) -> Path:
    """The folder that holds the splits: `unpacked` itself, or the one folder in it that isn't a split."""
    folders = [entry for entry in unpacked.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))]
    if len(folders) == 1 and folders[0].name not in ("train", "val"):
        return folders[0]
    return unpacked


def unpack_devkit(packed: Path) -> None:
    """Unpacks the devkit to a folder of its name beside it, whether or not the tar has that top folder."""
    unpacked = packed.with_name(".devkit")
    unpack(packed, unpacked)
    inner = unpacked / DEVKIT
    (inner if inner.is_dir() else unpacked).rename(packed.with_name(DEVKIT))
    shutil.rmtree(unpacked, ignore_errors=True)
    packed.unlink()
