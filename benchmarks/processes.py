"""Training by several processes beside one, on this machine's cores: python -m benchmarks.processes --help.

    one             a process with all the cores and the whole batch
    share           a process with its share of the cores and of the batch: what each of several does, but for exchange
    several         scripts/train_distributed.sh, a process for each share

Several processes on one machine's cores have no more to compute with than one, so at best they come to what it does;
what they lose is the exchange of gradients, and that is what is looked for. benchmarks.scale holds its model to it.
"""

import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data import JOBS, make_folder
from benchmarks.report import RESULTS, machine, markdown, save, text
from ms_vit import cli
from ms_vit.progress import track

REPOSITORY = Path(__file__).parents[1]
WAYS = ("one", "share", "several")
BATCH, STEPS = 64, 30
IMAGES = 32             # pixels
# Whose gradients are of few and of many parameters, in few and in many arrays.
NETWORKS = {"d64 x 12": {"dim": 64, "depth": 12, "num_heads": 1, "mlp_dim": 256},
            "d192 x 4": {"dim": 192, "depth": 4, "num_heads": 3, "mlp_dim": 768},
            "d512 x 2": {"dim": 512, "depth": 2, "num_heads": 8, "mlp_dim": 2048}}


@dataclass
class Row:
    """A network trained one way: its parameters, and images/s, of all processes together, a sample a run."""

    network: str
    way: str
    parameters: int = 0
    speeds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.speeds)


def recipe(data: Path, network: str, batch: int) -> dict[str, Any]:
    return {"data": {"name": str(data), "holdout": 0.05},
            "model": {"image_size": IMAGES, "patch_size": 4, **NETWORKS[network]},
            "augment": {"train": ["Decode()", "Normalize(mean, std)", "HWC2CHW()"]},
            "train": {"epochs": 1, "batch_size": batch}}


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """What is started inside has so many of the cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def train(way: str, network: str, processes: int, data: Path, folder: Path) -> dict[str, Any]:
    """What a run came to, as `ms-vit train --json` tells it."""
    share = way == "share"
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(data, network, BATCH // processes if share else BATCH)))
    options = ["--recipe", str(file), "--run", str(folder / "run"), "--json"]
    command = ["bash", str(REPOSITORY / "scripts" / "train_distributed.sh"), *options] if way == "several" else \
        [sys.executable, "-m", "ms_vit", "train", *options]
    cores = len(os.sched_getaffinity(0))
    with on_cores(cores // processes if share else cores):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={
            **os.environ, "NPROC": str(processes), "DEVICE": "CPU", "VENV": str(Path(sys.executable).parents[1]),
            "PYTHONPATH": str(REPOSITORY)})
    if ran.returncode:
        raise SystemExit(f"benchmarks.processes: {way} of {network} failed\n{ran.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def measure(processes: int, rounds: int, data: Path) -> list[Row]:
    """All ways of all networks in turns, in an order drawn anew each round."""
    rows = [Row(network, way) for network in NETWORKS for way in WAYS]
    for _ in track(range(rounds), f"one process and {processes}", "rounds"):
        for row in random.sample(rows, len(rows)):
            with tempfile.TemporaryDirectory() as folder:
                result = train(row.way, row.network, processes, data, Path(folder))
            row.parameters = result["parameters"]
            row.speeds.append(result["images_per_second"])
    return rows


def exchanged(rows: list[Row], network: str, processes: int) -> float:
    """Seconds of a step that exchange takes: what several need beyond what each computes."""
    speed = {row.way: row.median for row in rows if row.network == network}
    return BATCH / speed["several"] - BATCH / processes / speed["share"]


def table(rows: list[Row], processes: int) -> list[list[str]]:
    lines = [["network", "parameters", "way", "images/s", "min - max", "of one", "exchange, ms of a step"]]
    for row in rows:
        one = next(other.median for other in rows if (other.network, other.way) == (row.network, "one"))
        exchange = exchanged(rows, row.network, processes)
        lines.append([row.network, f"{row.parameters:,}", row.way, f"{row.median:,.0f}",
                      f"{min(row.speeds):,.0f} - {max(row.speeds):,.0f}", f"{row.median / one:.2f}",
                      f"{1000 * exchange:.0f} of {1000 * BATCH / row.median:.0f}" if row.way == "several" else ""])
    return lines


@dataclass
class Measured:
    """Its two files are out/name.json and .md."""

    out: Path
    name: str


def processes(number: int = 2, rounds: int = 3, out: Path = RESULTS, name: str | None = None) -> Measured:
    """Train by one process and by several on this machine's cores, and print a table.

    Args:
        number: processes; the cores and a batch of 64 must be a multiple of it.
        rounds: runs of each.
        out: folder of the results.
        name: of the results' files (default: processes-DATE).
    """
    cli.at_least_one(number=number, rounds=rounds)
    with tempfile.TemporaryDirectory() as temporary:
        make_folder(replace(JOBS["small"], images=BATCH * STEPS), Path(temporary, "data"))
        here = machine()
        rows = measure(number, rounds, Path(temporary, "data"))
    lines = table(rows, number)
    print(text(lines))
    name = name or f"processes-{datetime.date.today()}"
    record = {"command": f"python -m benchmarks.processes --number {number} --rounds {rounds}", "machine": here,
              "processes": number, "batch": BATCH, "rows": [asdict(row) for row in rows]}
    what = f"Batches of {BATCH} images of {IMAGES} x {IMAGES}, {STEPS} steps a run; medians of {rounds}"
    save(out, name, record, f"{what}\n\n{markdown(lines)}")
    return Measured(out, name)


if __name__ == "__main__":
    sys.exit(cli.run(processes, prog="python -m benchmarks.processes"))
