"""The operations a ViT is made of, in the form that is fast on the device at hand.

This is the one place that knows about devices and about slow operators. The model (vit.py) reads the same everywhere.
"""

import math
from typing import Literal

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Constant, HeUniform, initializer

Gelu = Literal["exact", "tanh"]


def gelu_exact(x: Tensor) -> Tensor:
    """x * Phi(x) (Hendrycks & Gimpel 2016), elementwise; what timm and PyTorch call GELU."""
    return x * (0.5 * ops.erf(x * (1 / math.sqrt(2))) + 0.5)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016, sec. 2), which JAX and MindSpore use by default.

    0.5 * (1 + tanh(y)) is sigmoid(2 * y); on the CPU this form is several times faster than nn.GELU.
    """
    return x * ops.sigmoid((2 * math.sqrt(2 / math.pi)) * (x + 0.044715 * (x * x * x)))


GELU = {"exact": gelu_exact, "tanh": gelu_tanh}


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis (Ba et al. 2016): [..., D] -> [..., D].

    nn.LayerNorm calls its parameters gamma and beta and is about to change its default epsilon; this one carries
    timm's names and timm's epsilon.
    """

    def __init__(self, dim: int, *, epsilon: float = 1e-6):
        super().__init__()
        self.weight = Parameter(initializer("ones", (dim,)))
        self.bias = Parameter(initializer("zeros", (dim,)))
        self.set_epsilon(epsilon)

    def set_epsilon(self, epsilon: float) -> None:
        self.normalize = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=epsilon)

    def construct(self, x):
        return self.normalize(x, self.weight, self.bias)[0]


class LayerScale(nn.Cell):
    """A learned factor for each channel of a residual branch (Touvron et al. 2021, "CaiT", sec. 2): [..., D]."""

    def __init__(self, dim: int, *, start: float = 1e-5):
        super().__init__()
        self.gamma = Parameter(initializer(Constant(start), (dim,)))

    def construct(self, x):
        return x * self.gamma


class PatchConv(nn.Cell):
    """A convolution whose stride is its kernel: [B, C, H, W] -> [B, N, D], with N = (H / p) * (W / p), row by row.

    The windows don't overlap, so it is one matrix product. nn.Conv2d gives the same numbers, on the CPU a hundred
    times slower. The weight keeps the shape of a convolution, [D, C, p, p], for exchange with other libraries.
    """

    def __init__(self, channels: int, dim: int, patch_size: int):
        super().__init__()
        self.channels = channels
        self.patch_size = patch_size
        shape = (dim, channels, patch_size, patch_size)
        self.weight = Parameter(initializer(HeUniform(negative_slope=math.sqrt(5)), shape))
        self.bias = Parameter(initializer("zeros", (dim,)))
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x):
        b, c, h, w = x.shape
        p = self.patch_size
        x = x.reshape(b, c, h // p, p, w // p, p)
        x = x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * p * p)                # [B * N, C * p * p]
        x = self.matmul(x, self.weight.reshape(-1, c * p * p)) + self.bias      # [B * N, D]
        return x.reshape(b, (h // p) * (w // p), -1)


class Attend(nn.Cell):
    """softmax(q k^T) v, with dropout on the softmax: three [B, H, N, d] -> [B, H, N, d]. q comes scaled."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(axis=-1)

    def construct(self, q, k, v):
        weights = self.softmax(self.scores(q, k))              # [B, H, N, N]
        return self.mix(self.dropout(weights), v)


class DropPath(nn.Cell):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole samples, [B, N, D] -> [B, N, D].

    `rate` is the share dropped; what stays is scaled by 1 / (1 - rate), so that evaluation needs no change.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(p=rate)
        self.rate = rate

    def construct(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        return x * self.dropout(ops.ones((x.shape[0], 1, 1), ms.float32)).astype(x.dtype)
