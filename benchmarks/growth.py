"""How cost grows with the batch, the image, depth and width: python -m benchmarks.growth --help.

On each axis one size grows and the rest stays. Points too costly for the time or the memory at hand are skipped.
"""

import datetime
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.jobs import Job, Mode, chosen, vit
from benchmarks.measure import Entry, Row, available_bytes, measure
from benchmarks.report import RESULTS, machine, markdown, number, save, text
from ms_vit import cli
from ms_vit.errors import DataError
from ms_vit.progress import say
from ms_vit.reports.style import COLOURS, panels

CONTENDERS = ("ours", "timm")
ROUNDS = 3
ROUND_SECONDS = 0.3
MAX_STEP = 20.0             # seconds; a step expected to take longer is not tried
HEADER = ["axis", "contender", "value", "GFLOP a step", "images/s", "min - max", "GFLOP/s", "memory"]


@dataclass(frozen=True)
class Axis:
    """What grows, by which values, and the job for one."""

    title: str
    values: tuple[int, ...]
    job: Callable[[int, Mode], Job]


def small(batch: int, mode: Mode, *, dim: int = 192, depth: int = 6) -> Job:
    return Job(shape=vit(dim, depth, image_size=32, patch_size=4, num_classes=10), batch=batch, mode=mode)


def tiny(image_size: int, mode: Mode) -> Job:
    return Job(shape=vit(192, 12, image_size=image_size, patch_size=16, num_classes=1000), batch=8, mode=mode)


AXES = {
    "batch": Axis("batch (d192 x 6 layers, patch 4 at 32)", (1, 4, 16, 64, 256), small),
    "image": Axis("image side (ViT-Ti/16, batches of 8)", (32, 64, 128, 224, 384), tiny),
    "depth": Axis("depth (d192, patch 4 at 32, batches of 32)", (1, 2, 4, 8, 16),
                  lambda value, mode: small(32, mode, depth=value)),
    "width": Axis("width (6 layers, patch 4 at 32, batches of 32)", (64, 128, 192, 384, 768),
                  lambda value, mode: small(32, mode, dim=value)),
}


@dataclass(frozen=True)
class Point:
    """One value of an axis, measured."""

    axis: str
    value: int
    job: Job
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"flops": self.job.flops, "rows": [row.as_dict() for row in self.rows]}


@dataclass
class Growth:
    """Its three files are out/name.json, .md and .png."""

    out: Path
    name: str


def growth(mode: Mode = "train", axes: str = ",".join(AXES), minutes: float = 10, out: Path = RESULTS,
           name: str | None = None) -> Growth:
    """Time our ViT, and timm's beside it, as the batch, the image, the depth and the width grow; print a table.

    Args:
        mode: train or infer.
        axes: what grows, by commas - batch, image, depth, width.
        minutes: for all of it, shared out among the axes; points that no time is left for are skipped.
        out: folder of the results.
        name: of the results' files (default: growth-MODE-DATE).
    """
    names = chosen(axes, AXES, "axis")
    here, points, skipped, end = machine(), [], [], time.monotonic() + 60 * minutes
    for done, axis in enumerate(names):
        found, left = along(axis, mode, (end - time.monotonic()) / (len(names) - done))
        points += found
        skipped += left
    if not points:
        raise DataError(f"nothing could be timed: {skipped[0]}")

    table = [HEADER, *(line for axis in names for line in lines(axis, points))]
    notes = "\n".join(f"Skipped: {line}" for line in skipped)
    print("\n\n".join(filter(None, (text(table), notes))))
    name = name or f"growth-{mode}-{datetime.date.today()}"
    record = {"command": f"python -m benchmarks.growth --mode {mode} --axes {axes} --minutes {minutes:g}",
              "machine": here, "skipped": skipped, "points": [point.as_dict() for point in points]}
    save(out, name, record, "\n\n".join(filter(None, (markdown(table), notes))), chart(names, points))
    return Growth(out, name)


def along(axis: str, mode: Mode, seconds: float) -> tuple[list[Point], list[str]]:
    """Measures an axis's values, from the smallest on; returns the points, and a line about what is left out.

    Cost grows with the value: where one is too much, so are those after it.
    """
    points: list[Point] = []
    skipped: list[str] = []
    end, took = time.monotonic() + seconds, 0.0
    values = AXES[axis].values
    for index, value in enumerate(values):
        job, started = AXES[axis].job(value, mode), time.monotonic()
        reason = "no time is left for it" if started + took > end else too_much(points[-1], job) if points else None
        if reason:
            skipped.append(f"{axis} {', '.join(map(str, values[index:]))}: {reason}")
            say(skipped[-1])
            break
        rows, left_out = measure(job, [Entry(contender) for contender in CONTENDERS], rounds=ROUNDS,
                                 round_seconds=ROUND_SECONDS, title=f"{axis} {value}")
        skipped += [f"{axis} {value}: {line}" for line in left_out]
        if rows:
            points.append(Point(axis, value, job, rows))
        took = time.monotonic() - started
    return points, skipped


def too_much(last: Point, job: Job) -> str | None:
    """Why a job isn't tried, if time and memory grow no less than the FLOP count since the last point."""
    grown = job.flops / last.job.flops
    seconds = grown * max(max(row.seconds) for row in last.rows)
    if seconds > MAX_STEP:
        return f"a step would take about {seconds:.0f} s"
    needed, free = grown * sum(row.peak_bytes for row in last.rows), available_bytes()
    if needed > free:
        return f"it may need {needed / 2**30:.0f} GiB of memory, and {free / 2**30:.0f} are free"
    return None


def lines(axis: str, points: list[Point]) -> list[list[str]]:
    """An axis's rows of the table, one contender after the other."""
    found = [(row, point) for contender in CONTENDERS for point in points if point.axis == axis
             for row in point.rows if row.contender == contender]
    return [[axis, row.contender, str(point.value), number(row.flops / 1e9), number(row.images_per_second.median),
             f"{number(row.images_per_second.min)} - {number(row.images_per_second.max)}",
             number(row.gflops.median), f"{row.peak_bytes / 2**20:,.0f} MiB"] for row, point in found]


def chart(axes: list[str], points: list[Point]) -> Figure:
    """Images/s above and GFLOP/s below, against the FLOP count of a step; a column an axis, points by its values."""
    figure, every = panels(len(axes), rows=2, width=4.5, height=3.5)
    for plots, axis in zip(zip(every[:len(axes)], every[len(axes):], strict=True), axes, strict=True):
        for contender, colour in zip(CONTENDERS, COLOURS, strict=False):
            found = [(row, point) for point in points if point.axis == axis
                     for row in point.rows if row.contender == contender]
            for plot, speed in zip(plots, ("images_per_second", "gflops"), strict=True):
                spreads = [getattr(row, speed) for row, _ in found]
                heights, flops = [spread.median for spread in spreads], [row.flops / 1e9 for row, _ in found]
                whiskers = [[spread.median - spread.min for spread in spreads],
                            [spread.max - spread.median for spread in spreads]]
                plot.errorbar(flops, heights, whiskers, marker=".", capsize=2, color=colour, label=contender)
                for x, y, (_, point) in zip(flops, heights, found, strict=True):
                    plot.annotate(str(point.value), (x, y), xytext=(0, 5), textcoords="offset points", fontsize=7)
        above, below = plots
        above.set(title=AXES[axis].title, ylabel="images/s", yscale="log")
        below.set(xlabel="GFLOP a step", ylabel="GFLOP/s", ylim=(0, None))
        for plot in plots:
            plot.set_xscale("log")
            plot.legend(frameon=False)
    return figure


def main(argv: list[str] | None = None) -> int:
    return cli.run(growth, argv, prog="python -m benchmarks.growth")


if __name__ == "__main__":
    sys.exit(main())
