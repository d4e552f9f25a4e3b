"""Stages of convolution ahead of the patches: a conv stem is some of one form, each halving the image.

Channels are last in here, where the rest of the model has them first.
"""

from mindspore import nn

from ms_vit.models import kernels
from ms_vit.models.config import GeluKind


class ConvStage(nn.Cell):
    """A stage of a conv stem: [B, H, W, C] -> [B, H / 2, W / 2, D].

    Xiao et al. have BatchNorm and ReLU here. LayerNorm and GELU, as everywhere else in this model, do without
    statistics of the batch, which would tie an image's logits to its neighbours in training.
    """

    def __init__(self, channels: int, dim: int, *, gelu: GeluKind = "exact", epsilon: float = 1e-6):
        super().__init__()
        self.conv = kernels.Conv(channels, dim, stride=2)
        self.norm = kernels.LayerNorm(dim, epsilon=epsilon)
        self.gelu = kernels.Gelu(gelu)

    def construct(self, x):
        return self.gelu(self.norm(self.conv(x)))


class PooledStage(nn.Cell):
    """A stage of a pooled conv stem: [B, H, W, C] -> [B, H / 2, W / 2, D].

    Two 3x3 convolutions with BatchNorm and GELU, the first of them pooled, as in airbench (Jordan 2024, "94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU", sec. 3.1).
    """

    def __init__(self, channels: int, dim: int, *, gelu: GeluKind = "exact"):
        super().__init__()
        self.conv1, self.conv2 = kernels.Conv(channels, dim, stride=1), kernels.Conv(dim, dim, stride=1)
        self.norm1, self.norm2 = kernels.BatchNorm(dim), kernels.BatchNorm(dim)
        self.pool = kernels.MaxPool()
        self.gelu = kernels.Gelu(gelu)

    def construct(self, x):
        x = self.gelu(self.norm1(self.pool(self.conv1(x))))
        return self.gelu(self.norm2(self.conv2(x)))
