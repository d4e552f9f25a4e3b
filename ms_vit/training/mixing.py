"""mixup (Zhang et al. 2018): training on blends of two images and of their labels."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_vit.recipe import Augment


class Mixup(nn.Cell):
    """(images [B, 3, H, W], labels [B] int32, step [1] int32) -> images, and targets [B, C] in the labels' place.

    A batch is blended with itself in reverse, as timm does; the order of images is random already. The first image's
    share is Beta(alpha, alpha) (sec. 2), drawn ahead for all steps, so that a resumed run has those of an unbroken one.
    """

    def __init__(self, alpha: float, steps: int, classes: int, seed: int):
        super().__init__()
        self.shares = Tensor(np.random.default_rng(seed).beta(alpha, alpha, steps), ms.float32)
        self.last = steps - 1
        self.classes = classes

    def construct(self, images, labels, step):
        share = self.shares[ops.minimum(step, self.last)].reshape(())
        back = ops.arange(images.shape[0] - 1, -1, -1)
        targets = ops.one_hot(labels, self.classes, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
        return (share * images + (1 - share) * ops.gather(images, back, 0),
                share * targets + (1 - share) * ops.gather(targets, back, 0))


def mixing(settings: Augment, steps: int, classes: int, seed: int) -> Mixup | None:
    """What blends the images of a batch, by the recipe; None where it asks for nothing."""
    return Mixup(settings.mixup, steps, classes, seed) if settings.mixup else None
