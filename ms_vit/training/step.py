"""One training step, compiled as one graph: forward, backward, clip, update."""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, amp, nn, ops

from ms_vit.cell import TopCell
from ms_vit.models import kernels
from ms_vit.models.kernels.dropout import follow
from ms_vit.training.distillation import Teacher
from ms_vit.training.ema import Average
from ms_vit.training.gradients import Accumulated, Gradients, RecomputedGradients, hyper_map
from ms_vit.training.mixing import Mixing


class GlobalNorm(nn.Cell):
    """The joint L2 norm of a tuple of gradients, a scalar."""

    def __init__(self):
        super().__init__()
        self.square_sum = kernels.SquareSum()

    def construct(self, gradients):
        return ops.sqrt(ops.addn(hyper_map(self.square_sum, gradients)))


class Recent(nn.Cell):
    """Keeps what the last `steps` steps came to on the device, so that it needn't wait for the host to read it.

    (loss, norm, top1), scalars -> `rows` float32 [steps, 3], the newest last.
    """

    def __init__(self, steps: int):
        super().__init__(auto_prefix=False)
        self.steps = steps
        self.rows = Parameter(Tensor(np.zeros((steps, 3)), ms.float32), name="recent", requires_grad=False)

    def construct(self, loss, norm, top1):
        row = ops.stack((loss.astype(ms.float32), norm, top1)).reshape(1, 3)
        return ops.assign(self.rows, ops.concat((self.rows[1:], row)) if self.steps > 1 else row)


class Evened(nn.Cell):
    """Running statistics, which each process follows by its own part of a batch -> their mean, in all processes.

    So whichever writes them writes all processes', and a run that goes on from there has what it had before.
    """

    def __init__(self, statistics: Sequence[Parameter], reducer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.statistics = ParameterTuple(statistics)
        self.reducer = reducer

    def construct(self):
        return hyper_map(ops.assign, self.statistics, self.reducer(self.statistics))


class TrainStep(TopCell):
    """(images [B, C, H, W], labels [B]) -> the batch's mean loss and its gradients' joint norm; updates the parameters.

    clip_norm: bound of the gradients' joint norm, to which they are scaled (Pascanu et al. 2013); 0 leaves them alone.
    scale_loss: for float16: scales the loss so that small gradients survive, leaves a step out whose gradients
        overflow, whose norm is then infinite, and adapts the scale (Micikevicius et al. 2018, sec. 3.2).
    recompute: run each block again in the backward pass instead of keeping what it computed.
    accumulate: micro-batches that a batch is cut into, one after the other; must divide B.
    mixing: mixes the images of a batch first. teacher: adds its logits to the labels; `loss` is then a Distillation.
    average: follows the parameters. seed: of what dropout drops. part: where the images are a process's part of a
        batch, the number of its first micro-batch among those of all.
    reducer: makes of each process's gradients their mean over all (World). evened: does so with BatchNorm's running
        statistics, which are each process's own in a step, as in PyTorch. recent: steps whose loss, norm and top-1 are
        kept; the latter is that of the images as they are trained on, NaN for mixed ones, which have no one label.
    """

    def __init__(self, net: nn.Cell, loss: nn.Cell, optimizer: nn.Cell, *, clip_norm: float = 0.0,
                 scale_loss: bool = False, recompute: bool = False, accumulate: int = 1, mixing: Mixing | None = None,
                 teacher: Teacher | None = None, average: Average | None = None, seed: int = 0,
                 part: int = 0, reducer: nn.Cell | None = None, evened: Evened | None = None, recent: int = 1):
        super().__init__(auto_prefix=False)
        self.net = net
        self.optimizer = optimizer
        self.norm = GlobalNorm()
        self.clip_norm = clip_norm
        self.scaler = amp.DynamicLossScaler(2**16, 2, 2000) if scale_loss else None
        self.mixing = mixing
        self.teacher = teacher
        self.average = average
        self.reducer = reducer
        self.evened = evened
        self.recent = Recent(recent)
        self.none = Tensor(float("nan"), ms.float32)
        self.part = Parameter(Tensor([part], ms.int32), name="part", requires_grad=False)
        follow(net, optimizer.step, self.part, seed)
        gradients = (RecomputedGradients if recompute else Gradients)(net, loss, optimizer.params, self.scaler)
        self.gradients = Accumulated(gradients, accumulate, self.part) if accumulate > 1 else gradients

    def state(self) -> dict[str, Parameter]:
        """All that a resumed run needs besides the network and its average, by the names that it is saved under."""
        scaler = [self.scaler.scale_value, self.scaler.counter] if self.scaler is not None else []
        return {parameter.name: parameter for parameter in (*self.optimizer.state(), *scaler)}

    def construct(self, images, labels):
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, self.optimizer.step)
        if self.teacher is not None:
            labels = self.teacher(images, labels)
        (loss, top1), gradients = self.gradients(images, labels)
        if self.mixing is not None:
            top1 = self.none
        if self.reducer is not None:
            gradients = self.reducer(gradients)
        if self.evened is not None:
            loss = ops.depend(loss, self.evened())
        if self.scaler is None:
            norm = self.norm(gradients)
            loss = ops.depend(loss, self.apply(gradients, norm))
            return ops.depend(loss, self.recent(loss, norm, top1)), norm
        loss, gradients = self.scaler.unscale(loss), self.scaler.unscale(gradients)
        finite = amp.all_finite(gradients)
        self.scaler.adjust(finite)
        norm = Tensor(float("inf"), ms.float32)     # of a step that is left out
        if finite:
            norm = self.norm(gradients)
            loss = ops.depend(loss, self.apply(gradients, norm))
        return ops.depend(loss, self.recent(loss, norm, top1)), norm

    def apply(self, gradients, norm):
        factor = Tensor(1.0, ms.float32)
        if self.clip_norm > 0:
            factor = ops.minimum(self.clip_norm / (norm + 1e-6), factor)
        done = self.optimizer(gradients, factor)
        if self.average is not None:
            done = self.average(ops.depend(self.optimizer.step, done))
        return done
