"""Top-1, top-5, per class and confusion, counted over every image."""

from pathlib import Path
from typing import Any

import numpy as np

from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
from ms_vit.distributed import World
from ms_vit.runs.answers import Answers


class Scores:
    """Counts of right answers: `add` logits [B, C] with labels [B], batch by batch; every image counts once."""

    def __init__(self, classes: int):
        self.confusion = np.zeros((classes, classes), np.int64)     # [true, predicted]
        self.in_top5 = np.zeros(classes, np.int64)                  # by true class
        self.loss_sum = 0.0
        self.seconds = 0.0          # that it took to make them
        # Of each batch, image by image: true classes [n], most probable classes and their probabilities [n, 5].
        self.told: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        logits = logits.astype(np.float64)
        # A stable sort gives ties to the lower index, the same on every machine.
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        np.add.at(self.confusion, (labels, order[:, 0]), 1)
        np.add.at(self.in_top5, labels, (order == labels[:, None]).any(1))
        shifted = logits - logits.max(1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(1))
        self.loss_sum += float((log_sum - shifted[np.arange(len(labels)), labels]).sum())
        likely = np.exp(np.take_along_axis(shifted, order, 1) - log_sum[:, None])
        self.told.append((labels.astype(np.int32), order.astype(np.int32), likely.astype(np.float32)))

    def over(self, world: World) -> "Scores":
        """The same of the images of all processes; each must call it."""
        self.confusion, self.in_top5 = world.sum(self.confusion), world.sum(self.in_top5)
        self.loss_sum = float(world.sum(np.array(self.loss_sum)))
        labels, top, probabilities = (world.collect(np.concatenate(part), self.images)
                                      for part in zip(*self.told, strict=True))
        self.told = [(labels, top, probabilities)]
        return self

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of images whose class is the most probable, from 0 to 1."""
        return float(np.trace(self.confusion) / self.images)

    @property
    def top5(self) -> float:
        """Share of images whose class is among the five most probable, from 0 to 1."""
        return float(self.in_top5.sum() / self.images)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, without label smoothing."""
        return self.loss_sum / self.images

    def answers(self, split: Split, images: list[str], weights: Path) -> Answers:
        """The same image by image; images: CLASS/NAME of each, in the order in which they came."""
        labels, top, probabilities = (np.concatenate(part) for part in zip(*self.told, strict=True))
        return Answers(split, weights, images, labels, top, probabilities)

    def as_dict(self, labels: Labels) -> dict[str, Any]:
        """Everything, for eval.json. Classes without an image are left out; so are zeros of the confusion."""
        seen = [index for index in range(len(labels)) if self.confusion[index].sum()]
        return {
            "images": self.images, "top1": self.top1, "top5": self.top5, "loss": self.loss,
            "per_class": {labels.ids[i]: {"name": labels.names[i], "images": int(self.confusion[i].sum()),
                                          "top1": float(self.confusion[i, i] / self.confusion[i].sum()),
                                          "top5": float(self.in_top5[i] / self.confusion[i].sum())} for i in seen},
            "confusion": {labels.ids[i]: {labels.ids[j]: int(self.confusion[i, j])
                                          for j in np.flatnonzero(self.confusion[i])} for i in seen},
        }

    def mistakes(self, labels: Labels, most: int = 3) -> list[str]:
        """The most frequent mix-ups, in words."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(index), len(labels)) for index in order]
        return [f"{labels.names[i]} taken for {labels.names[j]}, {wrong[i, j]} of {self.confusion[i].sum()}"
                for i, j in pairs if wrong[i, j]]
