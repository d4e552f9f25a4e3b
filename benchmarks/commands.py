"""Whole commands from start to end, beside a script that does the same by timm: python -m benchmarks.commands --help.

    infer       a photo is named: ms-vit infer, which also draws and lists it
    eval        a split is scored: ms-vit eval, which also writes all answers down

by each engine, and by timm on PyTorch (by_timm.py). It is what a user waits for: starting Python, imports, weights,
compiling, reading, predicting, writing. Each has a process of its own, and all take turns, in an order drawn anew each
round. Ahead of them each runs once, untimed: the engines' exports are made and kept, and files are in memory.
"""

import datetime
import importlib.metadata
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.report import RESULTS, machine, markdown, save, text
from ms_vit import cli
from ms_vit.data.folder import images_in
from ms_vit.errors import UsageError
from ms_vit.progress import say, track

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("mindspore", "onnxruntime", "openvino", "torch", "torchvision", "timm")
TASKS = ("infer", "eval")
TIMM = "timm"
WAYS: dict[str, list[str]] = {      # ms-vit's options, and timm
    "mindspore": [], "mindspore, bfloat16": ["--precision", "bfloat16"], "onnx": ["--engine", "onnx"],
    "openvino": ["--engine", "openvino"], "openvino, bfloat16": ["--engine", "openvino", "--precision", "bfloat16"],
    TIMM: []}


@dataclass
class Row:
    """A task done one way: what it answered, and seconds from start to end, a sample a round."""

    task: str
    way: str
    answer: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Given:
    """A weight file, the network that timm is told it is of, and the split, of which the first photo is named."""

    weights: Path
    model: str
    split: Path

    def subject(self, task: str) -> Path:
        return images_in(self.split)[0] if task == "infer" else self.split

    def do(self, task: str, way: str) -> tuple[float, str]:
        """Seconds from start to end, and the answer: a class's id, or top-1. Raises UsageError where it fails."""
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            ran = subprocess.run(self.command(task, way, Path(folder)), cwd=REPOSITORY, capture_output=True, text=True,
                                 env=os.environ | {"MS_VIT_REPORT": "off"})
            seconds = time.perf_counter() - began
            if ran.returncode:
                why = ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"]   # killed, it is silent
                raise UsageError(f"{task} by {way} failed: {why[-1]}")
            said = ran.stdout.split()
            if way == TIMM:
                return seconds, said[0]
            if task == "infer":
                return seconds, json.loads((Path(folder) / "predictions.jsonl").read_text())["predictions"][0]["id"]
            return seconds, str(json.loads(ran.stdout)["top1"])

    def command(self, task: str, way: str, folder: Path) -> list[str]:
        subject = str(self.subject(task))
        if way == TIMM:
            return [sys.executable, "-m", "benchmarks.by_timm", task, self.model, str(self.weights), subject]
        where = [subject, "--out", str(folder)] if task == "infer" else \
            ["--data", str(self.split.parent), "--split", self.split.name, "--out", str(folder / "eval.json")]
        return [sys.executable, "-m", "ms_vit", task, str(self.weights), *where, *WAYS[way], "--json"]


def measure(given: Given, rounds: int) -> Iterator[Row]:
    """All tasks done all ways, in turns; a way that fails at first is left out, and a line says why."""
    rows = []
    for row in [Row(task, way) for task in TASKS for way in WAYS]:
        try:
            _, row.answer = given.do(row.task, row.way)
            rows.append(row)
        except UsageError as error:
            say(f"left out: {error}")
    for _ in track(range(rounds), "commands", "rounds"):
        for row in random.sample(rows, len(rows)):
            seconds, answer = given.do(row.task, row.way)
            if answer != row.answer:
                raise UsageError(f"{row.task} by {row.way} answered {row.answer} and then {answer}")
            row.seconds.append(seconds)
    yield from rows


def installed() -> Iterator[str]:
    """Each package that is there, with its version."""
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{package} {importlib.metadata.version(package)}"


def table(rows: list[Row]) -> list[list[str]]:
    lines = [["task", "by", "s", "min - max", "timm takes", "answer"]]
    for row in rows:
        timm = next((other.median for other in rows if (other.task, other.way) == (row.task, TIMM)), None)
        lines.append([row.task, row.way, f"{row.median:.2f}", f"{min(row.seconds):.2f} - {max(row.seconds):.2f}",
                      f"{timm / row.median:.2f} x" if timm else "",
                      row.answer if row.task == "infer" else f"{100 * float(row.answer):.2f} %"])
    return lines


@dataclass
class Commands:
    """Its two files are out/name.json and .md."""

    out: Path
    name: str


def commands(weights: Path, split: Path, rounds: int = 5, model: str = "vit_tiny_patch16_224", out: Path = RESULTS,
             name: str | None = None) -> Commands:
    """Time whole commands, ours by each engine and timm's, and print a table.

    Args:
        weights: a weight file of 1,000 classes, as timm has it.
        split: a folder of class folders, named by ImageNet's ids: data/imagenet-subset/val.
        rounds: runs of each.
        model: what timm calls the network.
        out: folder of the results.
        name: of the results' files (default: commands-DATE).
    """
    cli.at_least_one(rounds=rounds)
    if not weights.is_file():
        raise UsageError(f"no weights at {weights}; give a file")
    images = images_in(split) if split.is_dir() else []
    if not images:
        raise UsageError(f"no images in {split}; give a folder of class folders")
    here = machine()
    with tempfile.TemporaryDirectory() as folder:       # exports are kept beside the weights
        own = Path(shutil.copy(weights, folder))
        rows = list(measure(Given(own, model, split.resolve()), rounds))
    lines = table(rows)
    print(text(lines))
    name = name or f"commands-{datetime.date.today()}"
    versions = ", ".join(installed())
    what = f"{model}, one photo and {len(images):,}; medians of {rounds}"
    record = {"command": f"python -m benchmarks.commands {weights.name} {split.name} --rounds {rounds}",
              "machine": here, "versions": versions, "what": what, "rows": [asdict(row) for row in rows]}
    save(out, name, record, f"{versions}; {what}\n\n{markdown(lines)}")
    return Commands(out, name)


if __name__ == "__main__":
    sys.exit(cli.run(commands, prog="python -m benchmarks.commands"))
