"""Our ViT beside others, on this machine: python -m benchmarks.compare --help."""

import datetime
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import CONTENDERS, INFERENCE_ONLY
from benchmarks.jobs import MODELS, MODES, Job, chosen
from benchmarks.measure import Entry, measure
from benchmarks.report import RESULTS, Panel, chart, machine, markdown, save, text
from ms_vit import cli
from ms_vit.errors import DataError, UsageError


@dataclass
class Comparison:
    """Its three files are out/name.json, .md and .png."""

    out: Path
    name: str


def compare(models: str = ",".join(MODELS), modes: str = ",".join(MODES), contenders: str = ",".join(CONTENDERS),
            python: str = "", rounds: int = 15, batch: int | None = None, out: Path = RESULTS,
            name: str | None = None) -> Comparison:
    """Time our ViT, its ONNX export, timm on PyTorch, MindCV and bare matrix products in turns; print tables.

    Args:
        models: which networks, by commas - ti, cifar, b.
        modes: train, infer, or both by a comma.
        contenders: who takes part, by commas; who isn't installed is left out.
        python: CONTENDER=PYTHON, by commas - runs a contender with another interpreter; one named twice has two rows.
        rounds: turns of each contender.
        batch: images of a step (default: the model's).
        out: folder of the results.
        name: of the results' files (default: compare-DATE).
    """
    cli.at_least_one(rounds=rounds, batch=batch)
    entries = entries_of(chosen(contenders, CONTENDERS, "contender"), python)
    here, panels = machine(), []
    for model in chosen(models, MODELS, "model"):
        for mode in chosen(modes, MODES, "mode"):
            job = Job(shape=MODELS[model].shape, batch=batch or MODELS[model].batch, mode=mode)
            able = [entry for entry in entries if mode == "infer" or entry.contender not in INFERENCE_ONLY]
            rows, left_out = measure(job, able, rounds=rounds, round_seconds=1.0, title=f"{model} {mode}")
            panels.append(panel := Panel(MODELS[model].title, job, rows, left_out))
            print("\n".join([panel.headline, text(panel.table()), *panel.notes]), end="\n\n", flush=True)
    if not any(panel.rows for panel in panels):
        raise DataError(f"no contender could be timed; the first: {panels[0].left_out[0]}")

    page = "\n\n".join("\n\n".join([panel.headline, markdown(panel.table()), *panel.notes]) for panel in panels)
    name = name or f"compare-{datetime.date.today()}"
    command = (f"python -m benchmarks.compare --models {models} --modes {modes} --contenders {contenders} "
               f"--rounds {rounds}{f' --batch {batch}' if batch else ''}")
    save(out, name, {"command": command, "machine": here, "panels": [panel.as_dict() for panel in panels]}, page,
         chart(panels))
    return Comparison(out, name)


def entries_of(contenders: list[str], python: str) -> list[Entry]:
    """A row's contender and interpreter each; `python` as the option has it."""
    given: dict[str, list[str]] = {}
    for word in filter(None, python.split(",")):
        contender, _, path = word.partition("=")
        if contender not in contenders or not path:
            raise UsageError(f'"--python {word}" is no CONTENDER=PYTHON; contenders are {", ".join(contenders)}')
        if not shutil.which(path):
            raise UsageError(f'"--python {word}": there is no program {path}')
        given.setdefault(contender, []).append(path)
    return [Entry(contender, path) for contender in contenders for path in given.get(contender, [sys.executable])]


def main(argv: list[str] | None = None) -> int:
    return cli.run(compare, argv, prog="python -m benchmarks.compare")


if __name__ == "__main__":
    sys.exit(main())
