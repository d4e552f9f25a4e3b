"""ms-vit check: read every image of a folder and report what is wrong with it."""

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ms_vit import cli
from ms_vit.data.folder import INFER
from ms_vit.data.labels import names_of
from ms_vit.data.stores import is_packed
from ms_vit.data.survey import (
    File,
    Problem,
    copies,
    copies_together,
    images_by_class,
    problems_of,
    save,
    splits_of,
    survey,
    survey_shards,
)
from ms_vit.errors import DataError
from ms_vit.progress import say

MAX_ROWS = 20  # classes that are listed one by one
MAX_PROBLEMS = 10  # of a kind, of which people are shown so many; the result and check.json hold all


@dataclass(frozen=True)
class Check:
    """What a folder holds and what is wrong with it.

    Args:
        ok: nothing is wrong.
        problems: what is, with paths relative to the folder.
        kinds: kind of problem -> how many there are.
        images: how many good ones there are in all.
        counts: split -> class folder -> good images; a flat folder's one split is "all".
        infer: good images to look at, in infer/.
        copies: images that are there before in the same class of the same split, byte for byte; no problem.
        seconds: what it took.
    """

    ok: bool
    problems: list[Problem]
    kinds: dict[str, int]
    images: int
    counts: dict[str, dict[str, int]]
    infer: int
    copies: int
    seconds: float

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1


def check(folder: Path, out: Path | None = None) -> Check:
    """Read every image of a folder and report what is wrong with it.

    Looked for are images that can't be read or that MindSpore can't decode, other files among them, empty classes,
    classes that one split has and another lacks, and the same image in two splits or under two labels. A folder that
    is packed is held to its checksums, as its images were read when they were packed.

    Args:
        folder: holds train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/, valid/), and maybe test/CLASS/IMAGE and
            infer/IMAGE; or CLASS/IMAGE at once.
        out: file for the result and a line on each file (default: check.json in the folder).
    """
    began = time.monotonic()
    splits = splits_of(folder)
    if not splits:
        raise DataError(f"{folder} has no train/, val/ or test/; give a folder that holds train/CLASS/IMAGE files, or "
                        "CLASS/IMAGE files")
    if any(is_packed(folder / place) for place in splits.values()):
        files: list[File] = []
        counts, problems = survey_shards(folder, splits)
    else:
        files = survey(folder, splits)
        counts = images_by_class(folder, splits, files)
        problems = problems_of(files, counts)
    infer = sum(file.split == INFER and bool(file.sha256) for file in files)
    result = Check(not problems, problems, dict(Counter(problem.kind for problem in problems)),
                   sum(sum(classes.values()) for classes in counts.values()) + infer, counts, infer,
                   copies_together(copies(files)), round(time.monotonic() - began, 3))
    report(folder, result)
    write(out or folder / "check.json", result, files, must=out is not None)
    return result


def report(folder: Path, result: Check) -> None:
    """Counts and problems for people."""
    for line in table(folder, result.counts):
        say(line)
    copies = f", {result.copies:,} of them further copies in their class" if result.copies else ""
    say(f"{result.images:,} images read in {result.seconds:.1f} s, {result.infer:,} of them in infer/{copies}")
    for kind, count in result.kinds.items():
        for problem in [problem for problem in result.problems if problem.kind == kind][:MAX_PROBLEMS]:
            say(f"  {problem.path}: {problem.text}")
        if count > MAX_PROBLEMS:
            say(f"  and {count - MAX_PROBLEMS:,} more: {kind}")
    count = len(result.problems)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.kinds.items())
    say(f"{count:,} problem{'s' if count > 1 else ''}: {kinds}" if count else "nothing is wrong")


def write(path: Path, result: Check, files: list[File], *, must: bool) -> None:
    """check.json. Raises DataError where it can't be written and `must` be; else that is only told."""
    summary = {key: value for key, value in vars(result).items() if key != "problems"}
    try:
        save(path, summary, result.problems, files)
    except OSError as error:
        text = f"can't write {path} ({(error.strerror or str(error)).lower()}); give another place with --out"
        if must:
            raise DataError(text) from error
        say(text)
    else:
        say(f"{path} tells of each file")


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
