"""Whether a network's probabilities come true."""

from dataclasses import dataclass

import numpy as np

from ms_vit.runs.answers import Answers

BINS = 15       # of equal width, as in Guo et al.


@dataclass(frozen=True)
class Calibration:
    """Images by how sure the network was of its first answer, in BINS bins.

    images: in each bin. confidence, top1: means in each, from 0 to 1; NaN where there is no image.
    """

    images: np.ndarray
    confidence: np.ndarray
    top1: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1 (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3)."""
        apart = np.abs(np.nan_to_num(self.confidence - self.top1))
        return float((self.images * apart).sum() / self.images.sum())


def calibration(answers: Answers) -> Calibration:
    sure = answers.probabilities[:, 0].astype(np.float64)
    # A bin holds its upper edge, and not its lower one.
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Calibration(images, np.bincount(place, sure, BINS) / images,
                           np.bincount(place, answers.right.astype(np.float64), BINS) / images)
