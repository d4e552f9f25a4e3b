"""Dropout whose masks can be drawn again: each follows from a seed, the layer, the step and the place in the tensor.

MindSpore's random operators keep a state that nobody can save: a resumed run would drop other elements than an unbroken
one, and a block that runs a second time for its gradient (train.recompute) others than it did the first time. On CPU
and GPU the draws are hashes of our own, of the place in the whole batch, in however many parts it is computed; on
Ascend, where whole numbers are slow, they are by its generator (Philox), whose key is another for each step, part and
layer.
"""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import DropoutExt

from ms_vit.models.kernels import compiled

PARTS = 2**20       # more than a batch is ever cut into


class Dropout(nn.Cell):
    """Drops a share of all elements in training, and scales the others by 1 / (1 - rate): [...] -> [...].

    (Srivastava et al. 2014, "Dropout"; scaled in training, so that evaluation needs no change.) Until `follow` tells it
    what to follow, it draws by MindSpore's own generator.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate
        self.native = nn.Dropout(p=rate)
        self.fused = compiled.Dropout() if compiled.wanted() else None
        self.keyed = DropoutExt() if ms.get_context("device_target") == "Ascend" else None
        self.threshold = round(rate * 2**24)            # of 24 bits
        self.scale = 1 / (1 - rate)
        self.numbers = Tensor([self.threshold, self.scale], ms.float32)
        self.nothing = Tensor([0, 1], ms.float32)       # `numbers` where nothing is dropped
        self.salt = Tensor([0, 0], ms.int32)
        self.zero = Tensor([0], ms.int32)
        self.base = self.start = Tensor([0], ms.int64)
        self.step: Any = None
        self.number: Any = None

    def follow(self, step: Parameter, part: Parameter, salt: np.ndarray) -> None:
        """Masks follow from salt, int32 [2], and the values that `step` and `part`, int32 [1], have then.

        part: which one this is of the equal parts that a batch is cut into, by micro-batches and processes.
        """
        self.salt = Tensor(salt)
        self.base = Tensor(salt.view(np.int64) >> 2)            # from -2^61 to 2^61, so that no key overflows
        # Past Cell's own __setattr__, which would make them parameters of the network.
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "number", part)

    def repeatable(self):
        """Whether its masks can be drawn again, or it has none."""
        return self.rate == 0.0 or not self.training or self.step is not None

    def part(self):
        """The number of the part, read in the forward pass.

        From the parameter itself the backward pass would read it anew, and in a graph perhaps before it is set.
        """
        return ops.maximum(self.number, self.zero)

    def origin(self):
        """What a mask that can be drawn again follows from, as compiled.Dropout takes it."""
        if self.rate == 0.0 or not self.training:
            return self.zero, self.zero, self.salt, self.nothing
        return self.step, self.part(), self.salt, self.numbers

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        if self.step is None:
            return self.native(x)
        if self.fused is not None and x.dtype == ms.float32:
            return self.fused(x, self.step, self.part(), self.salt, self.numbers)
        if self.keyed is not None:
            return self.keyed(x, self.rate, self.key(), self.start)[0]
        return x * self.mask(x)

    def key(self):
        """The generator's, int64 [1]: layers begin far apart, and have a key for each step and part."""
        return self.base + self.step.astype(ms.int64) * PARTS + self.part().astype(ms.int64)

    def mask(self, x):
        """As `dropout` of compiled.cc, to the bit."""
        first = mixed(mixed(ops.bitwise_xor(self.step, self.salt[0])))
        second = mixed(ops.bitwise_xor(first, self.salt[1]))
        columns = x.shape[-1]
        rows = x.size // columns
        places = ops.arange(rows, dtype=ms.int32).reshape(-1, 1) * columns + ops.arange(columns, dtype=ms.int32)
        places = places + self.part() * x.size
        bits = shifted(mixed(mixed(ops.bitwise_xor(places, first)) + second), 8)
        return ((bits >= self.threshold).astype(ms.float32) * self.scale).reshape(x.shape).astype(x.dtype)


class DropPath(nn.Cell):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole samples, [B, N, D] -> [B, N, D].

    `rate` is the share dropped; what stays is scaled by 1 / (1 - rate), so that evaluation needs no change.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.dropout = Dropout(rate)
        self.rate = rate

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        return x * self.dropout(ops.ones((x.shape[0], 1, 1), ms.float32)).astype(x.dtype)


def follow(net: nn.Cell, step: Parameter, part: Parameter, seed: int) -> None:
    """Has all dropout of a network follow the optimiser's step, the part of a batch (both int32 [1]), and a seed."""
    layers = [cell for _, cell in net.cells_and_names() if isinstance(cell, Dropout)]
    for number, layer in enumerate(layers):
        layer.follow(step, part, np.random.SeedSequence((seed, number)).generate_state(2).view(np.int32))


def mixed(x):
    """A hash of whole numbers that leaves no pattern: Chris Wellons' lowbias32, on int32 that wrap around."""
    x = ops.bitwise_xor(x, shifted(x, 16)) * 0x7FEB352D
    x = ops.bitwise_xor(x, shifted(x, 15)) * (0x846CA68B - 2**32)
    return ops.bitwise_xor(x, shifted(x, 16))


def shifted(x, bits: int):
    """x >> bits, with zeros coming in at the left."""
    return ops.bitwise_and(ops.bitwise_right_shift(x, ops.full_like(x, bits)), 2**(32 - bits) - 1)
