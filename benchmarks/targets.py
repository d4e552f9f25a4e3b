"""What was aimed at, and what recorded comparisons came to: python -m benchmarks.targets --help.

The READMEs' tables of figures are this module's output; tests/test_benchmarks.py holds them against the results.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import MODELS, Job, Mode
from benchmarks.measure import Row, Spread
from benchmarks.report import filled, markdown, number, on
from ms_vit import cli
from ms_vit.errors import DataError
from ms_vit.writing import write_whole

FLOAT32 = ("timm",)                                     # whom to beat: eager, and
BFLOAT16 = ("timm-bf16", "timm-bf16-compiled")          # the better of these
OURS = {"ours": "MindSpore, float32", "ours-bf16": "MindSpore, bfloat16", "ours-openvino-bf16": "OpenVINO, bfloat16",
        "ours-openvino-int8": "OpenVINO, int8"}
MODE_WORDS = {"train": "training", "infer": "inference"}
OTHERS = ("torch", "timm", "openvino")                  # whose versions are told, besides the driver's
NOT_MEASURED = "not measured"
HEADER = ["ms-vit", "by", "images/s", "times timm's in float32", "aim", "times timm's in bfloat16", "aim"]
MEMORY_HEADER = ["peak memory", "in", "ms-vit, MiB", "timm, MiB", "ms-vit by timm", "aim"]


@dataclass(frozen=True)
class Target:
    """How many times as fast as timm a network of ours is to be.

    ours: by whom; of several, the fastest counts. float32: against eager float32. bfloat16: against the faster of
    bfloat16 autocast, eager and compiled. None where nothing is aimed at.
    """

    model: str
    mode: Mode
    ours: tuple[str, ...]
    float32: float
    bfloat16: float | None = None


@dataclass(frozen=True)
class Cell:
    """A table's text, and whether it is what was aimed at; None where it wasn't measured."""

    text: str
    met: bool | None


@dataclass(frozen=True)
class Result:
    """A recorded comparison: where and when it was made, and each job with its rows by contender."""

    path: Path
    machine: str
    jobs: list[tuple[Job, dict[str, Row]]]

    def rows(self, model: str, mode: Mode, names: tuple[str, ...]) -> list[Row]:
        """Of a model's job, the rows of these contenders; none where one is missing: it might have been the best."""
        job = Job(shape=MODELS[model].shape, batch=MODELS[model].batch, mode=mode)
        found = [rows[name] for of, rows in self.jobs if of == job for name in names if name in rows]
        return found if len(found) == len(names) else []

    def fastest(self, model: str, mode: Mode, names: tuple[str, ...]) -> Row | None:
        return max(self.rows(model, mode, names), key=lambda row: row.images_per_second.median, default=None)

    def leanest(self, model: str, names: tuple[str, ...]) -> Row | None:
        """In training."""
        return min(self.rows(model, "train", names), key=lambda row: row.peak_bytes, default=None)


TARGETS = [
    Target("ti", "train", ("ours-bf16",), 1.9, 1.25),
    Target("s", "train", ("ours-bf16",), 1.8, 1.2),
    Target("b", "train", ("ours-bf16",), 1.8, 1.15),
    Target("cifar", "train", ("ours-bf16",), 1.8, 1.1),
    Target("ti", "infer", ("ours-bf16",), 2.0, 1.3),
    Target("ti1", "infer", ("ours-bf16",), 1.4, 1.1),
    Target("ti", "infer", ("ours-bf16", "ours-openvino-bf16", "ours-openvino-int8"), 2.9, 1.9),
    Target("ti", "train", ("ours",), 1.1),
    Target("s", "train", ("ours",), 1.1),
    Target("ti", "infer", ("ours",), 1.1),
    Target("s", "infer", ("ours",), 1.1),
]
MEMORY = [(model, ours, theirs) for model in MODELS for ours, theirs in (("ours", FLOAT32), ("ours-bf16", BFLOAT16))]


@dataclass
class Page:
    """What was printed."""

    text: str


def targets(results: list[Path], readme: Sequence[Path] = ()) -> Page:
    """Set recorded comparisons against what was aimed at; print the tables.

    Args:
        results: .json files of `python -m benchmarks.compare`; of several, each has a line in a cell.
        readme: pages, between whose markers (<!-- targets: ... -->, <!-- end of targets -->) the tables are put.
    """
    page = tables([load(path) for path in results])
    print(page)
    files = " ".join(path.as_posix() for path in results)
    for file, text in filled(readme, "targets", page, files).items():
        write_whole(file, text)
    return Page(page)


def load(path: Path) -> Result:
    """Raises DataError where it is no result of benchmarks.compare."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        jobs = [(Job.from_dict(panel["job"]), {row["contender"]: Row.from_dict(row) for row in panel["rows"]})
                for panel in record["panels"]]
        versions = {name: row.versions[name].partition("-")[0] for _, rows in jobs for row in rows.values()
                    for name in OTHERS if name in row.versions}     # OpenVINO's goes on with its commit
        others = [f"{name} {version}" for name, version in versions.items()]
        return Result(path, ", ".join([on(record["machine"]), *others]), jobs)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no result of benchmarks.compare ({type(error).__name__}: {error}); give the .json "
                        "of one") from error


def tables(results: Sequence[Result]) -> str:
    """As markdown: where the results come from, speed, memory."""
    pages = "\n".join(f"- [{result.path.stem}]({result.path.with_suffix('.md').as_posix()}): {result.machine}"
                      for result in results)
    return "\n\n".join((pages, markdown([HEADER, *(speed(target, results) for target in TARGETS)]),
                        markdown([MEMORY_HEADER, *(memory(*each, results) for each in MEMORY)])))


def speed(target: Target, results: Sequence[Result]) -> list[str]:
    """A target's line."""
    ours = [result.fastest(target.model, target.mode, target.ours) for result in results]
    who = dict.fromkeys(OURS[row.contender] for row in ours if row)
    told = [title(target.model, target.mode),
            ("the fastest: " if len(target.ours) > 1 else "") + " or ".join(who or [OURS[target.ours[0]]]),
            lines(number(row.images_per_second.median) if row else NOT_MEASURED for row in ours)]
    for aim, theirs in ((target.float32, FLOAT32), (target.bfloat16, BFLOAT16)):
        if aim is None:
            told += ["", ""]
            continue
        cells = [times(row, result.fastest(target.model, target.mode, theirs), aim)
                 for row, result in zip(ours, results, strict=True)]
        told += [lines(cell.text for cell in cells), f">= {aim:g}{verdict(cells)}"]
    return told


def memory(model: str, ours: str, theirs: tuple[str, ...], results: Sequence[Result]) -> list[str]:
    """A line about training; the leanest of `theirs` counts, as the fastest does in speed."""
    pairs = [(result.leanest(model, (ours,)), result.leanest(model, theirs)) for result in results]
    cells = [Cell(f"{mine.peak_bytes / timms.peak_bytes:.2f}", mine.peak_bytes <= timms.peak_bytes)
             if mine and timms else Cell(NOT_MEASURED, None) for mine, timms in pairs]
    peaks = [lines(f"{row.peak_bytes / 2**20:,.0f}" if row else NOT_MEASURED for row in column)
             for column in zip(*pairs, strict=True)]
    return [title(model, "train"), OURS[ours].split(", ")[1], *peaks, lines(cell.text for cell in cells),
            f"<= 1{verdict(cells)}"]


def title(model: str, mode: Mode) -> str:
    return f"{MODELS[model].title}, {MODE_WORDS[mode]}, batches of {MODELS[model].batch}"


def lines(texts: Iterable[str]) -> str:
    """One for each result; what none of them has is said once."""
    texts = list(texts)
    return NOT_MEASURED if set(texts) == {NOT_MEASURED} else "<br>".join(texts)


def times(ours: Row | None, theirs: Row | None, aim: float) -> Cell:
    """Our median by theirs; in brackets the rounds in which that was least and most.

    An aim is met by what is measured, not by what it is rounded to.
    """
    if ours is None or theirs is None:
        return Cell(NOT_MEASURED, None)
    ratio = ours.images_per_second.median / theirs.images_per_second.median
    rounds = Spread.of(their / our for our, their in zip(ours.seconds, theirs.seconds, strict=True))
    return Cell(f"{ratio:.2f} ({rounds.min:.2f} - {rounds.max:.2f})", ratio >= aim)


def verdict(cells: Sequence[Cell]) -> str:
    """Of all results together."""
    met = [cell.met for cell in cells if cell.met is not None]
    if not met:
        return ""
    return ", met" if all(met) else ", missed" if not any(met) else f", met in {sum(met)} of {len(met)}"


def main(argv: list[str] | None = None) -> int:
    return cli.run(targets, argv, prog="python -m benchmarks.targets")


if __name__ == "__main__":
    sys.exit(main())
