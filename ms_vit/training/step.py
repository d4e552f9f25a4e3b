"""One training step, compiled as one graph: forward, backward, clip, update."""

import mindspore as ms
from mindspore import Tensor, amp, nn, ops

from ms_vit.models import kernels
from ms_vit.training.gradients import Accumulated, Gradients, RecomputedGradients, each, scaled


class ClipByGlobalNorm(nn.Cell):
    """Scales all gradients by one factor so that their joint L2 norm is at most `max_norm` (Pascanu et al. 2013)."""

    def __init__(self, max_norm: float):
        super().__init__()
        self.max_norm = max_norm
        self.square_sum = kernels.SquareSum()

    def construct(self, gradients):
        norm = ops.sqrt(ops.addn(each(self.square_sum, gradients)))
        factor = ops.minimum(self.max_norm / (norm + 1e-6), Tensor(1.0, ms.float32))
        return each(ops.partial(scaled, factor), gradients)


class TrainStep(nn.Cell):
    """(images [B, 3, H, W], labels [B]) -> the batch's mean loss, a scalar; updates the network's parameters.

    clip_norm: bound of the gradients' joint norm; 0 leaves them as they are.
    scale_loss: for float16 (`amp_level` O2 and O3): scales the loss so that small gradients survive, leaves a step
        out whose gradients overflow, and adapts the scale (Micikevicius et al. 2018, sec. 3.2).
    recompute: run each block again in the backward pass instead of keeping what it computed; not with dropout.
    accumulate: parts that a batch is cut into, one after the other; must divide B.
    """

    def __init__(self, net: nn.Cell, loss: nn.Cell, optimizer: nn.Cell, *, clip_norm: float = 0.0,
                 scale_loss: bool = False, recompute: bool = False, accumulate: int = 1):
        super().__init__(auto_prefix=False)
        self.net = net
        self.optimizer = optimizer
        self.clip = ClipByGlobalNorm(clip_norm) if clip_norm > 0 else None
        self.scaler = amp.DynamicLossScaler(2**16, 2, 2000) if scale_loss else None
        gradients = (RecomputedGradients if recompute else Gradients)(net, loss, optimizer.params, self.scaler)
        self.gradients = Accumulated(gradients, accumulate) if accumulate > 1 else gradients

    def construct(self, images, labels):
        loss, gradients = self.gradients(images, labels)
        if self.scaler is None:
            return ops.depend(loss, self.apply(gradients))
        loss, gradients = self.scaler.unscale(loss), self.scaler.unscale(gradients)
        finite = amp.all_finite(gradients)
        self.scaler.adjust(finite)
        if finite:
            loss = ops.depend(loss, self.apply(gradients))
        return loss

    def apply(self, gradients):
        if self.clip is not None:
            gradients = self.clip(gradients)
        return self.optimizer(gradients)
