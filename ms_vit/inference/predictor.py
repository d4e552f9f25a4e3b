"""A trained network that answers: names with probabilities for pictures, and scores for many."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ms_vit.data.images import read_image
from ms_vit.data.threads import in_order, thread_pool
from ms_vit.errors import UsageError
from ms_vit.inference.engines import load_engine
from ms_vit.inference.kept import Logits
from ms_vit.inference.scores import Scores
from ms_vit.progress import track
from ms_vit.runs.checkpoints import model_file


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its index in the head, its id (class folder), its name, its probability from 0 to 1."""

    index: int
    id: str
    name: str
    probability: float


class Predictor:
    """Names what is on pictures: Predictor("runs/digits")(["a.png", "b.jpg"], top_k=5).

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, a weight file of any format, or what was
            exported for OpenVINO (.xml).
        model: the name of the network, for another library's weights: "vit_base_patch16_224".
        device: CPU, GPU or Ascend, or one card of several, as in Ascend:3 (default: what MindSpore finds).
        batch_size: pictures that go through the network at once; any number of pictures will do.
        singly: few pictures go one by one where MindSpore would fill a batch up; that compiles a second graph.
        engine: "mindspore", "onnx" for ONNX Runtime, "openvino", or "auto", the fastest of them here; see engines.py.
        precision: "float32", or what enters matrix products is rounded to: "bfloat16" on a CPU with AVX512-BF16 and an
            Ascend from the 910B on, "float16" on GPU and Ascend.

    Raises DataError where there is no whole checkpoint, or a picture can't be read, and UsageError where batch_size is
    below 1, or this machine can't do what is asked for.
    """

    def __init__(self, checkpoint: str | Path, *, model: str | None = None, device: str | None = None,
                 batch_size: int = 32, singly: bool = False, engine: str = "mindspore", precision: str = "float32"):
        if batch_size < 1:
            raise UsageError("batch_size must be at least 1")
        self.weights = model_file(Path(checkpoint))
        self.logits, self.spec = load_engine(engine, self.weights, model, device=device, batch_size=batch_size,
                                             singly=singly, precision=precision)
        self.batch_size = batch_size
        self.operations = self.spec.preprocessing.operations()

    def __call__(self, images: Sequence[str | Path | Image.Image], top_k: int = 5) -> list[list[Prediction]]:
        """The `top_k` most probable classes of each image, the most probable first."""
        answers: list[list[Prediction]] = []
        with thread_pool() as pool:
            ready = in_order(pool, self.prepare, images, self.batch_size)
            while batch := list(islice(ready, self.batch_size)):
                answers += self.answer(batch, top_k)
        return answers

    def answer(self, ready: list[np.ndarray], top_k: int) -> list[list[Prediction]]:
        """The same for what `prepare` made of at most `batch_size` images."""
        return [self.top(row, top_k) for row in self.logits(np.stack(ready))] if ready else []

    def prepare(self, image: str | Path | Image.Image) -> np.ndarray:
        """A picture as the network wants it, [C, H, W] float32."""
        picture = image.convert("RGB") if isinstance(image, Image.Image) else self.read(Path(image))
        return self.spec.preprocessing.apply(self.operations, picture)

    def read(self, file: Path | BinaryIO, name: str = "") -> Image.Image:
        """A picture's file, or an open one that is called `name`, decoded as the network wants it. Raises DataError."""
        return read_image(file, self.spec.preprocessing.at_least, name)

    def top(self, logits: np.ndarray, top_k: int) -> list[Prediction]:
        exponents = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = exponents / exponents.sum()
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        labels = self.spec.labels
        return [Prediction(int(i), labels.ids[i], labels.names[i], float(probabilities[i])) for i in best]


def score(logits: Logits, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, classes: int,
          total: int | None = None, averaged: Scores | None = None) -> Scores:
    """Scores over every image of `batches`, pairs of images [n, C, H, W] and labels [n].

    averaged: is added the same by the mean of each image's logits and its mirror's (as by Jordan 2024, and timm's tta).
    """
    scores, began = Scores(classes), time.perf_counter()
    for images, labels in track(batches, "scoring", "batches", total):
        plain = logits(images)
        scores.add(plain, labels)
        if averaged:
            averaged.add((plain + logits(np.ascontiguousarray(images[..., ::-1]))) / 2, labels)
    scores.seconds = time.perf_counter() - began
    return scores
