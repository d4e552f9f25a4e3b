"""The driver: contenders in processes of their own, timed in turns.

In each round every contender gets its turn, in an order drawn anew, so that whatever else the machine does falls on
all of them alike. Whoever's turn it is not is stopped (SIGSTOP): a library's waiting threads take nothing from others.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job
from ms_vit.progress import say, track

REPOSITORY = Path(__file__).parents[1]
WARM_UP = 2                 # steps after the first, untimed


class Failure(Exception):
    """A contender can't take part; the text says why."""


@dataclass(frozen=True)
class Entry:
    """A contender's name, and the Python that runs it."""

    contender: str
    python: str = sys.executable


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of some samples."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Spread":
        samples = sorted(samples)
        return cls(samples[0], statistics.median(samples), samples[-1])


@dataclass
class Row:
    """What was measured of one contender.

    seconds: of one step, a sample a round, each the mean of `steps` of them. first_step: seconds from the start of its
    process to the end of its first step, so with imports, building and compiling. peak_bytes: the most memory its
    process had. images, flops: of one step.
    """

    contender: str
    framework: str
    versions: dict[str, str]
    parameters: int
    images: int
    flops: int
    first_step: float
    steps: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Row":
        """Undoes as_dict."""
        return cls(**{each.name: values[each.name] for each in fields(cls)})

    @property
    def images_per_second(self) -> Spread:
        return Spread.of(self.images / seconds for seconds in self.seconds)

    @property
    def gflops(self) -> Spread:
        """GFLOP/s."""
        return Spread.of(self.flops / seconds / 1e9 for seconds in self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """The samples, and what they come to."""
        return asdict(self) | {"images_per_second": asdict(self.images_per_second), "gflops": asdict(self.gflops)}


class Worker:
    """A contender's process. Use it in a `with`, which ends it."""

    def __init__(self, entry: Entry, job: Job):
        self.contender = entry.contender
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        command = [entry.python, "-m", "benchmarks.worker", entry.contender, json.dumps(asdict(job))]
        self.log = tempfile.TemporaryFile()        # noqa: SIM115 (closed with the process)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, env=os.environ | {"PYTHONPATH": path})
        assert self.process.stdin and self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.answers.close()
        self.log.close()
        with suppress(BrokenPipeError):     # what it was still asked
            self.requests.close()

    def row(self) -> Row:
        """Waits for the end of the first step."""
        told = self.answer()
        return Row(contender=self.contender, first_step=time.perf_counter() - self.started, **told)

    def steps(self, count: int) -> dict[str, Any]:
        """Takes that many steps; returns the `seconds` of one, and the `peak_bytes` so far."""
        with suppress(BrokenPipeError):     # that there is no answer says why
            self.requests.write(f"{count}\n")
            self.requests.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        line = self.answers.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            last = (self.log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise Failure(f"its process ended with {code}: {last}")
        told = json.loads(line)
        if "error" in told:
            raise Failure(told["error"])
        return told

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def room_for(needed: int) -> None:
    """Raises Failure where a process of so many bytes would push others out of memory."""
    if needed > (free := available_bytes()):
        raise Failure(f"it may need {needed / 2**30:.1f} GiB of memory beside the others, and {free / 2**30:.1f} are "
                      "free; compare fewer at once")


def available_bytes() -> int:
    """Memory that new processes can have without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def measure(job: Job, entries: list[Entry], *, rounds: int, round_seconds: float, title: str
            ) -> tuple[list[Row], list[str]]:
    """Times a job in `rounds` rounds; a contender's turn lasts about `round_seconds`, or a step where that is longer.

    Returns the rows in the entries' order, and a line about each contender that has none. All processes stay in memory
    together; whoever would not fit, by the needs of those before, is left out.
    """
    rows: dict[Entry, Row] = {}
    workers: dict[Entry, Worker] = {}
    left_out: list[str] = []

    def leave_out(entry: Entry, failure: Failure) -> None:
        left_out.append(f"{entry.contender}: {failure}")
        say(f"{title}: without {left_out[-1]}")
        workers.pop(entry, None)
        rows.pop(entry, None)

    with ExitStack() as stack:
        for entry in entries:
            try:
                room_for(max((row.peak_bytes for row in rows.values()), default=0))
                worker = workers[entry] = stack.enter_context(Worker(entry, job))
                row = rows[entry] = worker.row()
                told = worker.steps(WARM_UP)
                worker.stop()
                row.steps, row.peak_bytes = max(1, round(round_seconds / told["seconds"])), told["peak_bytes"]
                say(f"{title}: {row.contender} on {row.framework}, first step after {row.first_step:.1f} s")
            except Failure as failure:
                leave_out(entry, failure)
        order = random.Random(0)
        for _ in track(range(rounds), title, "rounds"):
            for entry in order.sample(list(workers), len(workers)):
                row, worker = rows[entry], workers[entry]
                try:
                    worker.go_on()
                    told = worker.steps(row.steps)
                    worker.stop()
                except Failure as failure:
                    leave_out(entry, failure)
                else:
                    row.seconds.append(told["seconds"])
                    row.peak_bytes = told["peak_bytes"]
    return list(rows.values()), left_out
