"""Every kernel in both its forms against float64, its derivative against a float64 one, and against MindSpore's own."""

import math
import os
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import nn, ops

from ms_vit.models import kernels
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import compiled, dropout
from ms_vit.models.vit import ViT

TOLERANCE = 1e-5        # of the largest value


@pytest.fixture(scope="module")
def compiler():
    if not compiled.wanted():
        pytest.skip("no C++ compiler on this machine")


@pytest.fixture(params=["compiled", "plain"])
def form(request, monkeypatch):
    """Cells made in the test have this form."""
    if request.param == "plain":
        monkeypatch.setenv("MS_VIT_KERNELS", "plain")
    else:
        request.getfixturevalue("compiler")
    return request.param


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def close(actual, expected, *, scale=None):
    """`scale` is the largest value to expect, where cancellation may have left a much smaller one."""
    assert actual.shape == expected.shape
    assert np.abs(actual.asnumpy() - expected).max() <= TOLERANCE * (scale or np.abs(expected).max())


def gradients_of(cell, inputs, dout):
    """By MindSpore, of sum(cell(inputs) * dout) by inputs and parameters.

    As a graph: in PyNative mode MindSpore 2.10's softmax keeps the shape of its first call when it goes backward.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    params = ms.ParameterTuple(cell.trainable_params())
    if not params:
        return ops.GradOperation(get_all=True, sens_param=True)(cell)(*inputs, dout)
    gradient = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)(cell, params)
    by_input, by_parameter = gradient(*inputs, dout)
    return [*by_input, *by_parameter]


class Layer(nn.Cell):
    """A linear layer with given numbers."""

    def __init__(self, weight, bias):
        super().__init__()
        self.linear = kernels.Linear()
        self.weight = ms.Parameter(ms.Tensor(weight), name="weight")
        self.bias = ms.Parameter(ms.Tensor(bias), name="bias")

    def construct(self, x):
        return self.linear(x, self.weight, self.bias)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (197, 192, 64)])
def test_a_linear_layer_and_its_gradients_equal_float64(m, k, n):
    x, weight, bias, dout = normal(m, k), normal(n, k, seed=1), normal(n, seed=2), normal(m, n, seed=3)
    layer = Layer(weight, bias)
    close(layer(ms.Tensor(x)), x.astype(np.float64) @ weight.T.astype(np.float64) + bias, scale=4 * math.sqrt(k))
    expected = [dout.astype(np.float64) @ weight, dout.T.astype(np.float64) @ x, dout.astype(np.float64).sum(0)]
    actual = gradients_of(layer, [ms.Tensor(x)], ms.Tensor(dout))
    for ours, wanted, terms in zip(actual, expected, (n, m, m), strict=True):
        close(ours, wanted, scale=4 * math.sqrt(terms))


def test_a_dense_layer_equals_the_native_one():
    ours, native = kernels.Dense(20, 12), nn.Dense(20, 12)
    native.weight.set_data(ours.weight)
    native.bias.set_data(ours.bias)
    x = ms.Tensor(normal(2, 5, 20))
    close(ours(x), native(x).asnumpy())


@pytest.mark.parametrize("kind", ["exact", "tanh"])
def test_gelu_and_its_gradient_equal_the_definition(form, kind):
    x = np.concatenate([np.linspace(-9, 9, 3001), normal(20000)]).astype(np.float32)
    tensor, wide = ms.Tensor(x), x.astype(np.float64)
    gelu = kernels.Gelu(kind)
    gradient = (reference.gelu(wide + 1e-5, kind) - reference.gelu(wide - 1e-5, kind)) / 2e-5
    close(gelu(tensor), reference.gelu(wide, kind))
    close(ms.grad(gelu)(tensor), gradient)
    close(gelu(tensor), nn.GELU(approximate=kind == "tanh")(tensor).asnumpy())


def test_exact_gelu_keeps_its_digits_far_below_zero(compiler):
    """Where Phi(x) is small, 1 + erf has lost most of its digits."""
    x = np.linspace(-12, -1, 500).astype(np.float32)
    expected = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64)])
    np.testing.assert_allclose(kernels.Gelu("exact")(ms.Tensor(x)).asnumpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("kind", ["exact", "tanh"])
def test_gelu_of_huge_and_of_no_numbers(form, kind):
    out = kernels.Gelu(kind)(ms.Tensor(np.array([1e30, -1e4, 0.0, np.nan, np.inf], np.float32))).asnumpy()
    np.testing.assert_allclose(out, [1e30, 0, 0, np.nan, np.inf], atol=1e-30)


class TwoLayers(nn.Cell):
    """kernels.Mlp with given numbers, whose dropout drops the same in every call."""

    def __init__(self, weights, kind, rate=0.0):
        super().__init__()
        self.mlp = kernels.Mlp(kind, rate)
        self.mask = dropping_alike(self.mlp.dropout)
        self.w1, self.b1, self.w2, self.b2 = (ms.Parameter(ms.Tensor(weight), name=name)
                                              for weight, name in zip(weights, ("w1", "b1", "w2", "b2"), strict=True))
        self.set_train()

    def construct(self, x):
        return self.mlp(x, self.w1, self.b1, self.w2, self.b2)


def dropping_alike(dropout):
    """Has it drop the same in every call; returns a function that tells its mask of a shape."""
    with compiled.off():        # the plain form, which the compiled one is held against elsewhere
        same = kernels.Dropout(dropout.rate).set_train()
    step, part = (ms.Parameter(ms.Tensor([number], ms.int32), requires_grad=False) for number in (3, 1))
    for each in (dropout, same):
        each.follow(step, part, np.array([5, 7], np.int32))
    return lambda *shape: same(ms.Tensor(np.ones(shape, np.float32))).asnumpy()


def mlp_in_float64(x, weights, kind, mask, dout):
    """The layers' output, and the gradients by x and the weights."""
    w1, b1, w2, b2 = (weight.astype(np.float64) for weight in weights)
    before = x @ w1.T + b1
    hidden = reference.gelu(before, kind) * mask
    slope = (reference.gelu(before + 1e-5, kind) - reference.gelu(before - 1e-5, kind)) / 2e-5
    dbefore = dout @ w2 * mask * slope
    rows = tuple(range(x.ndim - 1))
    return hidden @ w2.T + b2, [dbefore @ w1, np.tensordot(dbefore, x, (rows, rows)), dbefore.sum(rows),
                                np.tensordot(dout.astype(np.float64), hidden, (rows, rows)),
                                dout.astype(np.float64).sum(rows)]


def two_layers(dim, hidden):
    return [normal(hidden, dim, seed=1), normal(hidden, seed=2), normal(dim, hidden, seed=3), normal(dim, seed=4)]


@pytest.mark.parametrize(("kind", "rate"), [("exact", 0.0), ("tanh", 0.3)])
def test_two_layers_and_their_gradients_equal_the_definition(form, kind, rate):
    weights, x, dout = two_layers(12, 20), normal(2, 9, 12), normal(2, 9, 12, seed=5)
    layers = TwoLayers(weights, kind, rate)
    mask = layers.mask(2, 9, 20) if rate else 1.0
    assert rate == 0 or 0.5 < (mask > 0).mean() < 0.9
    expected, gradients = mlp_in_float64(x, weights, kind, mask, dout)
    close(layers(ms.Tensor(x)), expected)
    for ours, wanted in zip(gradients_of(layers, [ms.Tensor(x)], ms.Tensor(dout)), gradients, strict=True):
        close(ours, wanted, scale=4 * np.abs(wanted).max())


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_layer_norm_and_its_gradients_equal_the_definition(form, mean):
    norm = kernels.LayerNorm(37)
    norm.weight.set_data(ms.Tensor(normal(37, seed=1)))
    norm.bias.set_data(ms.Tensor(normal(37, seed=2)))
    x, dout = normal(3, 50, 37) + np.float32(mean), normal(3, 50, 37, seed=3)
    weight, bias = norm.weight.asnumpy().astype(np.float64), norm.bias.asnumpy().astype(np.float64)
    wide = x.astype(np.float64)
    scale = 1 / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    normed = (wide - wide.mean(-1, keepdims=True)) * scale
    inner = dout * weight
    dx = scale * (inner - inner.mean(-1, keepdims=True) - normed * (inner * normed).mean(-1, keepdims=True))
    # Next to 1000 a float32 has 6e-5 between two neighbours.
    tolerance = TOLERANCE if mean == 0 else 1e-3
    expected = [normed * weight + bias, dx, (dout * normed).sum((0, 1)), dout.astype(np.float64).sum((0, 1))]
    actual = [norm(ms.Tensor(x)), *gradients_of(norm, [ms.Tensor(x)], ms.Tensor(dout))]
    for ours, wanted in zip(actual, expected, strict=True):
        assert np.abs(ours.asnumpy() - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("epsilon", [1e-3, 1e-12])
def test_layer_norm_equals_the_native_one_with_any_epsilon(form, epsilon):
    norm = kernels.LayerNorm(24, epsilon=epsilon)
    x = ms.Tensor(normal(6, 24, scale=0.05))
    close(norm(x), nn.LayerNorm((24,), epsilon=epsilon)(x).asnumpy())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (4, 6, 3), (7, 5, 20)])
def test_a_convolution_and_its_gradients_equal_the_definition(form, height, width, channels, stride):
    conv = kernels.Conv(channels, 6, stride=stride)
    weight, bias = normal(6, channels, 3, 3, seed=1), normal(6, seed=2)
    conv.weight.set_data(ms.Tensor(weight))
    conv.bias.set_data(ms.Tensor(bias))
    x = normal(2, height, width, channels)
    dout = normal(2, -(-height // stride), -(-width // stride), 6, seed=3)
    wanted = convolution(x, weight, bias, dout, stride)
    close(conv(ms.Tensor(x)), wanted[0], scale=4 * math.sqrt(channels))
    actual = gradients_of(conv, [ms.Tensor(x)], ms.Tensor(dout))
    for ours, each in zip(actual, wanted[1:], strict=True):
        close(ours, each, scale=max(4.0, np.abs(each).max()))


def convolution(x, weight, bias, dout, stride):
    """The output [B, H', W', D] of a 3x3 convolution, and the gradients by x, weight and bias, in float64."""
    height, width = x.shape[1:3]
    padded, by_weight = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros(weight.shape)
    out, by_input = np.zeros(dout.shape), np.zeros(padded.shape)
    for i in range(3):
        for j in range(3):
            seen = (slice(None), slice(i, i + height, stride), slice(j, j + width, stride))
            out += padded[seen] @ weight[:, :, i, j].T.astype(np.float64)
            by_weight[:, :, i, j] = np.einsum("bhwd,bhwc->dc", dout, padded[seen])
            by_input[seen] += dout @ weight[:, :, i, j].astype(np.float64)
    return out + bias, by_input[:, 1:-1, 1:-1], by_weight, dout.astype(np.float64).sum((0, 1, 2))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_equals_the_native_one(form, stride):
    ours = kernels.Conv(5, 8, stride=stride)
    native = nn.Conv2d(5, 8, 3, stride=stride, pad_mode="pad", padding=1, has_bias=True)
    native.weight.set_data(ours.weight)
    native.bias.set_data(ours.bias)
    x = normal(2, 5, 9, 6)
    close(ours(ms.Tensor(x.transpose(0, 2, 3, 1))), native(ms.Tensor(x)).asnumpy().transpose(0, 2, 3, 1))


def test_max_pooling_and_its_gradient_equal_pytorchs(form):
    torch = pytest.importorskip("torch")
    pool, x, dout = kernels.MaxPool(), normal(3, 6, 10, 5), normal(3, 3, 5, 5, seed=1)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    out = torch.nn.functional.max_pool2d(theirs, 2)
    out.backward(torch.tensor(dout.transpose(0, 3, 1, 2)))
    close(pool(ms.Tensor(x)), out.detach().numpy().transpose(0, 2, 3, 1))
    gradient = gradients_of(pool, [ms.Tensor(x)], ms.Tensor(dout))[0]
    close(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1))


def test_of_equal_pixels_one_gets_the_gradient(compiler):
    """MindSpore's operators share it out."""
    ones = ms.Tensor(np.ones((1, 2, 2, 3), np.float32))
    gradient = gradients_of(kernels.MaxPool(), [ones], ms.Tensor(np.full((1, 1, 1, 3), 5, np.float32)))[0]
    assert gradient.asnumpy().reshape(4, 3).tolist() == [[5, 5, 5], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(700, 5), (2, 9, 4, 20)])
def test_batch_norm_its_gradients_and_running_moments_equal_pytorchs(form, shape):
    torch = pytest.importorskip("torch")
    norm, theirs = kernels.BatchNorm(shape[-1]), torch.nn.BatchNorm1d(shape[-1], dtype=torch.float64)
    weight, bias = normal(shape[-1]), normal(shape[-1], seed=1)
    x, dout = normal(*shape, seed=2) + 3, normal(*shape, seed=3)
    for ours, other, value in ((norm.weight, theirs.weight, weight), (norm.bias, theirs.bias, bias)):
        ours.set_data(ms.Tensor(value))
        other.data = torch.tensor(value, dtype=torch.float64)
    rows = torch.tensor(x.reshape(-1, shape[-1]), dtype=torch.float64, requires_grad=True)
    out = theirs(rows)
    out.backward(torch.tensor(dout.reshape(-1, shape[-1]), dtype=torch.float64))
    norm.set_train()
    actual = gradients_of(norm, [ms.Tensor(x)], ms.Tensor(dout))
    wanted = [rows.grad.numpy().reshape(shape), theirs.weight.grad.numpy(), theirs.bias.grad.numpy()]
    for ours, each in zip(actual, wanted, strict=True):
        close(ours, each, scale=max(4.0, np.abs(each).max()))
    close(norm.running_mean, theirs.running_mean.numpy())
    close(norm.running_var, theirs.running_var.numpy())
    close(norm(ms.Tensor(x)), out.detach().numpy().reshape(shape), scale=8.0)
    theirs.eval()
    norm.running_mean.set_data(ms.Tensor(theirs.running_mean.numpy(), ms.float32))
    norm.running_var.set_data(ms.Tensor(theirs.running_var.numpy(), ms.float32))
    norm.set_train(False)
    close(norm(ms.Tensor(x)), theirs(rows).detach().numpy().reshape(shape), scale=8.0)


def attention(qkv, heads, dout, mask=1.0):
    """The output [B, N, H * d] and the gradient by qkv [B, N, 3 * H * d], in float64.

    mask: what drops, and scales, the weights [B, H, N, N].
    """
    b, n, width = qkv.shape
    q, k, v = qkv.astype(np.float64).reshape(b, n, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4)
    scale = 1 / math.sqrt(q.shape[-1])
    weights = reference.softmax(q @ k.swapaxes(-1, -2) * scale)
    kept = weights * mask
    out = (kept @ v).transpose(0, 2, 1, 3).reshape(b, n, width // 3)
    by_head = dout.astype(np.float64).reshape(b, n, heads, -1).transpose(0, 2, 1, 3)
    by_weights = by_head @ v.swapaxes(-1, -2) * mask
    by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdims=True)) * scale
    by_qkv = np.stack([by_scores @ k, by_scores.swapaxes(-1, -2) @ q, kept.swapaxes(-1, -2) @ by_head])
    return out, by_qkv.transpose(1, 3, 0, 2, 4).reshape(qkv.shape)


@pytest.mark.parametrize(("tokens", "heads", "dim"), [(1, 1, 1), (5, 2, 3), (17, 1, 16)])
def test_attention_and_its_gradient_equal_the_definition(form, tokens, heads, dim):
    qkv, dout = normal(2, tokens, 3 * heads * dim), normal(2, tokens, heads * dim, seed=1)
    check_attention(kernels.Attend(heads, dim), qkv, dout)


def check_attention(attend, qkv, dout, mask=1.0):
    out, gradient = attention(qkv, attend.num_heads, dout, mask)
    close(attend(ms.Tensor(qkv)), out)
    close(gradients_of(attend, [ms.Tensor(qkv)], ms.Tensor(dout))[0], gradient)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 3), tokens=st.integers(1, 230), heads=st.integers(1, 4), dim=st.integers(1, 80),
       rate=st.sampled_from([0.0, 0.3]))
def test_compiled_attention_equals_the_definition_for_any_shape(compiler, batch, tokens, heads, dim, rate):
    qkv, dout = normal(batch, tokens, 3 * heads * dim), normal(batch, tokens, heads * dim, seed=1)
    check_attention(*dropping(kernels.Attend(heads, dim, rate), qkv, dout))


def dropping(attend, qkv, dout):
    """What check_attention takes, for attention that may drop, the same in every call."""
    mask = dropping_alike(attend.dropout)(len(qkv), attend.num_heads, qkv.shape[1], qkv.shape[1])
    return attend.set_train(), qkv, dout, mask


def test_attention_drops_the_same_by_either_form(form):
    attend, qkv, dout, mask = dropping(kernels.Attend(2, 5, 0.4), normal(2, 50, 30), normal(2, 50, 10, seed=1))
    assert 0.5 < (mask > 0).mean() < 0.7
    check_attention(attend, qkv, dout, mask)


def test_attention_holds_scores_that_overflow_an_exponential(form):
    qkv = normal(1, 9, 3 * 8, scale=60.0)
    close(kernels.Attend(1, 8)(ms.Tensor(qkv)), attention(qkv, 1, normal(1, 9, 8))[0])


def test_attention_lets_no_number_go_unnoticed(form):
    qkv = normal(1, 9, 3 * 8)
    qkv[0, 4, 3] = np.nan
    out = kernels.Attend(1, 8)(ms.Tensor(qkv)).asnumpy()
    assert np.isnan(out[0, 4]).all()


def test_attention_dropout_leaves_evaluation_alone_and_keeps_the_mean(form):
    attend = kernels.Attend(2, 8, dropout=0.5)
    qkv = ms.Tensor(normal(1, 6, 3 * 16))
    attend.set_train(False)
    whole = attend(qkv).asnumpy()
    np.testing.assert_allclose(whole, attention(qkv.asnumpy(), 2, whole)[0], atol=1e-5)
    attend.set_train(True)
    drawn = np.stack([attend(qkv).asnumpy() for _ in range(300)])
    assert drawn.std(0).max() > 0.1
    np.testing.assert_allclose(drawn.mean(0), whole, atol=0.4)


def followed(rate, *, seed=0, step=3, part=0, layers=1):
    """Dropout in training that follows a step."""
    net = nn.CellList([kernels.Dropout(rate) for _ in range(layers)])
    numbers = [ms.Parameter(ms.Tensor([value], ms.int32), name=name)
               for name, value in (("step", step), ("part", part))]
    dropout.follow(net, *numbers, seed)
    net.set_train(True)
    return net[-1]


def mask_by_definition(shape, rate, salt, step, part):
    """In Python's own numbers."""
    def mixed(x):
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    first = mixed(mixed(step ^ salt[0]))
    second, size = mixed(first ^ salt[1]), math.prod(shape)
    bits = [mixed((mixed(place ^ first) + second) % 2**32) >> 8 for place in range(part * size, (part + 1) * size)]
    return np.where(np.array(bits) >= round(rate * 2**24), np.float32(1 / (1 - rate)), np.float32(0)).reshape(shape)


@pytest.mark.parametrize(("rate", "step", "part"), [(0.1, 0, 0), (0.5, 2**31 - 1, 1), (0.999, 7, 3)])
def test_dropout_and_its_gradient_follow_their_definition_to_the_bit(form, rate, step, part):
    layer = followed(rate, seed=9, step=step, part=part)
    x, dout = normal(3, 5, 7), normal(3, 5, 7, seed=1)
    salt = [int(word) for word in np.random.SeedSequence((9, 0)).generate_state(2)]
    mask = mask_by_definition(x.shape, rate, salt, step, part)
    assert (layer(ms.Tensor(x)).asnumpy() == x * mask).all()
    assert (gradients_of(layer, [ms.Tensor(x)], ms.Tensor(dout))[0].asnumpy() == dout * mask).all()


def test_dropout_draws_anew_for_each_step_part_layer_and_seed(form):
    x = ms.ops.ones((200, 500), ms.float32)
    masks = [followed(0.3, **other)(x).asnumpy() > 0 for other in
             ({}, {"step": 4}, {"part": 1}, {"layers": 2}, {"seed": 1})]
    for number, mask in enumerate(masks):
        assert abs(mask.mean() - 0.7) < 0.005       # 3.5 standard deviations
        assert abs(mask[:, ::2].mean() - mask[:, 1::2].mean()) < 0.01
        for other in masks[:number]:
            assert abs((mask & other).mean() - 0.49) < 0.006        # as of two that are independent
    assert (followed(0.3)(x).asnumpy() == followed(0.3)(x).asnumpy()).all()


def test_parts_of_a_batch_lose_what_the_whole_one_does(form):
    x = ms.Tensor(normal(8, 5, 6))
    parts = [followed(0.3, part=number)(x[2 * number:2 * number + 2]).asnumpy() for number in range(4)]
    assert (np.concatenate(parts) == followed(0.3)(x).asnumpy()).all()


def test_dropout_in_half_precision_drops_the_same():
    x = normal(4, 6, scale=3)
    whole, half = followed(0.4)(ms.Tensor(x)), followed(0.4)(ms.Tensor(x, ms.float16))
    assert half.dtype == ms.float16
    assert ((half.asnumpy() == 0) == (whole.asnumpy() == 0)).all()


def test_the_sum_of_squares_equals_float64(form):
    x = normal(700, 300)
    total = kernels.SquareSum()(ms.Tensor(x))
    assert total.shape == ()
    assert float(total.asnumpy()) == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-6)


def test_half_precision_takes_mindspores_own_operators():
    x = normal(2, 6, 3 * 16)
    half = kernels.Attend(2, 8)(ms.Tensor(x, ms.float16))
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), attention(x, 2, normal(2, 6, 16))[0], atol=1e-2)


NET = dict(image_size=24, patch_size=8, num_classes=5, dim=24, depth=2, num_heads=3, mlp_dim=40)


def test_a_compiled_network_runs_as_a_graph_and_answers_as_the_plain_one():
    images = ms.Tensor(normal(4, 3, 24, 24))
    ours = ViT(ViTConfig(**NET))
    with compiled.off():
        plain = ViT(ViTConfig(**NET))
    for mine, other in zip(ours.get_parameters(), plain.get_parameters(), strict=True):
        mine.set_data(ms.Tensor(normal(*mine.shape, scale=0.3)))
        other.set_data(mine)
    ours.set_train(False)
    plain.set_train(False)
    assert not any(getattr(cell, "fused", None) for _, cell in plain.cells_and_names())
    ms.set_context(mode=ms.GRAPH_MODE)
    close(ours(images), plain(images).asnumpy())


BITS = """
import hashlib, os, sys
if sys.argv[1] == "1":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, "tests")
import mindspore as ms
from test_kernels import gradients_of, kernels, normal
from ms_vit.models.kernels import compiled, dropout
assert compiled.wanted()
digest = hashlib.sha256()
cells = [(kernels.Attend(3, 20), (2, 90, 180), (2, 90, 60)), (kernels.LayerNorm(48), (500, 48), (500, 48)),
         (kernels.Gelu("exact"), (500, 48), (500, 48)), (compiled.Windows(), (3, 31, 20, 5), (3, 16, 10, 45)),
         (compiled.Windows(1), (3, 31, 20, 5), (3, 31, 20, 45)), (compiled.MaxPool(), (3, 32, 20, 5), (3, 16, 10, 5))]
for cell, inputs, outputs in cells:
    for tensor in gradients_of(cell, [ms.Tensor(normal(*inputs))], ms.Tensor(normal(*outputs, seed=1))):
        digest.update(tensor.asnumpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't tie a process to a core")
def test_one_core_and_all_of_them_give_the_same_bits(compiler):
    bits = [subprocess.run([sys.executable, "-c", BITS, cores], capture_output=True, text=True, check=True).stdout
            for cores in ("1", "all")]
    assert len(bits[0].strip()) == 64
    assert bits[0] == bits[1]


def test_without_a_compiler_networks_are_plain(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compiled.library.__wrapped__() is None


def test_a_compiler_that_fails_is_told_in_a_line_and_leaves_nothing(monkeypatch, tmp_path, capsys):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'no room on the drum' >&2; exit 1; }\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compiled.library.__wrapped__() is None
    told, = capsys.readouterr().err.splitlines()
    assert "slower operators" in told and str(broken) in told and "(no room on the drum); name another" in told
    assert list((tmp_path / "cache" / "ms-vit").iterdir()) == []


def test_the_kernels_are_built_once(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = compiled.library.__wrapped__()
    monkeypatch.setattr(compiled, "build", lambda *_: pytest.fail("built again"))
    assert compiled.library.__wrapped__() == built
    assert built.is_relative_to(tmp_path)
