"""What there is of a run to be looked at: read from its folder, and from nowhere else."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ms_vit.recipe import Recipe
from ms_vit.runs.answers import ANSWERS, Answers, read_answers
from ms_vit.runs.checkpoints import model_file
from ms_vit.runs.metrics import METRICS, read_metrics
from ms_vit.weights.files import ModelSpec, read_spec

Line = dict[str, Any]


@dataclass(frozen=True)
class Story:
    """A run folder: what is missing in it is None or empty, and told in `missing`.

    name: what it is called on the page. recipe: and the versions that it ran with. steps, epochs: lines of its
    metrics.jsonl; final: the one on what the best epoch was scored on at the end. weights: the best checkpoint's.
    """

    name: str
    folder: Path
    recipe: Recipe | None
    versions: str
    steps: list[Line]
    epochs: list[Line]
    final: Line | None
    weights: Path
    spec: ModelSpec
    answers: Answers | None
    missing: list[str]

    @cached_property
    def best(self) -> Line | None:
        """The line of the best epoch."""
        return max(self.epochs, key=lambda line: line["val_top1"], default=None)

    @property
    def title(self) -> str:
        return f"{self.name}: {self.recipe.model.title} on {self.recipe.data.name}" if self.recipe else self.name

    @property
    def seconds(self) -> float:
        """That training took, in all the processes that it went on in."""
        return self.epochs[-1]["seconds"] if self.epochs else 0.0


def read_story(folder: Path) -> Story:
    """Raises DataError where the folder holds no checkpoint, or one of its files is damaged."""
    missing: list[str] = []
    recipe, versions = None, ""
    if (file := folder / "recipe.yaml").is_file():
        versions = file.read_text().partition("\n")[0].removeprefix("# ")
        recipe = Recipe.load(file)
    else:
        missing.append("recipe.yaml is not there, so the page tells nothing of how it was trained")
    steps: list[Line] = []
    epochs: list[Line] = []
    final = None
    if (file := folder / METRICS).is_file():
        steps, epochs, final = read_metrics(file)
    else:
        missing.append(f"{METRICS} is not there, so there are no curves")
    weights = model_file(folder)
    spec = read_spec(weights)
    answers = read_answers(folder / ANSWERS, spec.labels)
    if answers is None:
        data = recipe.data.folder if recipe else "DATA"
        missing.append(f"{ANSWERS} is not there, so the page knows no single answer; \"ms-vit eval {folder} --data "
                       f'{data}" writes it')
    return Story(folder.resolve().name, folder, recipe, versions, steps, epochs, final, weights, spec, answers, missing)
