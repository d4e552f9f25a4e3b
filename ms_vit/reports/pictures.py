"""Pictures of a run: as its network sees them, with what it looks at, and as training augments them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ms_vit.data.images import picture
from ms_vit.data.layout import Layout
from ms_vit.data.pipeline import Batches, naming_bad_images
from ms_vit.inference.recorder import Recorder
from ms_vit.recipe import Recipe
from ms_vit.reports.attention import TILE, heads_sheet, overlay
from ms_vit.reports.gallery import fit
from ms_vit.runs.answers import Answers
from ms_vit.weights.files import ModelSpec, read_spec

EACH = 8            # mistakes, and hits
SHOWN = 224         # pixels: no picture on the page is larger


@dataclass(frozen=True)
class Example:
    """An image and what was said of it, as the network sees it: `view`; None where its file can't be read.

    rollout, spoke_for: what came through all blocks, and what spoke for the first answer, over the picture.
    """

    image: str
    true: str
    said: str
    probability: float
    of_true: float | None
    view: Image.Image | None = None
    rollout: Image.Image | None = None
    spoke_for: Image.Image | None = None


def mistakes(answers: Answers) -> list[int]:
    """The most confident mistakes, by their place among the answers."""
    wrong = np.flatnonzero(~answers.right)
    return wrong[np.argsort(-answers.probabilities[wrong, 0], kind="stable")][:EACH].tolist()


def doubtful_hits(answers: Answers) -> list[int]:
    """The least confident hits."""
    right = np.flatnonzero(answers.right)
    return right[np.argsort(answers.probabilities[right, 0], kind="stable")][:EACH].tolist()


class Shown:
    """The images that were answered, looked at by the network that did: it is loaded once."""

    def __init__(self, answers: Answers):
        self.answers = answers
        self.spec = read_spec(answers.weights)
        self.recorder = Recorder.load(answers.weights)
        self.operations = self.spec.preprocessing.operations()
        self.store = answers.split.store()
        self.rows = {name: row for row, name in enumerate(self.store.names)}

    def prepare(self, image: str) -> np.ndarray | None:
        """An image as the network wants it, [C, H, W]; None where it is gone or can't be read."""
        preprocessing = self.spec.preprocessing
        try:
            with self.store.open(self.rows[image]) as file:
                return preprocessing.apply(self.operations, picture(file, preprocessing.at_least))
        except Exception:       # a damaged image makes Pillow's many readers raise nearly anything
            return None

    def examples(self, places: list[int]) -> Iterator[Example]:
        """Those of the answers at `places`, with what the network looks at."""
        for start in range(0, len(places), self.recorder.at_once):
            part = places[start:start + self.recorder.at_once]
            ready = {place: made for place in part
                     if (made := self.prepare(self.answers.images[place])) is not None}
            recording = self.recorder(np.stack(list(ready.values())), self.answers.top[list(ready), 0]) \
                if ready else None
            maps = (recording.rollout(), recording.gradient_rollout()) if recording else ((), ())
            order = {place: number for number, place in enumerate(ready)}
            for place in part:
                told = self.told(place)
                if place in order:
                    view = self.view(ready[place])
                    over = [overlay(view, each[order[place]], self.spec.config) for each in maps]
                    told = replace(told, view=view, rollout=over[0], spoke_for=over[1])
                yield told

    def told(self, place: int) -> Example:
        answers, names = self.answers, self.spec.labels.names
        label, top, probabilities = answers.labels[place], answers.top[place], answers.probabilities[place]
        at = np.flatnonzero(top == label)
        return Example(answers.images[place], names[label], names[top[0]], float(probabilities[0]),
                       float(probabilities[at[0]]) if len(at) else None)

    def view(self, ready: np.ndarray) -> Image.Image:
        return shown(self.spec.preprocessing.view(ready))

    def heads(self, place: int) -> tuple[Image.Image, Image.Image] | None:
        """An image and each head's attention in it, a row a head; None where it can't be read."""
        ready = self.prepare(self.answers.images[place])
        if ready is None:
            return None
        view, recording = self.view(ready), self.recorder(ready[None], self.answers.top[[place], 0])
        return view, heads_sheet(view, recording, 0, TILE)


def shown(view: Image.Image) -> Image.Image:
    """A picture in the size of the page: tiny ones enlarged in whole pixels, large ones reduced."""
    view = fit(view)
    view.thumbnail((SHOWN, SHOWN))
    return view


def augmented(recipe: Recipe, spec: ModelSpec, layout: Layout,
              leave_out: Collection[Path]) -> list[tuple[str, Image.Image]]:
    """The first images of the first epoch as training's network sees them, with their class. Raises DataError."""
    preprocessing = replace(spec.preprocessing, transforms=recipe.augment.train).for_channels(spec.config.channels)
    batches = Batches(layout.train, spec.labels, preprocessing, training=True, seed=recipe.train.seed,
                      batch_size=recipe.train.batch_size, repeats=recipe.augment.repeats,
                      alternate_flip=recipe.augment.alternate_flip, leave_out=leave_out)
    with naming_bad_images():
        return [(spec.labels.names[label], shown(view)) for view, label in batches.pictures()]
