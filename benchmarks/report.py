"""What was measured, for people: tables, a chart, and a JSON file with every sample."""

import datetime
import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.contenders import cores
from benchmarks.jobs import Job
from benchmarks.measure import Row
from ms_vit.errors import DataError
from ms_vit.reports import style
from ms_vit.runs.folder import versions

RESULTS = Path(__file__).parent / "results"
HEADER = ["contender", "on", "images/s", "min - max", "ours is", "GFLOP/s", "of sgemm", "first step", "memory"]


@dataclass
class Panel:
    """One job's rows; `left_out` has a line for each contender without one."""

    title: str
    job: Job
    rows: list[Row]
    left_out: list[str]

    @property
    def peak(self) -> float | None:
        """GFLOP/s of the faster sgemm's median; None where none ran."""
        return max((row.gflops.median for row in self.rows if not row.images), default=None)

    @property
    def ours(self) -> float | None:
        """Images/s of our median."""
        return next((row.images_per_second.median for row in self.rows if row.contender == "ours"), None)

    @property
    def headline(self) -> str:
        parameters = sorted({row.parameters for row in self.rows if row.images})
        return (f"{self.title}, {self.job.mode}, batches of {self.job.batch}: "
                f"{number(self.job.flops / self.job.batch / 1e9)} GFLOP an image, "
                f"{' or '.join(f'{count:,}' for count in parameters)} parameters"
                + (f", sgemm {self.peak:.0f} GFLOP/s" if self.peak else ""))

    @property
    def notes(self) -> list[str]:
        return [f"Without {line}" for line in self.left_out]

    def table(self) -> list[list[str]]:
        return [HEADER, *(self.line(row) for row in self.rows)]

    def line(self, row: Row) -> list[str]:
        speed, gflops = row.images_per_second, row.gflops.median
        return [row.contender, row.framework,
                number(speed.median) if row.images else "",
                f"{number(speed.min)} - {number(speed.max)}" if row.images else "",
                f"{self.ours / speed.median:.2f} x" if row.images and self.ours else "",
                number(gflops), f"{100 * gflops / self.peak:.0f} %" if self.peak else "",
                f"{row.first_step:.1f} s", f"{row.peak_bytes / 2**20:,.0f} MiB"]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"rows": [row.as_dict() for row in self.rows], "flops": self.job.flops,
                               "sgemm_gflops": self.peak}


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def text(rows: list[list[str]]) -> str:
    """A table in columns: the first two to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) if column > 1 else cell.ljust(width) for column, (cell, width)
                               in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows)


def markdown(rows: list[list[str]]) -> str:
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    rule = [":--", ":--", *["--:"] * (len(header) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *body))


def percent(shares: Sequence[float]) -> str:
    return spread([100 * share for share in shares], 2)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; of one value, that."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def around(page: Path, what: str) -> tuple[str, tuple[str, str], str]:
    """What stands in a page before its markers, <!-- WHAT: ... --> and <!-- end of WHAT -->; what the first one names,
    and what stands between them; what stands after.

    Raises DataError where there are no markers.
    """
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {what}: (.*?) -->\n(.*?)\n<!-- end of {what} -->", text, re.DOTALL)
    if not found:
        raise DataError(f'{page} has no lines "<!-- {what}: -->" and "<!-- end of {what} -->"; put them where the '
                        "tables are to stand")
    return text[:found.start()], (found[1], found[2]), text[found.end():]


def filled(pages: Iterable[Path], what: str, between: str, named: str | None = None) -> dict[Path, str]:
    """The text of each page with this between its markers; `named` in the first of them, else what it names.

    Raises DataError where a page has no markers.
    """
    texts = {}
    for page in pages:
        before, (names, _), after = around(page, what)
        texts[page] = f"{before}<!-- {what}: {named or names} -->\n{between}\n<!-- end of {what} -->{after}"
    return texts


def machine() -> dict[str, Any]:
    """Where and when. `load` is the machine's load average over the last minute: near 0 on a quiet one."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in (cpuinfo.read_text() if cpuinfo.is_file() else "").splitlines()
              if line.startswith("model name")]
    return {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "cpu": models[0] if models else platform.processor(), "cores": cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": platform.platform(), "load": round(os.getloadavg()[0], 2), "driver": versions()}


def on(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    return (f"{machine['date']}, {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
            f"load {machine['load']} before; {machine['driver']}")


def chart(jobs: list[Panel]) -> Figure:
    """Images/s as bars, one panel a job, with whiskers from the slowest round to the fastest."""
    columns = 2 if len(jobs) > 1 else 1
    figure, every = style.panels(columns, rows=-(-len(jobs) // columns), width=6.5, height=2.8)
    for axes, panel in zip(every, jobs, strict=False):
        rows = [row for row in reversed(panel.rows) if row.images]
        speeds = [row.images_per_second for row in rows]
        whiskers = [[speed.median - speed.min for speed in speeds], [speed.max - speed.median for speed in speeds]]
        names = [f"{row.contender}\n{row.framework}" for row in rows]
        axes.barh(range(len(rows)), [speed.median for speed in speeds], xerr=whiskers, capsize=3,
                  color=[style.COLOURS[0] if row.contender.startswith("ours") else style.COLOURS[5] for row in rows])
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        axes.set_title(f"{panel.title}, {panel.job.mode}, batches of {panel.job.batch}", fontsize=9)
        axes.set_xlabel("images/s", fontsize=8)
        axes.grid(False, axis="y")
    for axes in every[len(jobs):]:      # an odd number leaves one empty
        axes.set_axis_off()
    return figure


def save(folder: Path, name: str, record: dict[str, Any], page: str, figure: Figure | None = None) -> None:
    """Writes folder/NAME.json, .md (`page`, with the command, the machine and the chart) and, of a figure, .png.

    `record` has "command" and "machine", and whatever else was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = f"# {name}\n\n`{record['command']}`\n\n{on(record['machine'])}\n\n{page}\n"
    if figure:
        page += f"\n![chart]({name}.png)\n"
        write(folder / f"{name}.png", lambda path: style.save(figure, path))
    write(folder / f"{name}.json", lambda path: path.write_text(json.dumps(record, indent=1)))
    write(folder / f"{name}.md", lambda path: path.write_text(page))


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Fills a file beside `path` and renames it."""
    part = path.with_name(f".{path.name}.part")
    fill(part)
    part.replace(path)
