"""The moving average of a network's parameters, which often scores better than their last values."""

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops

from ms_vit.training.gradients import hyper_map

blend = ops.MultitypeFuncGraph("blend")


@blend.register("Tensor", "Tensor", "Tensor")
def _blend(share, average, param):
    return ops.assign(average, average + share * (param - average))


class Average(nn.Cell):
    """Moves each parameter of `averaged` a little towards that of `net`: average += (1 - d) * (parameter - average).

    d is min(decay, (1 + t) / (10 + t)) after t steps, as in TensorFlow's ExponentialMovingAverage: the decay grows, so
    that an early average forgets where training began. Both networks are of one kind; those of `averaged` get names of
    their own, since one graph holds both.
    """

    def __init__(self, net: nn.Cell, averaged: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        for parameter in averaged.get_parameters():
            parameter.name = f"ema.{parameter.name}"
        self.params = ParameterTuple(net.get_parameters())
        self.averages = ParameterTuple(averaged.get_parameters())
        self.decay = Tensor(decay, ms.float32)

    def construct(self, step):
        t = step.astype(ms.float32).reshape(())
        share = 1 - ops.minimum(self.decay, (1 + t) / (10 + t))
        return hyper_map(ops.partial(blend, share), self.averages, self.params)
