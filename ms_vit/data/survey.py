"""A folder of images as a whole: every file in its place, and what is wrong between files, classes and splits."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ms_vit.data.folder import IMAGE_EXTENSIONS, INFER, SPLITS, class_folders, files_in, flat_classes
from ms_vit.data.inspection import Defect, inspect
from ms_vit.data.sets import manifest
from ms_vit.data.stores import PACK, is_packed, store_of

FLAT = "all"  # the one split of a folder of class folders
MAX_PLACES = 3  # in which a copied image is told to be, too


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or a class folder: its path below the folder, and a text that goes on from it.

    kind: of a file "zero bytes", "damaged", "too large", "wrong type", "stray", "unreadable" or "misplaced"; of what is
    packed "changed"; of a class "empty class", "missing class" or "wrong name"; of copies "in two splits" or
    "conflicting labels".
    """

    kind: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class File:
    """A file below the folder, with the split and class folder that it lies in.

    split: "infer", too, and "all" in a flat folder. label: None in infer/, or out of place.
    """

    path: str
    split: str
    label: str | None
    sha256: str | None
    defect: Defect | None

    def as_row(self) -> dict[str, str | None]:
        row = {"path": self.path, "split": self.split, "class": self.label, "sha256": self.sha256}
        return row | asdict(self.defect) if self.defect else row


def splits_of(folder: Path) -> dict[str, str]:
    """The labelled splits of a data folder, and where each lies below it; of a flat one {"all": ""}."""
    splits = {name: name for name in SPLITS if (folder / name).is_dir()}
    return splits or ({FLAT: ""} if folder.is_dir() and (is_packed(folder) or flat_classes(folder)) else {})


def survey(folder: Path, splits: dict[str, str]) -> list[File]:
    """Every file of the splits and of infer/ that isn't hidden, read to its end."""
    names = [str(path.relative_to(folder)) for path in listed(folder, splits)]
    inspections = inspect(folder, names, f"checking {folder}")
    flat = FLAT in splits
    return [placed(name, one.sha256, one.defect, flat) for name, one in zip(names, inspections, strict=True)]


def survey_shards(folder: Path, splits: dict[str, str]) -> tuple[dict[str, dict[str, int]], list[Problem]]:
    """Split -> class -> images of a packed folder, and which of its files aren't as they were written, to the byte."""
    differing = manifest.verify(folder)
    problems = [Problem("changed", path, f"{what}; bring back what was packed, or pack the folder again")
                for path, what in differing.items()]
    counts = {split: {name: len(images) for name, images in store_of(folder / place).images().items()}
              for split, place in splits.items() if str(Path(place, PACK)) not in differing}
    return counts, problems


def listed(folder: Path, splits: dict[str, str]) -> Iterator[Path]:
    """Class folders may be links, as MindSpore follows these; what is deeper in one may not.

    Beside the class folders of a flat folder may lie anything, of which only images are odd.
    """
    for split, place in splits.items():
        for entry in sorted((folder / place).iterdir()):
            if entry.name.startswith(".") or (split == FLAT and entry.name == INFER):
                continue
            if entry.is_dir():
                yield from files_in(entry)
            elif split != FLAT or entry.suffix.lower() in IMAGE_EXTENSIONS:
                yield entry
    if (folder / INFER).is_dir():
        yield from files_in(folder / INFER)


def placed(path: str, sha256: str | None, defect: Defect | None, flat: bool) -> File:
    parts = Path(path).parts
    split, inner = (FLAT, parts) if flat and parts[0] != INFER else (parts[0], parts[1:])
    label = None
    if split != INFER:
        if len(inner) == 2:
            label = inner[0]
        elif not defect:
            defect = Defect("misplaced", "lies in no class folder; move it into one" if len(inner) == 1 else
                          "lies deeper than its class folder; move it up into it")
    return File(path, split, label, sha256, defect)


def images_by_class(folder: Path, splits: dict[str, str], files: list[File]) -> dict[str, dict[str, int]]:
    """Split -> class folder -> good images."""
    counts = {split: {child.name: 0 for child in class_folders(folder / place) if split != FLAT or child.name != INFER}
              for split, place in splits.items()}
    for file in files:
        if file.label is not None and not file.defect:
            counts[file.split][file.label] += 1
    return counts


def problems_of(files: list[File], counts: dict[str, dict[str, int]]) -> list[Problem]:
    """Everything that is wrong: with files by themselves, with classes, and with copies."""
    faulty = {file.path: Problem(file.defect.kind, file.path, file.defect.text) for file in files if file.defect}
    odd = (problem for problem in odd_classes(counts) if problem.path not in faulty)
    return [*faulty.values(), *odd, *missing_classes(counts), *copies_apart(copies(files))]


def odd_classes(counts: dict[str, dict[str, int]]) -> Iterator[Problem]:
    """Class folders without a good image, or with a name that MindSpore can't take."""
    for split, classes in counts.items():
        for name, count in classes.items():
            path = name if split == FLAT else f"{split}/{name}"
            if not count:
                yield Problem("empty class", path, "is a class without a good image; add some or remove the folder")
            if name.encode(errors="replace").decode() != name:
                yield Problem("wrong name", path, "is a class whose name isn't UTF-8; rename it")


def missing_classes(counts: dict[str, dict[str, int]]) -> Iterator[Problem]:
    """Classes of train/ that another split lacks, and the other way round."""
    train = counts.get("train", {})
    for split, classes in counts.items():
        if split == "train" or not train:
            continue
        for name, count in classes.items():
            if name not in train:
                yield Problem("missing class", f"{split}/{name}",
                              f"is a class that train/ lacks ({count:,} images); remove it or add it to train/")
        for name, count in train.items():
            if name not in classes:
                yield Problem("missing class", f"{split}/{name}",
                              f"is not there, but train/{name} is ({count:,} images); add it to {split}/")


def copies(files: list[File]) -> list[list[File]]:
    """The good images of class folders that are there several times, byte for byte, as groups of one content."""
    first: dict[str, File] = {}
    groups: dict[str, list[File]] = {}
    for file in files:
        if file.sha256 and file.label is not None:
            other = first.setdefault(file.sha256, file)
            if other is not file:
                groups.setdefault(file.sha256, [other]).append(file)
    return list(groups.values())


def copies_apart(groups: list[list[File]]) -> Iterator[Problem]:
    """Images with two labels, which teach nonsense, and images in two splits, a score on which means nothing."""
    for one, *others in groups:
        places = ", ".join(file.path for file in others[:MAX_PLACES])
        if (more := len(others) - MAX_PLACES) > 0:
            places += f" and {more:,} more"
        if any(file.label != one.label for file in others):
            yield Problem("conflicting labels", one.path,
                          f"is the same image as {places}, under another label; keep it once, where it belongs")
        elif any(file.split != one.split for file in others):
            yield Problem("in two splits", one.path, f"is the same image as {places}; keep it in one split")


def copies_together(groups: list[list[File]]) -> int:
    """How many images are further copies of one in the same class of the same split; they do no harm."""
    return sum(len(group) - len({(file.split, file.label) for file in group}) for group in groups)


def save(path: Path, summary: dict[str, Any], problems: Iterable[Problem], files: Iterable[File]) -> None:
    """Everything as one JSON object, a line each of the summary's values, each problem and each file.

    Raises OSError, and leaves nothing half-written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="ascii") as out:
            out.write("{\n")
            out.writelines(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in summary.items())
            out.writelines(['"problems": ', *array(map(asdict, problems)), ",\n"])
            out.write('"files": ')
            out.writelines(array(file.as_row() for file in files))
            out.write("\n}\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def array(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A JSON array in pieces, a line a row."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(row)
        before = ",\n"
    yield "[]" if before == "[\n" else "\n]"
