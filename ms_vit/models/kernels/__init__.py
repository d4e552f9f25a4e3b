"""The operations a ViT is made of, in the form that is fast on the device at hand.

This is the one place that knows about devices and about slow operators. The model (vit.py) reads the same everywhere.
Each cell has up to three forms, chosen when it is made, so after the device is known: `fused`, compiled for this CPU
(compiled.py, bfloat16.py); plain, from operators that are fast on every CPU; native, MindSpore's own fused ones, on GPU
and Ascend.
"""

import math

import mindspore as ms
from mindspore import Parameter, mint, nn, ops
from mindspore.common.initializer import Constant, HeUniform, initializer

from ms_vit.device import chip
from ms_vit.models.config import BATCH_NORM_EPSILON, GeluKind
from ms_vit.models.kernels import bfloat16, compiled, precision
from ms_vit.models.kernels.dropout import Dropout as Dropout
from ms_vit.models.kernels.dropout import DropPath as DropPath


def on(device: str) -> bool:
    return ms.get_context("device_target") == device


class Linear(nn.Cell):
    """x W^T + b: (x [..., in], W [out, in], b [out]) -> [..., out].

    Where products are computed in a lower precision, so is the result by GPU and Ascend; on the CPU, whose sums are
    float32 in any case, it is that, but with `for_product`, which tells that it enters products alone. `exact`: float32
    on GPU and Ascend, whatever the others are computed in.
    """

    def __init__(self, *, for_product: bool = False, exact: bool = False):
        super().__init__()
        self.fused = bfloat16.Linear(rounded=for_product) if bfloat16.wanted() else None
        self.type = (not exact and precision.product_type()) or ms.float32
        self.plain = PlainLinear() if on("CPU") else None

    def construct(self, x, weight, bias):
        if self.fused is not None:
            return self.fused(x, weight, bias)
        rows = x.reshape(-1, x.shape[-1]).astype(self.type)
        weight, bias = weight.astype(self.type), bias.astype(self.type)
        y = self.plain(rows, weight, bias) if self.plain is not None else ops.dense(rows, weight, bias)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class PlainLinear(compiled.Single):
    """Linear with its gradients written out.

    A bias's gradient is the sum of each column: as a matrix product four times faster than the CPU's BiasAddGrad.
    """

    def __init__(self):
        super().__init__()
        self.forward = ops.MatMul(transpose_b=True)
        self.to_input = ops.MatMul()
        self.to_weight = ops.MatMul(transpose_a=True)

    def construct(self, x, weight, bias):
        return ops.bias_add(self.forward(x, weight), bias)

    def bprop(self, x, weight, bias, out, dout):
        column = ops.ones((dout.shape[0], 1), dout.dtype)
        return (self.to_input(dout, weight), self.to_weight(dout, x), self.to_weight(column, dout).reshape(-1))


class Dense(nn.Dense):
    """A linear layer, [..., in] -> [..., out]; `for_product` and `exact` as Linear's."""

    def __init__(self, inputs: int, outputs: int, *, for_product: bool = False, exact: bool = False, **start):
        super().__init__(inputs, outputs, **start)
        self.linear = Linear(for_product=for_product, exact=exact)

    def construct(self, x):
        return self.linear(x, self.weight, self.bias)


class Gelu(nn.Cell):
    """GELU, elementwise (Hendrycks & Gimpel 2016).

    "exact" is x * Phi(x), what timm and PyTorch call GELU; "tanh" is its approximation (sec. 2), the default of JAX and
    MindSpore.
    """

    def __init__(self, kind: GeluKind = "exact"):
        super().__init__()
        self.fused = compiled.Gelu(kind) if compiled.wanted() else None
        self.plain = PlainGelu(kind) if on("CPU") else None
        self.approximate = "none" if kind == "exact" else "tanh"
        self.aclnn = on("Ascend")

    def construct(self, x):
        if x.dtype == ms.float32:
            if self.fused is not None:
                return self.fused(x)
            if self.plain is not None:
                return self.plain(x)[0]
        if self.aclnn:
            return mint.nn.functional.gelu(x, approximate=self.approximate)
        return ops.gelu(x, approximate=self.approximate)


class PlainGelu(compiled.Single):
    """x * share and the share, which is Phi(x) or stands for it: [...] -> 2 x [...].

    The derivative is written out, since Erf's own is slow on the CPU.
    """

    CUBIC = 0.044715
    SCALE = 2 * math.sqrt(2 / math.pi)

    def __init__(self, kind: GeluKind):
        super().__init__()
        self.exact = kind == "exact"

    def construct(self, x):
        if self.exact:
            share = 0.5 * ops.erf(x * (1 / math.sqrt(2))) + 0.5
        else:
            # 0.5 * (1 + tanh(y)) is sigmoid(2 * y), and on the CPU several times faster.
            share = ops.sigmoid(self.SCALE * (x + self.CUBIC * (x * x * x)))
        return x * share, share

    def bprop(self, x, out, dout):
        share = out[1]
        if self.exact:
            slope = ops.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
        else:
            slope = share * (1 - share) * (self.SCALE + 3 * self.SCALE * self.CUBIC * (x * x))
        return (dout[0] * (share + x * slope),)


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis (Ba et al. 2016): [..., D] -> [..., D].

    nn.LayerNorm calls its parameters gamma and beta and is about to change its default epsilon; this one carries
    timm's names and timm's epsilon, and is computed in float32. `for_product` as Linear's.
    """

    def __init__(self, dim: int, *, epsilon: float = 1e-6, for_product: bool = False):
        super().__init__()
        self.weight = Parameter(initializer("ones", (dim,)))
        self.bias = Parameter(initializer("zeros", (dim,)))
        form = bfloat16.LayerNorm if for_product and bfloat16.wanted() else compiled.LayerNorm
        self.fused = form(epsilon) if compiled.wanted() else None
        self.normalize = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=epsilon)
        self.dim, self.epsilon = dim, epsilon
        self.aclnn = on("Ascend")

    def construct(self, x):
        x = x.astype(ms.float32)
        if self.fused is not None:
            return self.fused(x, self.weight, self.bias)
        if self.aclnn:
            return mint.nn.functional.layer_norm(x, (self.dim,), self.weight, self.bias, self.epsilon)
        return self.normalize(x, self.weight, self.bias)[0]


class SquareSum(nn.Cell):
    """The sum of all squares: [...] -> a scalar, float32."""

    def __init__(self):
        super().__init__()
        self.fused = compiled.SquareSum() if compiled.wanted() else None

    def construct(self, x):
        if self.fused is not None and x.dtype == ms.float32:
            return self.fused(x).reshape(())
        return ops.square(x.astype(ms.float32)).sum()


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
        self.linear = Linear()

    def construct(self, x):
        b, c, h, w = x.shape
        p = self.patch_size
        x = x.reshape(b, c, h // p, p, w // p, p)
        x = x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * p * p)                # [B * N, C * p * p]
        x = self.linear(x, self.weight.reshape(-1, c * p * p), self.bias)       # [B * N, D]
        return x.reshape(b, (h // p) * (w // p), -1)


class Conv(nn.Cell):
    """A 3x3 convolution at stride 1 or 2, channels last: [B, H, W, C] -> [B, H / stride, W / stride, D], rounded up.

    On the CPU a matrix product of its windows, since the forward of MindSpore 2.10's own Conv2d is slow there. Zeros
    surround the image; the weight keeps the shape of a convolution, [D, C, 3, 3].
    """

    def __init__(self, channels: int, dim: int, *, stride: int):
        super().__init__()
        self.dim = dim
        self.stride = stride
        self.weight = Parameter(initializer(HeUniform(negative_slope=math.sqrt(5)), (dim, channels, 3, 3)))
        self.bias = Parameter(initializer("zeros", (dim,)))
        self.whole = bfloat16.Conv() if stride == 1 and bfloat16.wanted() else None
        self.fused = compiled.Windows(stride) if compiled.wanted() else None
        self.native = None if on("CPU") else ops.Conv2D(dim, 3, stride=stride, pad_mode="pad", pad=1)
        self.type = precision.product_type() or ms.float32
        self.linear = Linear()

    def construct(self, x):
        if self.native is not None:
            y = self.native(x.transpose(0, 3, 1, 2).astype(self.type), self.weight.astype(self.type))
            return ops.bias_add(y, self.bias.astype(self.type)).transpose(0, 2, 3, 1)
        if self.whole is not None:
            return self.whole(x, self.weight.transpose(0, 2, 3, 1), self.bias)
        x = self.fused(x) if self.fused is not None and x.dtype == ms.float32 else self.windows(x)
        b, h, w, c = x.shape
        x = self.linear(x.reshape(-1, c), self.weight.transpose(0, 2, 3, 1).reshape(-1, c), self.bias)
        return x.reshape(b, h, w, self.dim)     # all but b known, as an export with any batch size needs it

    def windows(self, x):
        """As compiled.Windows. Strided slices would do, but their gradient fails on the CPU."""
        stride = self.stride
        b, h, w, c = (x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), x.shape[3])
        x = ops.pad(x, (0, 0, 1, 1, 1, 1))
        around = ops.arange(3)
        x = ops.gather(x, (stride * ops.arange(h).reshape(-1, 1) + around).reshape(-1), 1)     # [B, 3 * H', W, C]
        x = ops.gather(x, (stride * ops.arange(w).reshape(-1, 1) + around).reshape(-1), 2)
        return x.reshape(b, h, 3, w, 3, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, 9 * c)


class MaxPool(nn.Cell):
    """The largest of each 2x2 pixels, channels last: [B, H, W, C] -> [B, H / 2, W / 2, C]; H and W must be even."""

    def __init__(self):
        super().__init__()
        self.fused = compiled.MaxPool() if compiled.wanted() else None

    def construct(self, x):
        if self.fused is not None and x.dtype == ms.float32:
            return self.fused(x)
        b, h, w, c = x.shape
        return ops.amax(x.reshape(b, h // 2, 2, w // 2, 2, c), (2, 4))


class BatchNorm(nn.Cell):
    """Batch normalisation of the last axis (Ioffe & Szegedy 2015): [..., C] -> [..., C].

    In training by mean and variance of the batch, which the running ones follow: the tenth part of each batch's, as in
    PyTorch. These normalise in evaluation. Of several processes each goes by its own part of a batch, as there, and the
    step makes the running ones alike. Where train.recompute runs a stem twice, they follow each batch twice, as in
    PyTorch, too.
    """

    MOMENTUM = 0.1

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(initializer("ones", (channels,)))
        self.bias = Parameter(initializer("zeros", (channels,)))
        self.running_mean = Parameter(initializer("zeros", (channels,)), requires_grad=False)
        self.running_var = Parameter(initializer("ones", (channels,)), requires_grad=False)
        self.epsilon = BATCH_NORM_EPSILON
        self.fused = compiled.BatchNorm(self.epsilon) if compiled.wanted() else None

    def construct(self, x):
        if not self.training:
            scale = self.weight / ops.sqrt(self.running_var + self.epsilon)
            return (x * scale + (self.bias - self.running_mean * scale)).astype(x.dtype)
        kind, x = x.dtype, x.astype(ms.float32)
        if self.fused is not None:
            y, mean, var = self.fused(x, self.weight, self.bias)
        else:
            over = tuple(range(x.ndim - 1))
            mean = x.mean(over)
            var = ops.square(x - mean).mean(over)
            y = (x - mean) / ops.sqrt(var + self.epsilon) * self.weight + self.bias
        count = x.size // x.shape[-1]
        mean = ops.stop_gradient(mean)
        var = ops.stop_gradient(var) * (count / max(count - 1, 1))      # of all images, judged by this batch
        y = ops.depend(y, ops.assign(self.running_mean, self.running_mean + self.MOMENTUM * (mean - self.running_mean)))
        y = ops.depend(y, ops.assign(self.running_var, self.running_var + self.MOMENTUM * (var - self.running_var)))
        return y.astype(kind)


class Attend(nn.Cell):
    """softmax(q k^T / sqrt(d)) v for each head (Vaswani et al. 2017, eq. 1): [B, N, 3 * H * d] -> [B, N, H * d].

    The input holds the queries of all heads, then the keys, then the values. `dropout` acts on the softmax, which is
    float32. Where products are computed in a lower precision, so are input and output.
    """

    def __init__(self, num_heads: int, head_dim: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.width = num_heads * head_dim
        self.scale = head_dim ** -0.5
        self.rate = dropout
        self.dropout = Dropout(dropout)
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(axis=-1)
        rounded = bfloat16.wanted()
        form = bfloat16.Attention if rounded else compiled.Attention
        self.fused = form(num_heads) if compiled.wanted() else None
        self.fused_type = ms.bfloat16 if rounded else ms.float32
        # The fused operator of Ascend takes widths of a head that are multiples of 16, and no float32; the first chips
        # have none.
        self.flash = (on("Ascend") and chip() not in precision.FIRST_CHIPS and precision.product_type() is not None
                      and head_dim % 16 == 0 and head_dim <= 512)

    def construct(self, qkv):
        if self.fused is not None and qkv.dtype != ms.float16 and self.dropout.repeatable():
            return self.fused(qkv.astype(self.fused_type), *self.dropout.origin())
        if self.flash and (self.rate == 0.0 or not self.training):
            q, k, v = ops.split(qkv, self.width, axis=-1)
            return ops.flash_attention_score(q, k, v, self.num_heads, scalar_value=self.scale)
        if self.fused is not None and qkv.dtype == ms.bfloat16:     # MindSpore has few operators for that on the CPU
            qkv = qkv.astype(ms.float32)
        return self.plain(qkv)

    def plain(self, qkv):
        q, k, v = ops.split(qkv, self.width, axis=-1)                      # 3 x [B, N, H * d]
        scores = self.scores(self.heads(q * self.scale), self.heads(k))    # [B, H, N, N]
        weights = self.dropout(self.softmax(scores.astype(ms.float32)))
        x = self.mix(weights.astype(v.dtype), self.heads(v))               # [B, H, N, d]
        return x.transpose(0, 2, 1, 3).reshape(q.shape)

    def heads(self, x):
        b, n, _ = x.shape
        return x.reshape(b, n, self.num_heads, self.head_dim).transpose(0, 2, 1, 3)


class LeanMlp(compiled.Single):
    """bfloat16.Mlp in float32, [M, D] -> [M, D] and [M, H]: all that is kept for the gradient is the GELU's input.

    What it gives is computed again then, which by compiled.Gelu takes a hundredth of a step.
    """

    def __init__(self, gelu: GeluKind, dropout: float):
        super().__init__()
        self.linear = PlainLinear()
        self.gelu = compiled.Gelu(gelu)
        self.dropout = compiled.Dropout() if dropout else None

    def drop(self, x, step, part, salt, numbers):
        return x if self.dropout is None else self.dropout.drop(x, step, part, salt, numbers)

    def construct(self, x, w1, b1, w2, b2, step, part, salt, numbers):
        h = self.linear.forward(x, w1)
        h = ops.bias_add(h, b1)
        y = self.linear.forward(self.drop(self.gelu.forward(h), step, part, salt, numbers), w2)
        return ops.bias_add(y, b2), h

    def bprop(self, x, w1, b1, w2, b2, step, part, salt, numbers, out, dout):
        # The second GELU waits for the gradient; else it would be merged with the first, and nothing saved.
        h = ops.depend(out[1], dout[0])
        g = self.drop(self.gelu.forward(h), step, part, salt, numbers)
        dg, dw2, db2 = self.linear.bprop(g, w2, b2, out[0], dout[0])
        dh = self.gelu.backward(h, self.drop(dg, step, part, salt, numbers))
        return (*self.linear.bprop(x, w1, b1, h, dh), dw2, db2, *compiled.of_dropping(step, part, salt, numbers))


class Mlp(nn.Cell):
    """dropout(GELU(x W1^T + b1)) W2^T + b2: x [B, N, D], W1 [H, D], b1 [H], W2 [D, H], b2 [D] -> [B, N, D]."""

    def __init__(self, gelu: GeluKind = "exact", dropout: float = 0.0):
        super().__init__()
        self.fused = bfloat16.Mlp(gelu) if bfloat16.wanted() else None
        self.lean = LeanMlp(gelu, dropout) if compiled.wanted() else None
        self.linear = Linear()
        self.gelu = Gelu(gelu)
        self.dropout = Dropout(dropout)

    def construct(self, x, w1, b1, w2, b2):
        if self.dropout.repeatable():
            if self.fused is not None:
                return self.fused(x, w1, b1, w2, b2, *self.dropout.origin())[0]
            if self.lean is not None and x.dtype == ms.float32:
                y = self.lean(x.reshape(-1, x.shape[-1]), w1, b1, w2, b2, *self.dropout.origin())[0]
                return y.reshape(*x.shape[:-1], y.shape[-1])
        x = self.dropout(self.gelu(self.linear(x, w1, b1)))                # [B, N, H]
        return self.linear(x, w2, b2)


def fused_block(num_heads: int, epsilon: float, gelu: GeluKind) -> bfloat16.Block | None:
    """A whole encoder block that predicts, as one operator, where there is one: pre-norm, with nothing besides."""
    return bfloat16.Block(num_heads, epsilon, gelu) if bfloat16.wanted() else None


def pack(net: nn.Cell) -> None:
    """Has a network that will only predict keep its weights as products in bfloat16 read them, if it uses those."""
    for _, cell in net.cells_and_names():
        if isinstance(cell, Dense) and cell.linear.fused is not None:
            cell.weight = Parameter(bfloat16.packed(cell.weight), name=cell.weight.name, requires_grad=False)
