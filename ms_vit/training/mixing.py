"""Training on two images at once and on both labels: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019)."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_vit.recipe import Augment
from ms_vit.training.losses import targets_of


def boxes(alpha: float, steps: int, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """CutMix's boxes, top, bottom, left, right: int64 [steps, 4], cut off at the image's border.

    A box has 1 - lambda of the image's area, lambda from Beta(alpha, alpha), and its middle anywhere (sec. 3.1).
    """
    sides = np.sqrt(1 - random.beta(alpha, alpha, steps))
    edges = []
    for side in (height, width):
        length, middle = (side * sides).astype(np.int64), random.integers(0, side, steps)
        edges += [np.clip(middle - length // 2, 0, side), np.clip(middle + (length + 1) // 2, 0, side)]
    return np.stack(edges, 1)


class Mixing(nn.Cell):
    """(images [B, C, H, W], labels [B] int32, step [1] int32) -> images, and targets [B, C] in the labels' place.

    Images are mixed in pairs, each with its neighbour, which any process has that has a part of the batch; the order
    of images is random already. (timm's partner is that at the other end.) Mixup blends two
    images, the first one's share from Beta(mixup, mixup); CutMix puts a box of the second into the first, whose share
    is what is left of its area. What is done in a step is drawn ahead for all steps, so that a resumed run has what an
    unbroken one has.

    settings: with mixup, cutmix or both. size: height and width of the images.
    """

    def __init__(self, settings: Augment, *, steps: int, classes: int, size: tuple[int, int], seed: int):
        super().__init__()
        self.cuts = settings.cutmix > 0
        height, width = size
        random = np.random.default_rng(seed)
        shares, boxed = np.ones(steps), np.zeros((steps, 4), np.int64)         # of mixup; of CutMix
        if settings.mixup:
            shares = random.beta(settings.mixup, settings.mixup, steps)
        if settings.cutmix:
            boxed = boxes(settings.cutmix, steps, height, width, random)
            cut = random.random(steps) < (settings.cutmix_chance if settings.mixup else 1)
            shares[cut], boxed[~cut] = 1, 0
        none = random.random(steps) >= settings.mix_chance
        shares[none], boxed[none] = 1, 0
        area = (boxed[:, 1] - boxed[:, 0]) * (boxed[:, 3] - boxed[:, 2]) / (height * width)
        self.shares = Tensor(shares, ms.float32)
        self.boxes = Tensor(boxed, ms.int32)
        self.label_shares = Tensor(shares * (1 - area), ms.float32)
        self.rows = Tensor(np.arange(height).reshape(-1, 1), ms.int32)
        self.columns = Tensor(np.arange(width).reshape(1, -1), ms.int32)
        self.last = steps - 1
        self.classes = classes

    def construct(self, images, labels, step):
        now = ops.minimum(step, self.last)
        share, of_label = self.shares[now].reshape(()), self.label_shares[now].reshape(())
        if self.cuts:
            top, bottom, left, right = self.boxes[now].reshape(4).split(1)
            within = ops.logical_and(ops.logical_and(self.rows >= top, self.rows < bottom),
                                     ops.logical_and(self.columns >= left, self.columns < right))
            share = share * (1 - within.astype(ms.float32))                            # [H, W]
        places = ops.arange(images.shape[0])
        # 1 0 3 2 ...; the last of an odd number is its own.
        partner = ops.minimum(places + 1 - 2 * (places % 2), images.shape[0] - 1)
        targets = targets_of(labels, self.classes)
        return (share * images + (1 - share) * ops.gather(images, partner, 0),
                of_label * targets + (1 - of_label) * ops.gather(targets, partner, 0))


def mixing(settings: Augment, *, steps: int, classes: int, size: tuple[int, int], seed: int) -> Mixing | None:
    """What mixes the images of a batch, by the recipe; None where it asks for nothing."""
    if not settings.mixup and not settings.cutmix:
        return None
    return Mixing(settings, steps=steps, classes=classes, size=size, seed=seed)
