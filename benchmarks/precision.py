"""Is bfloat16 as good as float32? Whole recipes in either, several seeds each: python -m benchmarks.precision --help.

A run is `ms-vit train` as users type it, in a process of its own. They go seed by seed, every recipe in every
precision, so that what is done by any moment can be compared. Each finished run is a line of NAME.jsonl, and isn't done
again: the same command goes on where it was stopped.
"""

import datetime
import itertools
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.jobs import chosen
from benchmarks.recipes import verb
from benchmarks.report import RESULTS, machine, markdown, on, percent, spread, text
from ms_vit import cli
from ms_vit.errors import DataError
from ms_vit.progress import say
from ms_vit.runs.folder import versions
from ms_vit.runs.metrics import read_metrics
from ms_vit.writing import write_whole

PRECISIONS = ("float32", "bfloat16")
WEIGHTS = "vit_tiny_patch16_224.safetensors"        # stands for the file, wherever it is
HEADER = ["recipe", "precision", "seeds", "top-1 of the last epoch, %", "of the best, %", "validation loss"]
JUDGED = {"top1": "the last epoch", "best": "the best epoch"}


@dataclass(frozen=True)
class Study:
    """A recipe as it is trained here: the options of `ms-vit train`, and what differs from the published one."""

    options: str
    about: str


STUDIES = {
    "digits": Study("--recipe digits", "as it is published"),
    "imagenet_mini": Study(f"--recipe imagenet_mini --data.name imagenet-subset --weights {WEIGHTS}",
                           "as it is published"),
    "cifar10": Study("--recipe default-small --data.name cifar10 --train.epochs 5 --train.batch_size 128 "
                     "--model.stem [32,64] --model.dim 128 --model.depth 4 --model.num_heads 2 --model.mlp_dim 256",
                     "all 50,000 images of CIFAR-10 and its 10,000 test images, by a smaller net than default-small's "
                     "(width 128 for 192, 4 layers for 6, stem 32-64 for 64-128), 5 epochs for 20, batches of 128 for "
                     "32: so that a run takes minutes on two cores"),
}


@dataclass(frozen=True)
class Run:
    """What a finished run came to: a line of NAME.jsonl.

    top1, best: of the validation images by the last epoch and by the best one, from 0 to 1. train_loss, val_loss: of
    the last epoch. seconds: of the whole command, imports and compiling included. images_per_second: of training.
    """

    recipe: str
    options: str
    precision: str
    seed: int
    top1: float
    best: float
    train_loss: float
    val_loss: float
    seconds: float
    images_per_second: float
    versions: str


@dataclass
class Finished:
    """Its files are out/name.jsonl and .md; `new` runs were added to those that were there."""

    out: Path
    name: str
    new: int


def precision(recipes: str = ",".join(STUDIES), precisions: str = ",".join(PRECISIONS), seeds: int = 5,
              root: Path = Path("data"), weights: Path = Path(WEIGHTS), out: Path = RESULTS,
              name: str | None = None) -> Finished:
    """Train whole recipes in several precisions and with several seeds; print means and standard deviations.

    Args:
        recipes: which, by commas - digits, imagenet_mini, cifar10.
        precisions: values of train.precision, by commas; the others are compared with the first.
        seeds: how many, from 0 on.
        root: the folder of the downloads digits, imagenet-subset and cifar10.
        weights: the ViT-Ti/16 that imagenet_mini starts from.
        out: folder of the results.
        name: of the results' files (default: precision-DATE); runs that are there already are not done again.
    """
    cli.at_least_one(seeds=seeds)
    of, kinds = chosen(recipes, STUDIES, "recipe"), chosen(precisions, PRECISIONS, "precision")
    name = name or f"precision-{datetime.date.today()}"
    out.mkdir(parents=True, exist_ok=True)
    file, here = out / f"{name}.jsonl", machine()
    command = (f"python -m benchmarks.precision --recipes {recipes} --precisions {precisions} --seeds {seeds} "
               f"--name {name}")
    runs = read(file)
    done, new = {(run.seed, run.recipe, run.precision) for run in runs}, 0
    try:
        for seed, recipe, kind in itertools.product(range(seeds), of, kinds):
            if (seed, recipe, kind) in done:
                continue
            runs.append(run := train(recipe, kind, seed, root, weights))
            new += 1
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
            say(f"{recipe}, {kind}, seed {seed}: top-1 {percent([run.top1])} %, best {percent([run.best])} %, "
                f"{run.seconds:.0f} s")
    finally:
        if runs:
            write_whole(out / f"{name}.md", page(name, command, on(here), runs))
    print("\n".join([text(table(runs)), *verdicts(runs)]))
    return Finished(out, name, new)


def read(file: Path) -> list[Run]:
    """The runs that are recorded there. Raises DataError at a line that tells of none, or of one by other options."""
    runs = []
    for place, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [], 1):
        try:
            run = Run(**json.loads(line))
            if run.options != STUDIES[run.recipe].options:
                raise ValueError(f"{run.recipe} was trained with {run.options}")
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"line {place} of {file} is no run of today's recipes ({error}); remove it, or give "
                            "another --name") from error
        runs.append(run)
    return runs


def train(recipe: str, precision: str, seed: int, root: Path, weights: Path) -> Run:
    """Raises DataError, with its last line, where the command fails."""
    options = STUDIES[recipe].options
    with tempfile.TemporaryDirectory(prefix="ms-vit-") as folder:
        run = Path(folder) / recipe
        words = [str(weights) if word == WEIGHTS else word for word in shlex.split(options)]
        started = time.perf_counter()
        trained = verb(["train", *words, "--data.root", str(root), "--train.precision", precision,
                        "--train.seed", str(seed), "--run", str(run)], run.with_suffix(".log"))
        seconds = time.perf_counter() - started
        last = read_metrics(run / "metrics.jsonl")[1][-1]
    return Run(recipe=recipe, options=options, precision=precision, seed=seed, top1=last["val_top1"],
               best=trained["best"], train_loss=last["train_loss"], val_loss=last["val_loss"],
               seconds=round(seconds, 1), images_per_second=trained["images_per_second"], versions=versions())


# --- what they come to

def groups(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """By recipe and precision, in the order in which they came."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        found.setdefault(run.recipe, {}).setdefault(run.precision, []).append(run)
    return found


def table(runs: Sequence[Run]) -> list[list[str]]:
    return [HEADER, *([recipe, precision, str(len(found)), percent([run.top1 for run in found]),
                       percent([run.best for run in found]), spread([run.val_loss for run in found], 3)]
                      for recipe, kinds in groups(runs).items() for precision, found in kinds.items())]


def verdicts(runs: Sequence[Run]) -> list[str]:
    """A line for each recipe and measure: whether the means differ by more than one standard deviation.

    That is the two samples' pooled one, sqrt((s1^2 + s2^2) / 2): the unit of Cohen's d.
    """
    told = []
    for recipe, kinds in groups(runs).items():
        pairs = [kinds[precision] for precision in PRECISIONS if precision in kinds]
        if len(pairs) < 2:
            continue
        for measure, of in JUDGED.items():
            float32, bfloat16 = ([getattr(run, measure) for run in found] for found in pairs)
            difference = 100 * (statistics.mean(bfloat16) - statistics.mean(float32))
            line = f"{recipe}, {of}: bfloat16 is {difference:+.2f} points from float32"
            if min(len(float32), len(bfloat16)) < 2:
                told.append(f"{line}; one seed has no standard deviation")
                continue
            sd = 100 * math.sqrt((statistics.variance(float32) + statistics.variance(bfloat16)) / 2)
            within = "within" if abs(difference) <= sd else "NOT within"
            told.append(f"{line}, {within} one standard deviation ({sd:.2f})")
    return told


def page(name: str, command: str, machine: str, runs: Sequence[Run]) -> str:
    recipes = [f"- {recipe}: `ms-vit train {STUDIES[recipe].options}`, {STUDIES[recipe].about}"
               for recipe in groups(runs)]
    about = ("Means and standard deviations over the seeds; validation images. It is no measure of speed: other work "
             "may have run beside.")
    parts = [f"# {name}", f"`{command}`", machine, about,
             "\n".join(recipes), markdown(table(runs)), "\n".join(f"- {line}" for line in verdicts(runs)),
             "By " + ", and ".join(dict.fromkeys(run.versions for run in runs))]
    return "\n\n".join(filter(None, parts)) + "\n"


def main(argv: list[str] | None = None) -> int:
    return cli.run(precision, argv, prog="python -m benchmarks.precision")


if __name__ == "__main__":
    sys.exit(main())
