"""Top-1 accuracy under corruption: each image once for every corruption and strength."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from ms_vit.data.corruptions import STRENGTHS, Corruption, draws_of
from ms_vit.data.pipeline import Batches, numpy_batches
from ms_vit.data.preprocessing import Preprocessing, encoded
from ms_vit.data.threads import in_order, thread_pool
from ms_vit.errors import UsageError
from ms_vit.inference.kept import Logits
from ms_vit.progress import track


@dataclass(frozen=True)
class Robustness:
    """top1: by corruption, at each strength, from 0 to 1."""

    top1: dict[str, list[float]]

    @property
    def means(self) -> dict[str, float]:
        """By corruption."""
        return {name: float(np.mean(values)) for name, values in self.top1.items()}

    @property
    def mean(self) -> float:
        """Over all corruptions and strengths."""
        return float(np.mean(list(self.top1.values())))

    def as_dict(self) -> dict[str, Any]:
        """Everything, for eval.json."""
        return {"mean_top1": self.mean, "means": self.means, "top1": self.top1}

    def table(self) -> list[str]:
        """Lines for people, in percent."""
        rows = self.top1 | {"mean": np.mean(list(self.top1.values()), axis=0).tolist()}
        return [f"{'top-1, strength':20}" + "".join(f"{word:>7}" for word in (*STRENGTHS, "mean")),
                *(f"{name:20}" + "".join(f"{100 * value:7.1f}" for value in (*values, np.mean(values)))
                  for name, values in rows.items())]


def halves(preprocessing: Preprocessing) -> tuple[Preprocessing, Preprocessing]:
    """What makes pixels of a file, and what makes the network's input of these: an image is corrupted in between.

    As in ImageNet-C, pixels have their final size there. Raises UsageError where the operations don't bring them to it
    before all else.
    """
    pixels, rest = preprocessing.split()
    made: Any = encoded(Image.new("RGB", (64, 48)))
    for operation in pixels.operations() if pixels.transforms else ():
        made = operation(made)
    if np.shape(made) != (*preprocessing.sides, 3):
        raise UsageError("images are corrupted once they have their size, so the operations for evaluation must begin "
                         f"with Decode, Resize, CenterCrop or such, not {', '.join(preprocessing.transforms[:3])}")
    return pixels, rest


def score_corrupted(logits: Logits, pixels: Batches, rest: Preprocessing,
                    corruptions: Sequence[Corruption]) -> Robustness:
    """Scores `corruptions` at every strength on `pixels`, batches of [n, H, W, 3] uint8, which `rest` prepares."""
    settings = [(corruption, strength) for corruption in corruptions for strength in STRENGTHS]
    right = np.zeros(len(settings), np.int64)
    made = corrupted(pixels, rest, settings)
    for at, images, labels in track(made, "scoring corrupted images", "batches", pixels.steps * len(settings)):
        right[at] += (logits(images).argmax(1) == labels).sum()
    shares = (right / len(pixels)).reshape(len(corruptions), len(STRENGTHS)).tolist()
    return Robustness(dict(zip((corruption.name for corruption in corruptions), shares, strict=True)))


def corrupted(pixels: Batches, rest: Preprocessing, settings: Sequence[tuple[Corruption, int]]
              ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each batch by each of the settings: which of these, images [n, 3, H, W] float32, labels [n].

    Files are decoded once, and no more than two batches of images are made ahead.
    """
    operations = rest.operations()

    def prepare(task: tuple[Corruption, int, int, np.ndarray]) -> np.ndarray:
        corruption, strength, number, image = task
        made: Any = corruption(image, strength, draws_of(corruption.name, strength, number))
        for operation in operations:
            made = operation(made)
        return made

    number = 0      # of the image in the whole evaluation: draws don't depend on the batch
    with thread_pool() as pool:
        for batch, labels in numpy_batches(pixels.epoch()):
            tasks = ((*setting, number + row, image) for setting in settings for row, image in enumerate(batch))
            ready = in_order(pool, prepare, tasks, 2 * len(batch))
            for at in range(len(settings)):
                yield at, np.stack(list(islice(ready, len(batch)))), labels
            number += len(batch)
