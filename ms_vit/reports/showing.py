"""A run's page where a verb ends with it: whether one is made, where it lies, and what is said of it.

Away from what makes it, which takes half a second to import: verbs begin without.
"""

import os
from pathlib import Path

from ms_vit.progress import say, warn

REPORT = "report.html"          # of a run, in its folder
COMPARISON = "comparison.html"  # of several


def wanted() -> bool:
    """Whether `train` and `eval` make a page: MS_VIT_REPORT=off leaves its seconds out of many short runs."""
    return os.environ.get("MS_VIT_REPORT") != "off"


def show_run(run: Path) -> None:
    """Writes the page of a run that is done, and says where it is. Whatever fails in that, the run stays done."""
    if not wanted():
        return
    out = run / REPORT
    try:
        from ms_vit.reports.page import write_report

        missing = write_report([run], out)
    except Exception as error:
        warn(f"{out} couldn't be made ({error or type(error).__name__}); \"ms-vit report {run}\" tries again")
        return
    for line in missing:
        say(f"not in {out}: {line}")
    say(f"look at it in a browser: {out}")
