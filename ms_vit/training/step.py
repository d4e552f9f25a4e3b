"""One training step, compiled as one graph: forward, backward, clip, update."""

import mindspore as ms
from mindspore import Tensor, amp, nn, ops


def clip_by_global_norm(gradients, max_norm):
    """Scales all gradients by one factor so that their joint L2 norm is at most `max_norm` (Pascanu et al. 2013)."""
    squares = 0.0
    for gradient in gradients:
        squares = squares + ops.square(gradient.astype(ms.float32)).sum()
    factor = ops.minimum(max_norm / (ops.sqrt(squares) + 1e-6), Tensor(1.0, ms.float32))
    return [gradient * factor.astype(gradient.dtype) for gradient in gradients]


class TrainStep(nn.Cell):
    """(images [B, 3, H, W], labels [B]) -> the batch's mean loss, a scalar; updates the network's parameters.

    clip_norm: bound of the gradients' joint norm; 0 leaves them as they are.
    scale_loss: for float16 (`amp_level` O2 and O3): scales the loss so that small gradients survive, leaves a step
        out whose gradients overflow, and adapts the scale (Micikevicius et al. 2018, sec. 3.2).
    """

    def __init__(self, net: nn.Cell, loss: nn.Cell, optimizer: nn.Cell, *, clip_norm: float = 0.0,
                 scale_loss: bool = False):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = loss
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.scaler = amp.DynamicLossScaler(2**16, 2, 2000) if scale_loss else None
        self.loss_and_gradients = ops.value_and_grad(self.forward, None, optimizer.params)

    def forward(self, images, labels):
        loss = self.loss(self.net(images), labels)
        return self.scaler.scale(loss) if self.scaler is not None else loss

    def construct(self, images, labels):
        loss, gradients = self.loss_and_gradients(images, labels)
        if self.scaler is None:
            return ops.depend(loss, self.apply(gradients))
        loss, gradients = self.scaler.unscale(loss), self.scaler.unscale(gradients)
        finite = amp.all_finite(gradients)
        self.scaler.adjust(finite)
        if finite:
            loss = ops.depend(loss, self.apply(gradients))
        return loss

    def apply(self, gradients):
        if self.clip_norm > 0:
            gradients = clip_by_global_norm(gradients, self.clip_norm)
        return self.optimizer(gradients)
