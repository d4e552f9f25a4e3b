"""ms-vit check: read every image of a folder and report what is wrong with it."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ms_vit import cli
from ms_vit.data.folder import SPLITS, class_folders, files_in
from ms_vit.data.inspection import Seen, inspect
from ms_vit.data.labels import names_of
from ms_vit.errors import DataError
from ms_vit.progress import say

MAX_ROWS = 20  # classes that are listed one by one
MAX_PROBLEMS = 20  # of which people are shown so many; the result holds all


@dataclass(frozen=True)
class Check:
    """What a folder holds and what is wrong with it.

    Args:
        ok: nothing is wrong.
        problems: what is, a line each, paths relative to the folder.
        images: how many good ones there are in all.
        counts: split -> class folder -> good images.
        infer: good images to look at, in infer/.
        seconds: what it took.
    """

    ok: bool
    problems: list[str]
    images: int
    counts: dict[str, dict[str, int]]
    infer: int
    seconds: float

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1


def check(folder: Path) -> Check:
    """Read every image of a folder and report what is wrong with it.

    Looked for are images that can't be read or that MindSpore can't decode, other files among them, empty classes,
    classes that one split has and another lacks, and the same image in two splits.

    Args:
        folder: holds train/CLASS/IMAGE and val/CLASS/IMAGE, and maybe test/CLASS/IMAGE and infer/IMAGE.
    """
    began = time.monotonic()
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    if not splits:
        raise DataError(f"{folder} has no train/, val/ or test/; give a folder that holds train/CLASS/IMAGE files")
    paths = [path for name in (*splits, "infer") for path in files_in(folder / name)]
    seen = list(inspect(paths, f"checking {folder}"))

    good = [image for image in seen if image.problem is None]
    counts = {name: {child.name: 0 for child in class_folders(folder / name)} for name in splits}
    problems = [f"{image.path.relative_to(folder)}: {image.problem}" for image in seen if image.problem]
    infer = 0
    for image in good:
        split, *inner = image.path.relative_to(folder).parts
        if split == "infer":
            infer += 1
        elif len(inner) == 2:
            counts[split][inner[0]] += 1
        elif len(inner) > 2:
            problems.append(f"{split}/{'/'.join(inner)}: lies deeper than its class folder; move it up into it")
        else:
            problems.append(f"{split}/{inner[0]}: lies in no class folder; move it into one")
    problems += empty_classes(counts) + mismatches(counts) + duplicates(folder, good)
    result = Check(not problems, problems, len(good), counts, infer, round(time.monotonic() - began, 3))
    report(folder, result)
    return result


def empty_classes(counts: dict[str, dict[str, int]]) -> list[str]:
    return [f"{split}/{name}: is a class without a readable image; add some or remove the folder"
            for split, classes in counts.items() for name, count in classes.items() if not count]


def mismatches(counts: dict[str, dict[str, int]]) -> list[str]:
    """Classes of train that another split lacks, and the other way round."""
    problems = []
    train = counts.get("train", {})
    for split, classes in counts.items():
        if split == "train" or not train:
            continue
        problems += [f'{split}/ has a class that train/ lacks: "{name}" ({count:,} images); remove it or add it to '
                     "train/" for name, count in classes.items() if name not in train]
        problems += [f'{split}/ lacks a class of train/: "{name}" ({count:,} images there); add it to {split}/'
                     for name, count in train.items() if name not in classes]
    return problems


def duplicates(folder: Path, good: list[Seen]) -> list[str]:
    """Images of one split that another has, too, byte for byte: a score on them means nothing."""
    first: dict[str, Path] = {}
    problems = []
    for image in good:
        path = image.path.relative_to(folder)
        if path.parts[0] == "infer":
            continue
        other = first.setdefault(image.hash, path)
        if other.parts[0] != path.parts[0]:
            problems.append(f"{path}: is the same image as {other}; keep it in one split")
    return problems


def report(folder: Path, result: Check) -> None:
    """Counts and problems for people."""
    for line in table(folder, result.counts):
        say(line)
    say(f"{result.images:,} images read in {result.seconds:.1f} s, {result.infer:,} of them in infer/")
    for problem in result.problems[:MAX_PROBLEMS]:
        say(f"  {problem}")
    if (more := len(result.problems) - MAX_PROBLEMS) > 0:
        say(f"  and {more:,} more; --json lists them all")
    count = len(result.problems)
    say(f"{count:,} problem{'s' if count > 1 else ''}" if count else "nothing is wrong")


def table(folder: Path, counts: dict[str, dict[str, int]]) -> list[str]:
    """Images by class and split, aligned; totals and extremes alone where there are many classes."""
    ids = sorted(set().union(*counts.values()))
    names = names_of(folder)
    rows = [["class", *counts]]
    if len(ids) <= MAX_ROWS:
        for id in ids:
            title = f"{id} {names[id]}" if names.get(id, id) != id else id
            rows.append([title, *(f"{classes[id]:,}" if id in classes else "-" for classes in counts.values())])
    else:
        for title, pick in (("fewest in a class", min), ("most in a class", max)):
            rows.append([title, *(f"{pick(classes.values(), default=0):,}" for classes in counts.values())])
    rows.append([f"all {len(ids):,} classes", *(f"{sum(classes.values()):,}" for classes in counts.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) if column else cell.ljust(width)
                      for column, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]


def main(argv: list[str] | None = None) -> int:
    return cli.run(check, argv)


if __name__ == "__main__":
    sys.exit(main())
