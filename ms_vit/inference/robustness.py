"""Top-1 accuracy under corruption: each image once for every corruption and strength."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from ms_vit.data.corruptions import STRENGTHS, Corruption, draws_of
from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
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


class CorruptedBatches:
    """Every image of `split` by each of `corruptions` at each strength, batch by batch.

    Gives, for each batch of files and each of `settings`, the setting's index, images [n, C, H, W] float32 and labels
    [n] int32. Files are decoded once, and no more than two batches of images are made ahead.

    Raises what Batches raises, and UsageError where the operations don't begin with those that bring an image to its
    size: as in ImageNet-C, it is corrupted after these, and before it is normalised.
    """

    def __init__(self, split: Split, labels: Labels, preprocessing: Preprocessing, corruptions: Sequence[Corruption], *,
                 batch_size: int, workers: int | None = None):
        self.settings = [(corruption, strength) for corruption in corruptions for strength in STRENGTHS]
        first, rest = preprocessing.split()
        grey = [text for text in first.transforms if text.startswith("Grayscale")]      # corruptions are of colours
        first = replace(first, transforms=[text for text in first.transforms if text not in grey])
        rest = replace(rest, transforms=[*grey, *rest.transforms])
        made: Any = encoded(Image.new("RGB", (64, 48)))
        for operation in first.operations() if first.transforms else ():
            made = operation(made)
        if np.shape(made) != (*preprocessing.sides, 3):
            raise UsageError("images are corrupted once they have their size, so the operations for evaluation must "
                             "begin with Decode, Resize, CenterCrop or such, not "
                             f"{', '.join(preprocessing.transforms[:3])}")
        self.pixels = Batches(split, labels, first, batch_size=batch_size, training=False, workers=workers)
        self.operations = rest.operations()

    def __len__(self) -> int:
        return self.pixels.steps * len(self.settings)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        number = 0      # of the image in the whole evaluation: draws don't depend on the batch
        with thread_pool() as pool:
            for batch, labels in numpy_batches(self.pixels.epoch()):
                tasks = ((*setting, row, image) for setting in self.settings for row, image in enumerate(batch, number))
                ready = in_order(pool, self.prepare, tasks, 2 * len(batch))
                for at in range(len(self.settings)):
                    yield at, np.stack(list(islice(ready, len(batch)))), labels
                number += len(batch)

    def prepare(self, task: tuple[Corruption, int, int, np.ndarray]) -> np.ndarray:
        """An image [H, W, 3] uint8 with its number, corrupted and as the network wants it."""
        corruption, strength, number, image = task
        made: Any = corruption(image, strength, draws_of(corruption.name, strength, number))
        for operation in self.operations:
            made = operation(made)
        return made

    def score(self, logits: Logits) -> Robustness:
        right = np.zeros(len(self.settings), np.int64)
        for at, images, labels in track(self, "scoring corrupted images", "batches", len(self)):
            right[at] += (logits(images).argmax(1) == labels).sum()
        top1: dict[str, list[float]] = {}
        for (corruption, _), count in zip(self.settings, right.tolist(), strict=True):
            top1.setdefault(corruption.name, []).append(count / len(self.pixels))
        return Robustness(top1)
