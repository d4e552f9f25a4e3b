"""answers.jsonl: what a network said of each image of a split; the first line tells of which."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
from ms_vit.errors import DataError
from ms_vit.writing import write_whole

ANSWERS = "answers.jsonl"
DIGITS = 5      # of a probability


@dataclass(frozen=True)
class Answers:
    """The most probable classes of each image, by class index, the most probable first.

    split: where the images are. weights: the file that answered. images: CLASS/NAME below the split's folder. labels:
    [n] true classes. top: [n, k] classes. probabilities: [n, k], from 0 to 1.
    """

    split: Split
    weights: Path
    images: list[str]
    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def right(self) -> np.ndarray:
        """Which images' most probable class is the true one, [n] bool."""
        return self.top[:, 0] == self.labels

    @property
    def in_top5(self) -> np.ndarray:
        return (self.top == self.labels[:, None]).any(1)

    def confusion(self, classes: int) -> np.ndarray:
        """Counts by [true, predicted]."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.labels, self.top[:, 0]), 1)
        return counts

    def write(self, path: Path, labels: Labels) -> None:
        split = self.split
        about = {"folder": str(split.folder), "part": split.part, "share": split.share, "flat": split.flat,
                 "weights": os.path.relpath(self.weights, path.parent)}
        lines = [json.dumps(about)]
        for image, label, top, probabilities in zip(self.images, self.labels, self.top, self.probabilities,
                                                    strict=True):
            lines.append(json.dumps({"image": image, "label": labels.ids[label], "top": [labels.ids[i] for i in top],
                                     "probabilities": [round(float(each), DIGITS) for each in probabilities]}))
        write_whole(path, "\n".join(lines) + "\n")


def read_answers(path: Path, labels: Labels) -> Answers | None:
    """The answers in a file; None where there is none. Raises DataError where it is damaged or of other classes."""
    if not path.is_file():
        return None
    index = {id: number for number, id in enumerate(labels.ids)}
    try:
        first, *lines = map(json.loads, path.read_text().splitlines())
        split = Split(Path(first["folder"]), first["part"], first["share"], first["flat"])
        return Answers(split, path.parent / first["weights"], [line["image"] for line in lines],
                       np.array([index[line["label"]] for line in lines], np.int64),
                       np.array([[index[id] for id in line["top"]] for line in lines], np.int64),
                       np.array([line["probabilities"] for line in lines], np.float64))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged or of another network's classes; \"ms-vit eval\" writes it anew") from error
