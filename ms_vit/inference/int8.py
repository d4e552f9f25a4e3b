"""An OpenVINO export in int8: calibrated on training pictures, and scored on others before and after."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from ms_vit.data.layout import Split
from ms_vit.data.pipeline import Batches, images_of_split, naming_bad_images, numpy_batches
from ms_vit.errors import DataError
from ms_vit.inference.predictor import score
from ms_vit.progress import say
from ms_vit.weights.exports import Exporter, imported
from ms_vit.weights.files import ModelSpec

PICTURES = 128      # to calibrate on


@dataclass(frozen=True)
class Int8:
    """What int8 did: top-1 accuracy from 0 to 1 before and after, of the same `images` pictures of `measured_on`."""

    float32_top1: float
    int8_top1: float
    images: int
    measured_on: str
    calibrated_on: str
    pictures: int

    @property
    def drop(self) -> float:
        """Top-1 that was lost, in points (of 100)."""
        return round(100 * (self.float32_top1 - self.int8_top1), 9)     # 1 of 100 pictures is 1, not 1.0000000000000009

    def __str__(self) -> str:
        return (f"top-1 {100 * self.int8_top1:.2f} % in int8, {100 * self.float32_top1:.2f} % in float32, of "
                f"{self.images:,} images of {self.measured_on}")


class Quantizer:
    """Makes an export int8, and measures what that costs, on pictures that are prepared as in evaluation.

    calibrate: a folder of class folders; PICTURES of them are taken, as many of each class as of any other, always the
    same ones, and none that is scored. split: those that are scored, all of them.

    Raises DataError as Batches does, and where nothing is left to calibrate on, and UsageError where NNCF is missing.
    """

    def __init__(self, calibrate: Path, split: Split, spec: ModelSpec):
        self.int8 = imported("openvino_int8", "int8", "nncf", "openvino")
        batches = partial(Batches, labels=spec.labels, preprocessing=spec.preprocessing, training=False)
        self.scored = batches(split, batch_size=16)
        source = Split(calibrate, flat=True)
        files = images_of_split(source, spec.labels)
        chosen = choose(source, leave_out={file.resolve() for file in images_of_split(split, spec.labels)})
        if not chosen:
            raise DataError(f"all images of {source} are among those of {split}, which are scored; calibrate on others")
        self.calibration = batches(source, batch_size=1, leave_out=set(files) - set(chosen))
        self.classes = len(spec.labels)

    def __call__(self, to: Exporter, path: Path) -> Int8:
        """Makes an OpenVINO export in float32 one in int8. Raises DataError where a picture can't be read."""
        before = self.top1(to, path)
        with naming_bad_images():
            images = [image for image, _ in numpy_batches(self.calibration.epoch())]
        say(f"calibrating int8 on {len(images)} pictures of {self.calibration.split}")
        self.int8.quantize(path, images)
        return Int8(before, self.top1(to, path), len(self.scored), str(self.scored.split),
                    str(self.calibration.split), len(images))

    def top1(self, to: Exporter, path: Path) -> float:
        with naming_bad_images():
            return score(to.run(path), numpy_batches(self.scored.epoch()), classes=self.classes,
                         total=self.scored.steps).top1


def choose(split: Split, count: int = PICTURES, *, leave_out: Collection[Path] = ()) -> list[Path]:
    """`count` images of a split, or all if it has fewer: in turn one of each class, none of `leave_out` (resolved)."""
    random = np.random.default_rng(0)
    classes = [[file for file in files if file.resolve() not in leave_out] for files in split.images().values()]
    shuffled = [[files[index] for index in random.permutation(len(files))] for files in classes]
    turns = zip_longest(*(shuffled[index] for index in random.permutation(len(shuffled))))
    return [file for file in chain.from_iterable(turns) if file is not None][:count]
