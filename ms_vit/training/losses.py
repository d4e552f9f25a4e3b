"""What training makes small: the losses that recipes name."""

import math
from collections.abc import Callable

import mindspore as ms
from mindspore import nn, ops

from ms_vit.recipe import Loss
from ms_vit.registry import Registry

# A loss may have `chance(classes)`, what guessing comes to; the logarithm of their number where it has not.
losses: Registry[Callable[[Loss], nn.Cell]] = Registry("loss")


def targets_of(labels, classes: int):
    """Labels [B], int32 -> targets [B, C], float32, 1 for the label; targets stay as they are."""
    if labels.ndim == 1:
        return ops.one_hot(labels, classes, ms.Tensor(1.0, ms.float32), ms.Tensor(0.0, ms.float32))
    return labels


class CrossEntropy(nn.Cell):
    """Mean cross-entropy of logits [B, C] and labels [B] (int32), in float32: a scalar.

    Targets [B, C] that sum to 1 (float32, as mixup gives them) may take the labels' place. label_smoothing spreads its
    share evenly over all C classes (Szegedy et al. 2016, sec. 7), as PyTorch and timm.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.smoothing = label_smoothing

    def construct(self, logits, labels):
        log_probabilities = ops.log_softmax(logits.astype(ms.float32), -1)             # [B, C]
        classes = logits.shape[-1]
        targets = (1.0 - self.smoothing) * targets_of(labels, classes) + self.smoothing / classes
        return -(targets * log_probabilities).sum(-1).mean()


class BinaryCrossEntropy(nn.Cell):
    """Each class's own yes or no, its mean over B and C: logits [B, C], labels [B] or targets [B, C] -> a scalar.

    In float32, as in DeiT III (Touvron et al. 2022, sec. 4.1) and timm: an image that is mixed of two is both, with its
    shares as targets. label_smoothing as in CrossEntropy; timm's mixup smooths its targets in the same way.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.smoothing = label_smoothing

    @staticmethod
    def chance(classes: int) -> float:
        return math.log(2)

    def construct(self, logits, labels):
        x, classes = logits.astype(ms.float32), logits.shape[-1]
        targets = (1.0 - self.smoothing) * targets_of(labels, classes) + self.smoothing / classes
        return (ops.relu(x) - x * targets + ops.log1p(ops.exp(-ops.abs(x)))).mean()     # no overflow for any x


@losses.register("cross_entropy")
def cross_entropy(settings: Loss) -> CrossEntropy:
    """One class of all, with the recipe's label smoothing."""
    return CrossEntropy(settings.label_smoothing)


@losses.register("bce")
def bce(settings: Loss) -> BinaryCrossEntropy:
    """Each class on its own, with the recipe's label smoothing."""
    return BinaryCrossEntropy(settings.label_smoothing)
