"""Matrix products in bfloat16 on the CPU, by operators of our own (bfloat16.h).

What enters a product is rounded to 8 bits of mantissa, and is stored so where nothing else reads it; weights,
residuals, sums and gradients stay float32. MindSpore has no such kernels for the CPU.
"""

import mindspore as ms
from mindspore import Tensor, ops

from ms_vit.models.config import GeluKind
from ms_vit.models.kernels import compiled
from ms_vit.models.kernels.precision import now


def wanted() -> bool:
    """Whether cells that are made now shall use the operators of this module."""
    return now() == "bfloat16" and compiled.wanted()


class Linear(compiled.Single):
    """x W^T + b: (x [..., in], W [out, in], b [out]) -> [..., out].

    x is float32 or bfloat16, W float32 or as `packed` makes it. `rounded`: the result is bfloat16, else float32.
    """

    def __init__(self, *, rounded: bool = False):
        super().__init__()
        kind = ms.bfloat16 if rounded else ms.float32
        self.forward = compiled.operator("dense_bfloat16", lambda x, w, b: [*x[:-1], b[0]], lambda x, w, b: kind)
        # Two operators, so that an input that needs no gradient, the images, costs none.
        self.to_input = compiled.operator("dense_bfloat16_grad_input", lambda w, dy: [*dy[:-1], w[1]], lambda w, dy: dy)
        self.to_weight = compiled.operator("dense_bfloat16_grad_weight", lambda x, dy: ([dy[-1], x[-1]], [dy[-1]]),
                                           lambda x, dy: (dy, dy))

    def construct(self, x, weight, bias):
        return self.forward(x, weight, bias)

    def bprop(self, x, weight, bias, out, dout):
        dout = dout.astype(ms.float32)      # it is bfloat16 where MindSpore's Cast hands it on
        return (self.to_input(weight, dout), *self.to_weight(x, dout))


class Conv(compiled.Single):
    """A 3x3 convolution at stride 1: (x [B, H, W, C], W [D, 3, 3, C], b [D]) -> [B, H, W, D], float32."""

    def __init__(self):
        super().__init__()
        self.forward = compiled.operator("conv_bfloat16", lambda x, w, b: [*x[:-1], b[0]], lambda x, w, b: x)
        self.to_weight = compiled.operator("conv_bfloat16_grad_weight",
                                           lambda x, dy: ([dy[-1], 9 * x[-1]], [dy[-1]]), lambda x, dy: (dy, dy))
        self.places = Tensor(list(range(8, -1, -1)), ms.int32)      # of a window, from the last to the first

    def construct(self, x, weight, bias):
        return self.forward(x, weight.reshape(weight.shape[0], -1), bias)

    def bprop(self, x, weight, bias, out, dout):
        outputs, _, _, inputs = weight.shape
        turned = ops.gather(weight.reshape(outputs, 9, inputs), self.places, 1).transpose(2, 1, 0)    # [C, 9, D]
        dx = self.forward(dout, turned.reshape(inputs, -1), ops.zeros((inputs,), ms.float32))
        dweight, dbias = self.to_weight(x, dout)
        return dx, dweight.reshape(weight.shape), dbias


class LayerNorm(compiled.LayerNorm):
    """compiled.LayerNorm whose result is bfloat16, as products take it."""

    def __init__(self, epsilon: float):
        super().__init__(epsilon)
        self.forward = compiled.operator("layer_norm_bfloat16", lambda x, w, b, e: x, lambda x, w, b, e: ms.bfloat16)

    def bprop(self, x, weight, bias, out, dout):
        return self.backward(x, weight, self.epsilon, dout.astype(ms.float32))


class Attention(compiled.Attention):
    """compiled.Attention in bfloat16, [B, N, 3 * H * d] -> [B, N, H * d]."""

    def __init__(self, num_heads: int):
        super().__init__(num_heads)
        self.forward = compiled.operator("attention_bfloat16", lambda qkv, *rest: [qkv[0], qkv[1], qkv[2] // 3],
                                         lambda qkv, *rest: qkv)
        self.backward = compiled.operator("attention_bfloat16_grad", lambda qkv, *rest: qkv,
                                          lambda qkv, *rest: ms.float32)

    def bprop(self, qkv, step, part, salt, numbers, out, dout):
        gradient = self.backward(qkv, self.heads, step, part, salt, numbers, dout.astype(ms.float32))
        return (gradient, *compiled.of_dropping(step, part, salt, numbers))


class Mlp(compiled.Single):
    """dropout(GELU(x W1^T + b1)) W2^T + b2: x [..., D], W1 [H, D], W2 [D, H] -> [..., D] float32, [..., H] bfloat16.

    The second result is the GELU's input, all that is kept of the hidden layer for the gradient. What follows the
    biases is as compiled.Dropout has it.
    """

    def __init__(self, gelu: GeluKind):
        super().__init__()
        self.forward = compiled.operator(f"mlp_bfloat16_{gelu}",
                                         lambda x, w1, b1, w2, b2, *drop: (x, [*x[:-1], b1[0]]),
                                         lambda x, w1, b1, w2, b2, *drop: (ms.float32, ms.bfloat16))
        self.backward = compiled.operator(f"mlp_bfloat16_{gelu}_grad",
                                          lambda x, w1, w2, h, s, p, t, n, dy: (x, w1, [w1[0]], w2, [w2[0]]),
                                          lambda x, w1, w2, h, s, p, t, n, dy: (dy, dy, dy, dy, dy))

    def construct(self, x, w1, b1, w2, b2, step, part, salt, numbers):
        return self.forward(x, w1, b1, w2, b2, step, part, salt, numbers)

    def bprop(self, x, w1, b1, w2, b2, step, part, salt, numbers, out, dout):
        gradients = self.backward(x, w1, w2, out[1], step, part, salt, numbers, dout[0])
        return (*gradients, *compiled.of_dropping(step, part, salt, numbers))


class Block(compiled.Single):
    """An encoder block that predicts, as one operator: [B, N, D] -> [B, N, D], float32. It has no gradient.

    The weights, in the order of their use, are float32 or as `packed` makes them; `numbers` are the number of heads and
    LayerNorm's epsilon.
    """

    def __init__(self, num_heads: int, epsilon: float, gelu: GeluKind):
        super().__init__()
        self.numbers = Tensor([num_heads, epsilon], ms.float32)
        self.forward = compiled.operator(f"block_bfloat16_{gelu}", lambda x, *rest: x, lambda x, *rest: x)

    def construct(self, x, norm1, norm1_bias, qkv, qkv_bias, proj, proj_bias, norm2, norm2_bias, fc1, fc1_bias, fc2,
                  fc2_bias):
        return self.forward(x, self.numbers, norm1, norm1_bias, qkv, qkv_bias, proj, proj_bias, norm2, norm2_bias,
                            fc1, fc1_bias, fc2, fc2_bias)


def packed(weight: Tensor) -> Tensor:
    """A dense layer's weight [out, in] as its product reads it: pairs [out / 64, in / 2, 64], rounded up, as int32."""
    shape = [-(-weight.shape[0] // 64), -(-weight.shape[1] // 2), 64]
    return compiled.operator("pack_bfloat16", lambda w: shape, lambda w: ms.int32)(weight)
