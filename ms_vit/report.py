"""ms-vit report: one page that shows a run, or several side by side."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ms_vit import cli, signals
from ms_vit.errors import DataError
from ms_vit.progress import say


@dataclass
class Report:
    """The page that was written, its size in bytes, and in words what it can't show."""

    out: Path
    bytes: int
    missing: list[str]


@signals.caught()        # MindSpore's threads, which begin when it is imported, inherit that
def report(runs: list[str | Path], *, out: str | Path | None = None) -> Report:
    """Show a run on one page that a browser opens from the disk: curves, answers, attention, data, model, speed.

    Args:
        runs: run folder; of several, what differs between them is shown side by side.
        out: file for the page (default: report.html in the first run folder, comparison.html for several).
    """
    from ms_vit.device import use_device
    from ms_vit.reports.page import write_report
    from ms_vit.reports.showing import COMPARISON, REPORT
    from ms_vit.runs.results import room_for

    folders = [Path(run) for run in runs]
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise DataError(f"{gone[0]} is {'no folder' if gone[0].exists() else 'not there'}; give a run folder")
    page = Path(out or folders[0] / (REPORT if len(folders) == 1 else COMPARISON))
    with room_for(page):
        use_device("CPU")
        missing = write_report(folders, page)
    for line in missing:
        say(f"not on the page: {line}")
    say(f"look at it in a browser: {page}")
    return Report(page, page.stat().st_size, missing)


def main(argv: list[str] | None = None) -> int:
    return cli.run(report, argv)


if __name__ == "__main__":
    sys.exit(main())
