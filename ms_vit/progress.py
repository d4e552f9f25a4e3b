"""What people see of work: a bar on a terminal, a plain line now and then in a log file, and lines that are said."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from ms_vit.errors import one_line

T = TypeVar("T")
LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"
EVERY = 10      # seconds from one line to the next in a log file

hushed = False


@contextlib.contextmanager
def hush(wanted: bool = True) -> Iterator[None]:
    """Inside, if that is wanted, nothing is told but what goes wrong (`warn`), in all threads."""
    global hushed
    before, hushed = hushed, hushed or wanted
    try:
        yield
    finally:
        hushed = before


class Lines:
    """A text file for tqdm where each of its reports becomes a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip():
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def in_file() -> dict[str, Any]:
    """What has a tqdm write lines, and no cursor movements, to a log file."""
    return {"file": Lines(), "delay": EVERY, "mininterval": EVERY, "position": 0}


def on_terminal() -> bool:
    """Whether lines can be drawn anew. A notebook is no terminal."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def progress(title: str, total: int | None, unit: str, *, done: int = 0) -> tqdm:
    """A tqdm for use in a `with`: call update(n) on it. It appears once the work takes over 2 s, 10 s in a log file."""
    shown: dict[str, Any] = {"desc": title, "total": total, "initial": done, "unit": f" {unit}", "leave": False,
                             "disable": hushed}
    if on_terminal():
        return tqdm(**shown, delay=2, dynamic_ncols=True)
    return tqdm(**shown, **in_file(), bar_format=LINE)


def track(items: Iterable[T], title: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Goes through `items` and shows how far it is."""
    with progress(title, total if total is not None else len(items), unit) as bar:  # type: ignore[arg-type]
        for item in items:
            yield item
            bar.update()


class Display:
    """Progress of work of which there is more to tell: how far it is, in words, and how it goes.

    On a terminal these are two lines, and a bar takes what the first leaves free; what doesn't fit is cut off. In a log
    file both are one line, now and then, that begins with the title.
    """

    def __init__(self, title: str, total: int, done: int, far: str, how: str):
        shown: dict[str, Any] = {"leave": False, "disable": hushed}
        self.title, self.below = "", None
        if on_terminal():
            shown |= {"dynamic_ncols": True}
            self.bar = tqdm(**shown, desc=far, total=total, initial=done, bar_format="{desc} |{bar}|")
            self.below = tqdm(**shown, desc=how, bar_format="{desc}{bar}")      # what has a bar, though empty, is cut
        else:
            self.title = f"{title}: "
            self.bar = tqdm(**shown, **in_file(), total=total, initial=done, bar_format="{desc}{postfix}")

    def show(self, done: int, far: str, how: str) -> None:
        """Takes what is to be shown from now on; it is drawn a few times a second."""
        self.bar.set_description_str(self.title + far, refresh=False)
        if self.below is None:
            self.bar.set_postfix_str(how, refresh=False)
        else:
            self.below.set_description_str(how, refresh=False)
        if self.bar.update(done - self.bar.n) and self.below is not None:
            self.below.refresh()

    def close(self) -> None:
        if self.below is not None:
            self.below.close()
        self.bar.close()


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 10 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def say(text: str) -> None:
    """A line for people, on stderr: stdout is for results."""
    if not hushed:
        warn(text)


def warn(text: str) -> None:
    """The same about something that went wrong, which is told even where all else is hushed."""
    tqdm.write(one_line(text) + "\n", file=sys.stderr, end="")      # in one piece: a signal may come at any time
