"""What recipes came to, beside what others published: python -m benchmarks.accuracy --help.

The READMEs' table of accuracies, its chart, and "Expected:" in the headers of recipes are this module's output;
tests/test_benchmark_recipes.py holds them against the results of benchmarks.recipes.
"""

import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn.isotonic import isotonic_regression

from benchmarks.recipes import EVAL, METRICS, RECIPE, RECORD, Record
from benchmarks.report import RESULTS, filled, markdown, percent, spread, write
from ms_vit import cli
from ms_vit.data.corruptions import chosen
from ms_vit.data.operations import parse
from ms_vit.errors import DataError
from ms_vit.recipe import RECIPES, Recipe
from ms_vit.reports.style import COLOURS, panels, save
from ms_vit.runs.metrics import read_metrics
from ms_vit.writing import write_whole

PUBLISHED = Path(__file__).with_name("published.yaml")
SAME = ("options", "split", "checkpoint", "parameters")      # of the records of a recipe's seeds
CHART = "accuracy.png"
HEADER = ["recipe", "data, test images", "parameters", "epochs", "seeds", "test top-1, %", "top-5, %", "in", "minutes",
          "published"]
CORRUPTED_HEADER = ["recipe", "data", "seeds", "as they are, %", "under all 15, %", "under those trained with, %",
                    "under the others, %"]
OTHERS_HEADER = ["published", "data", "parameters", "epochs", "top-1, %", "top-5, %", "minutes", "source"]
# Okabe and Ito's colours, which the colour-blind tell apart; shapes tell them, too.
LOOKS = list(zip(COLOURS, "os^DvP", strict=False))


@dataclass(frozen=True)
class Run:
    """A folder of benchmarks.recipes. top1, top5: of the test images, from 0 to 1. epochs: those that were trained.

    corrupted: top-1 by corruption, the mean over its strengths, where that was scored. trained_with: corruptions that
    the training images had.
    """

    record: Record
    data: str
    images: int
    top1: float
    top5: float
    epochs: int
    corrupted: dict[str, float] = field(default_factory=dict)
    trained_with: tuple[str, ...] = ()

    def under(self, names: Collection[str]) -> float:
        """Mean top-1 under these corruptions."""
        return statistics.mean(self.corrupted[name] for name in names)


@dataclass(frozen=True)
class Published:
    """What others state, see published.yaml."""

    name: str
    data: str
    top1: float
    source: str
    top5: float | None = None
    epochs: int | None = None
    parameters: float | None = None
    minutes: float | None = None
    beside: tuple[str, ...] = ()

    def cells(self) -> list[str]:
        return [self.name, self.data, millions(self.parameters), str(self.epochs or ""), f"{self.top1:g}",
                f"{self.top5:g}" if self.top5 else "", f"{self.minutes:g}" if self.minutes else "", self.source]

    def __str__(self) -> str:
        top5 = f" / {self.top5:g}" if self.top5 else ""
        told = [f"{self.epochs} epochs" if self.epochs else "", millions(self.parameters) if self.parameters else ""]
        return f"{self.name} {self.top1:g}{top5}" + "".join(f", {each}" for each in told if each)


@dataclass(frozen=True)
class Row:
    """A recipe with all its seeds."""

    recipe: str
    runs: list[Run]

    @property
    def top1(self) -> list[float]:
        return [run.top1 for run in self.runs]

    @property
    def minutes(self) -> list[float]:
        return [run.record.seconds / 60 for run in self.runs]

    @property
    def precision(self) -> str:
        return self.told("precision")

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def called(self) -> str:
        """The recipe, and with which options."""
        options = self.told("options")
        return f"`{self.recipe}`" + (f" with `{options}`" if options else "")

    def told(self, key: str) -> str:
        """What the records say, once."""
        return " or ".join(dict.fromkeys(str(getattr(run.record, key)) for run in self.runs))

    def cells(self, others: Sequence[Published]) -> list[str]:
        run = self.first
        epochs = f"{run.epochs}, the {self.told('checkpoint').lower()}"
        return [self.called, f"{run.data}, {run.images:,} of {run.record.split}/", millions(run.record.parameters),
                epochs, str(len(self.runs)), percent(self.top1), percent([run.top5 for run in self.runs]),
                self.precision, spread(self.minutes, 1),
                "; ".join(str(other) for other in others if self.recipe in other.beside)]

    @property
    def expected(self) -> str:
        """What the recipe's header is to say."""
        machine = self.first.record.machine
        seeds = f"{len(self.runs)} seeds" if len(self.runs) > 1 else "1 seed"
        return (f"test top-1 {percent(self.top1)} % ({seeds}), {spread(self.minutes, 1)} min on "
                f"{machine['cores']} cores ({machine['cpu']}, {mindspore(machine)}, {self.precision}).")


@dataclass
class Page:
    """What was printed."""

    text: str


def accuracy(results: Path = RESULTS, readme: Sequence[Path] = (), recipes: Path = RECIPES) -> Page:
    """Print what recipes came to, and what their headers are to say; with --readme, write both, and the chart.

    Args:
        results: folder of what benchmarks.recipes kept.
        readme: pages, between whose markers (<!-- accuracy: ... -->, <!-- end of accuracy -->) the tables are put. The
            chart goes into the results' folder.
        recipes: folder of the recipes, in whose headers the line "# Expected: ..." is put.
    """
    rows, others = load(results), read_published()
    page = tables(rows, others)
    print(page)
    for row in rows:
        print(f"\n{row.recipe}: expected: {row.expected}")
    if readme:
        pages = filled(readme, "accuracy", page)
        headers = {file: text for row in rows if (file := recipes / f"{row.recipe}.yaml").is_file()
                   if (text := with_header(file, row.expected)) is not None}
        draw(results / CHART, points(rows, others))
        for file, text in (headers | pages).items():
            write_whole(file, text)
    return Page(page)


# --- what there is

def load(results: Path) -> list[Row]:
    """The recipes that have results, by data and name. Raises DataError where a folder holds something else."""
    found: dict[str, list[Run]] = {}
    for folder in sorted(results.iterdir() if results.is_dir() else [], key=seed_of):
        if folder.is_dir() and not folder.name.startswith("."):
            run = load_run(folder)
            found.setdefault(run.record.recipe, []).append(run)
    rows = [Row(recipe, runs) for recipe, runs in found.items()]
    for row in rows:
        if len({(run.data, run.images, run.epochs, *(getattr(run.record, key) for key in SAME))
                for run in row.runs}) > 1:
            raise DataError(f"the runs of {row.recipe} in {results} are not all of the same recipe and data; remove "
                            "those of the former")
    return sorted(rows, key=lambda row: (row.first.data, row.recipe))


def seed_of(folder: Path) -> tuple[str, int]:
    name, _, seed = folder.name.rpartition("-")
    return name, int(seed) if seed.isdigit() else -1


def load_run(folder: Path) -> Run:
    try:
        record = Record(**json.loads((folder / RECORD).read_text()))
        if folder.name != f"{record.recipe}-{record.seed}":
            raise ValueError(f"{RECORD} tells of {record.recipe}, seed {record.seed}")
        scored = json.loads((folder / EVAL).read_text())
        epochs = read_metrics(folder / METRICS)[1]
        return Run(record, scored["data"], scored["images"], scored["top1"], scored["top5"], epochs[-1]["epoch"],
                   scored.get("corrupted", {}).get("means", {}), trained_with(Recipe.load(folder / RECIPE)))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{folder} is no result of benchmarks.recipes ({type(error).__name__}: {error}); remove it, "
                        "and have it done again") from error


def trained_with(recipe: Recipe) -> tuple[str, ...]:
    """The corruptions that a recipe gives to training images."""
    return tuple(each.name for operation in map(parse, recipe.augment.train) if operation.name == "RandomCorruption"
                 for each in chosen(operation.given().get("names", "all")))


def read_published(file: Path = PUBLISHED) -> list[Published]:
    return [Published(**row | {"beside": tuple(row.get("beside", ()))}) for row in yaml.safe_load(file.read_text())]


# --- as text

def tables(rows: Sequence[Row], others: Sequence[Published]) -> str:
    """As markdown: ours, how they were made, and what others published on the same data."""
    if not rows:
        return "Nothing has been measured yet."
    ours = markdown([HEADER, *(row.cells(others) for row in rows)])
    same = [other for other in others if other.data in {row.first.data for row in rows}]
    theirs = markdown([OTHERS_HEADER, *(other.cells() for other in same)]) if same else ""
    bad = under_corruption(rows)
    return "\n\n".join(filter(None, [ours, "\n".join(made_on(rows)), theirs, markdown([CORRUPTED_HEADER, *bad]) if bad
                                     else ""]))


def under_corruption(rows: Sequence[Row]) -> list[list[str]]:
    """Cells of the runs that were scored so; a data set's are split by what any of its recipes was trained with."""
    scored = {row.called: runs for row in rows if (runs := [run for run in row.runs if run.corrupted])}
    cells = []
    for called, runs in scored.items():
        known = {name for others in scored.values() if others[0].data == runs[0].data
                 for name in others[0].trained_with}
        every = set(runs[0].corrupted)
        cells.append([called, runs[0].data, str(len(runs)), percent([run.top1 for run in runs]),
                      *(percent([run.under(names) for run in runs]) if names else ""
                        for names in (every, every & known, every - known if known else set()))])
    return cells


def made_on(rows: Sequence[Row]) -> list[str]:
    """A line for each machine and MindSpore."""
    machines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for run in row.runs:
            machine = run.record.machine
            told = f"{machine['cores']} cores of {machine['cpu']}, {mindspore(machine)}"
            machines.setdefault(told, []).append(machine)
    return [f"- {told}, {least_to_most(machine['date'][:10] for machine in found)}; load before "
            f"{least_to_most(machine['load'] for machine in found)}" for told, found in machines.items()]


def least_to_most(values: Iterable[Any]) -> str:
    found = sorted(values)
    return " to ".join(dict.fromkeys(map(str, (found[0], found[-1]))))


def millions(count: float | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,.0f}"


def mindspore(machine: dict[str, Any]) -> str:
    found = re.search(r"mindspore ([^,\s]+)", machine["driver"])
    return f"MindSpore {found[1]}" if found else "MindSpore"


def with_header(file: Path, expected: str) -> str:
    """A recipe's text with what it is to say as expected. Raises DataError where its header has no place for that."""
    text, places = re.subn(r"^# Expected: .*$", lambda _: f"# Expected: {expected}",
                           file.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    if not places:
        raise DataError(f'{file} has no line "# Expected: ..."; put one into its header')
    return text


# --- as a chart

@dataclass(frozen=True)
class Point:
    """top1: %, with its standard deviation where there are several seeds. minutes, epochs: None where not stated."""

    name: str
    data: str
    ours: bool
    top1: float
    sd: float
    minutes: float | None
    epochs: int | None


def points(rows: Sequence[Row], others: Sequence[Published]) -> list[Point]:
    """Ours, and what others published on the same data."""
    ours = [Point(row.recipe, row.first.data, True, round(100 * statistics.mean(row.top1), 2),
                  round(100 * statistics.stdev(row.top1), 2) if len(row.runs) > 1 else 0.0,
                  round(statistics.mean(row.minutes), 3), row.first.epochs) for row in rows]
    return ours + [Point(other.name, other.data, False, other.top1, 0.0, other.minutes, other.epochs)
                   for other in others if other.data in {point.data for point in ours}]


def draw(file: Path, shown: Sequence[Point]) -> None:
    """Top-1 against minutes of training, and against epochs; the PNG's Description holds the points as JSON."""
    figure, (left, right) = panels(2, width=6.5, height=6)
    looks = dict(zip(dict.fromkeys(point.data for point in shown), itertools.cycle(LOOKS), strict=False))
    for axes, key, unit in ((left, "minutes", "training, minutes (published ones: on whatever they had)"),
                            (right, "epochs", "training, epochs")):
        placed = [(getattr(point, key), point) for point in shown if getattr(point, key) is not None]
        for x, point in placed:
            colour, shape = looks[point.data]
            axes.errorbar(x, point.top1, yerr=point.sd or None, fmt=shape, color=colour, capsize=3, markersize=8,
                          markerfacecolor=colour if point.ours else "none")
        axes.set_xscale("log")
        axes.margins(0.08, 0.08)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"{unit}, logarithmic")
        axes.set_title("test top-1, %", loc="left", fontsize="medium")     # names are where an axis has its label
        name(axes, placed)
    entries = [Line2D([], [], color=colour, marker=shape, linestyle="", label=data, markersize=8)
               for data, (colour, shape) in looks.items()]
    entries += [Line2D([], [], color="#555555", marker="o", linestyle="", label=f"{who}, {fill}", markersize=8,
                       markerfacecolor="#555555" if fill == "filled" else "none")
                for who, fill in (("ms-vit", "filled"), ("published", "hollow"))]
    figure.legend(handles=entries, fontsize=8, loc="outside upper left", ncols=len(entries), frameon=False)
    told = json.dumps([asdict(point) for point in shown])
    write(file, lambda path: save(figure, path, metadata={"Description": told}, bbox_inches="tight"))


def name(axes: Axes, placed: Sequence[tuple[float, Point]]) -> None:
    """Names on both sides of the axes, with a line to each point, which is on that half of them."""
    low, high = axes.get_ylim()
    middle = math.sqrt(math.prod(axes.get_xlim()))             # of a logarithmic scale
    order = sorted(placed, key=lambda each: each[1].top1)
    for side, place in (("right", -0.15), ("left", 1.03)):
        beside = [(x, point) for x, point in order if (x > middle) == (side == "left")]
        heights = spread_out([(point.top1 - low) / (high - low) for _, point in beside], gap=0.036)
        for (x, point), height in zip(beside, heights, strict=True):
            axes.annotate(f"{point.name} {point.top1:g}", (x, point.top1), (place, height),
                          textcoords="axes fraction", ha=side, va="center", fontsize=8, annotation_clip=False,
                          fontweight="bold" if point.ours else "normal",
                          arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.5})


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights up to 1, moved as little as can be (in squares) so that no two are closer than `gap`.

    Less i gaps each, they must not fall, which is isotonic regression.
    """
    gaps = gap * np.arange(len(heights))
    return list(isotonic_regression(heights - gaps, y_max=1 - gaps[-1]) + gaps) if len(heights) else []


def main(argv: list[str] | None = None) -> int:
    return cli.run(accuracy, argv, prog="python -m benchmarks.accuracy")


if __name__ == "__main__":
    sys.exit(main())
