"""A folder of images as people have it: what of it trains a network, and what judges it."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ms_vit.data.folder import IMAGE_EXTENSIONS, class_folders, flat_classes
from ms_vit.data.stores import Store, is_packed, store_of
from ms_vit.errors import DataError

VALIDATION = ("val", "validation", "valid", "test")     # what is taken for val/, the first that is there
HOLDOUT = 0.2       # of each class, where nothing is there to validate on and the recipe says nothing


@dataclass(frozen=True)
class Split:
    """Images that belong together: those of `folder`, which holds one folder a class or is packed, or a part of them.

    part: "all", or of each class what is left to train on ("train") where a share of it is held out ("held out").
    share: of the images, that is held out; above 0 and below 1 for a part.
    flat: the folder is a whole data folder, in which infer/ and folders without an image are no classes.
    """

    folder: Path
    part: Literal["all", "train", "held out"] = "all"
    share: float = 0.0
    flat: bool = False

    def __str__(self) -> str:
        if self.part == "all":
            return str(self.folder)
        return f"{self.folder} ({percent(self.share) if self.part == 'held out' else percent(1 - self.share)})"

    def store(self) -> Store:
        """Where they lie, with those of the other parts."""
        return store_of(self.folder, flat=self.flat)

    def images(self) -> dict[str, list[Path]]:
        """Class -> its images in this split, sorted; a class without images has an empty list."""
        classes = self.store().images()
        if self.part == "all":
            return classes
        return {name: [file for file in files if (file in held) == (self.part == "held out")]
                for name, files in classes.items() for held in (held_out(files, self.share),)}


@dataclass(frozen=True)
class Layout:
    """What a data folder's images are for.

    train: what is trained on. val: what chooses the best epoch. final: what the best epoch is scored on once, at the
    end, where that is another than val; else None. said: lines for people about all that isn't as it seems.
    """

    train: Split
    val: Split
    final: Split | None = None
    said: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        """Every image of the layout that is a file of its own, once, in the order of its splits."""
        splits = [split for split in (self.train, self.val, self.final) if split and not is_packed(split.folder)]
        return [file for split in splits for files in split.images().values() for file in files]


def find_layout(folder: Path, holdout: float | None = None) -> Layout:
    """What trains and what validates of a data folder.

    That is train/ and val/ (else validation/, valid/ or test/). Where there is nothing to validate on, beside train/ or
    in a flat folder of class folders, `holdout` (0.2 where it is None) of each class of the training images is held
    out. Where there is, and `holdout` is given, so much of train/ is held out for choosing the best epoch, and val/ is
    for a final score.

    Raises DataError where the folder holds no such thing, or one class only.
    """
    train = folder / "train"
    validation = next((name for name in VALIDATION if (folder / name).is_dir()), None)
    if not train.is_dir():
        if validation:
            raise DataError(f"{folder} has {validation}/ and no train/; put images to train on into train/CLASS/, too")
        return flat_layout(folder, holdout or HOLDOUT)
    several(train, store_of(train).classes())
    said = []
    if validation not in (None, "val"):
        said.append(f"{folder} has no val/; {validation}/ is taken for it")
    if validation and holdout is None:
        return Layout(Split(train), Split(folder / validation), said=said)
    share = holdout or HOLDOUT
    if validation:
        said.append(f"{percent(share)} of each class of {train} is held out to choose the best epoch by, which is "
                    f"scored on {folder / validation} at the end")
    else:
        said.append(f"{folder} has no val/; {percent(share)} of each class of {train} is held out in its place "
                    "(data.holdout)")
    return Layout(Split(train, "train", share), Split(train, "held out", share),
                  Split(folder / validation) if validation else None, said)


def flat_layout(folder: Path, share: float) -> Layout:
    classes = store_of(folder, flat=True).classes() if folder.is_dir() else []
    if not classes:
        raise DataError(nothing_in(folder))
    several(folder, classes)
    said = [f"{folder} has no train/ and no val/, but class folders; {percent(share)} of each class is held out as val "
            "(data.holdout)"]
    return Layout(Split(folder, "train", share, flat=True), Split(folder, "held out", share, flat=True), None, said)


def find_split(folder: Path, name: str, holdout: float | None = None) -> tuple[Split, str]:
    """A split by its name, and a line for people about it, where it isn't folder/NAME; else "".

    "val" of a folder that has none is what training by `holdout` would validate on, "train" is what it would train on,
    and "all" is every image of a flat folder. Raises DataError as find_layout.
    """
    if name == "all" and not (folder / name).is_dir():
        return Split(folder, flat=True), ""
    if (folder / name).is_dir() or name not in ("train", "val"):
        return Split(folder / name), ""
    given = any((folder / each).is_dir() for each in VALIDATION)
    layout = find_layout(folder, None if given else holdout)
    split = layout.val if name == "val" else layout.train
    if split.part == "all":
        return split, layout.said[0]
    what = f"the {percent(split.share)} that training holds out" if name == "val" else \
        f"the {percent(1 - split.share)} that training doesn't hold out"
    return split, f"{folder} has no {name}/; {name} is {what} of each class of {split.folder}"


def held_out(files: list[Path], share: float) -> set[Path]:
    """Which images of one class are held out: those whose names' hashes, as numbers from 0 to 1, are below `share`.

    So an image stays where it is, whatever comes or goes beside it. Of two images and more one at least is on either
    side: the one with the smallest hash is held out, and the one with the largest is not, whatever they are. A single
    one isn't held out.
    """
    if len(files) < 2:
        return set()
    numbers = {file: number_of(file) for file in files}
    held = {file for file, number in numbers.items() if number < share}
    return (held | {min(files, key=numbers.__getitem__)}) - {max(files, key=numbers.__getitem__)}


def number_of(file: Path) -> float:
    """A number from 0 to below 1 that follows from CLASS/NAME, evenly spread."""
    name = os.fsencode(f"{file.parent.name}/{file.name}")
    return int.from_bytes(hashlib.sha256(name).digest()[:6], "big") / 2**48


def several(folder: Path, classes: list[str]) -> None:
    """Raises DataError where there is no class, or one only."""
    if not classes:
        raise DataError(f"{folder} has no class folders; put each class's images into a folder of their own")
    if len(classes) == 1:
        inner = folder / classes[0]
        deeper = inner.is_dir() and any(flat_classes(inner))
        hint = f"; did you mean {inner}?" if deeper else "; a classifier needs two or more"
        raise DataError(f'{folder} has one class only, "{classes[0]}"{hint}')


def nothing_in(folder: Path) -> str:
    """Why a folder is no data folder, and what to do."""
    if not folder.is_dir():
        return f"{folder} is not there; give a folder that holds train/CLASS/IMAGE files, or CLASS/IMAGE files"
    if any(file.suffix.lower() in IMAGE_EXTENSIONS for file in folder.iterdir()):
        return f"{folder} holds images in no class folders; put each class's images into a folder of their own"
    deeper = next((child for child in class_folders(folder) if flat_classes(child)), None)
    hint = f"; did you mean {deeper}?" if deeper else " (" + ", ".join(IMAGE_EXTENSIONS) + ")"
    return f"{folder} has no train/, and no class folders with images{hint}"


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"
