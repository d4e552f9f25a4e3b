"""Progress with rate and time left: a bar on a terminal, a plain line now and then in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from ms_vit.errors import one_line

T = TypeVar("T")
LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"


class Lines:
    """A text file for tqdm where each of its reports becomes a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip():
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(title: str, total: int | None, unit: str, *, done: int = 0) -> tqdm:
    """A tqdm for use in a `with`: call update(n) on it. It appears once the work takes over 2 s, 10 s in a log file."""
    if sys.stderr.isatty():
        return tqdm(desc=title, total=total, initial=done, unit=f" {unit}", delay=2, leave=False, dynamic_ncols=True)
    return tqdm(desc=title, total=total, initial=done, unit=f" {unit}", delay=10, mininterval=10, leave=False,
                bar_format=LINE, file=Lines())


def track(items: Iterable[T], title: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Goes through `items` and shows how far it is."""
    with progress(title, total if total is not None else len(items), unit) as bar:  # type: ignore[arg-type]
        for item in items:
            yield item
            bar.update()


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
    tqdm.write(one_line(text) + "\n", file=sys.stderr, end="")      # in one piece: a signal may come at any time
