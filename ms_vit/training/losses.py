"""What training makes small: the losses that recipes name."""

from collections.abc import Callable

import mindspore as ms
from mindspore import nn, ops

from ms_vit.recipe import Loss
from ms_vit.registry import Registry

losses: Registry[Callable[[Loss], nn.Cell]] = Registry("loss")


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
        targets = labels
        if labels.ndim == 1:
            targets = ops.one_hot(labels, classes, ms.Tensor(1.0, ms.float32), ms.Tensor(0.0, ms.float32))
        targets = (1.0 - self.smoothing) * targets + self.smoothing / classes
        return -(targets * log_probabilities).sum(-1).mean()


@losses.register("cross_entropy")
def cross_entropy(settings: Loss) -> CrossEntropy:
    """Cross-entropy with the recipe's label smoothing."""
    return CrossEntropy(settings.label_smoothing)
