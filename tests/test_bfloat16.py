"""Matrix products in bfloat16 against float64, within what rounding their factors can do, and networks made of them.

bfloat16 has 8 bits of mantissa, so rounding to nearest changes a factor by at most U = 2^-8 of itself, and a product of
two by at most 2 U + U^2. Sums are float32. So an element of a matrix product is off by at most (2 U + U^2) |a| |b|, and
what float32 adds to that is far below.
"""

import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import nn
from test_kernels import (
    Layer,
    TwoLayers,
    attention,
    convolution,
    dropping,
    gradients_of,
    mlp_in_float64,
    normal,
    two_layers,
)

import ms_vit
from ms_vit.errors import UsageError
from ms_vit.models import kernels
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import bfloat16, compiled, precision
from ms_vit.models.kernels.dropout import follow
from ms_vit.models.vit import ViT
from ms_vit.recipe import Recipe, Train
from ms_vit.runs import folder
from ms_vit.training.gradients import Accumulated, Gradients
from ms_vit.training.losses import CrossEntropy
from ms_vit.training.optimizers import Adam
from ms_vit.training.step import TrainStep

U = 2.0**-8
PRODUCT = (2 * U + U**2) * 1.001        # and float32's own rounding
NET = dict(image_size=24, patch_size=8, num_classes=5, dim=24, depth=2, num_heads=3, mlp_dim=40)


@pytest.fixture(scope="module")
def able():
    ms.set_context(mode=ms.GRAPH_MODE)
    if missing := precision.what_is_missing("bfloat16"):
        pytest.skip(missing)


def within(actual, expected, bound):
    assert actual.shape == expected.shape
    assert (np.abs(actual.asnumpy() - expected) <= bound).all()


def alike(actual, expected, bound):
    """In their norm."""
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= bound * np.linalg.norm(expected)


# --- operators

def check_dense(m, k, n):
    x, weight, bias, dout = normal(m, k), normal(n, k, seed=1), normal(n, seed=2), normal(m, n, seed=3)
    with precision.computing_in("bfloat16"):
        layer = Layer(weight, bias)
    assert isinstance(layer.linear.fused, bfloat16.Linear)
    y = layer(ms.Tensor(x))
    dx, dweight, dbias = gradients_of(layer, [ms.Tensor(x)], ms.Tensor(dout))
    assert {tensor.dtype for tensor in (y, dx, dweight, dbias)} == {ms.float32}
    x, weight, dout = (array.astype(np.float64) for array in (x, weight, dout))
    for ours, left, right, added in ((y, x, weight.T, bias), (dx, dout, weight, 0), (dweight, dout.T, x, 0)):
        within(ours, left @ right + added, PRODUCT * (np.abs(left) @ np.abs(right)) + 1e-5)
    within(dbias, dout.sum(0), 1e-6 * np.abs(dout).sum(0))      # not rounded


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (197, 192, 80), (301, 48, 64), (9001, 5, 7)])
def test_a_dense_layer_and_its_gradients_equal_float64_within_rounding(able, m, k, n):
    check_dense(m, k, n)


@settings(max_examples=15, deadline=None)
@given(m=st.integers(1, 150), k=st.integers(1, 150), n=st.integers(1, 150))
def test_a_dense_layer_of_any_shape_does(able, m, k, n):
    check_dense(m, k, n)


def check_conv(height, width, channels, dim):
    x, weight = normal(3, height, width, channels), normal(dim, channels, 3, 3, seed=1)
    bias, dout = normal(dim, seed=2), normal(3, height, width, dim, seed=3)
    with precision.computing_in("bfloat16"):
        conv = kernels.Conv(channels, dim, stride=1)
    assert isinstance(conv.whole, bfloat16.Conv)
    conv.weight.set_data(ms.Tensor(weight))
    conv.bias.set_data(ms.Tensor(bias))
    made = [conv(ms.Tensor(x)), *gradients_of(conv, [ms.Tensor(x)], ms.Tensor(dout))]
    sizes = convolution(*(np.abs(array) for array in (x, weight, bias, dout)), 1)      # of all products' factors
    for ours, wanted, size in zip(made, convolution(x, weight, bias, dout, 1), sizes, strict=True):
        within(ours, wanted, PRODUCT * size + 1e-5)


@pytest.mark.parametrize(("height", "width", "channels", "dim"), [(1, 1, 1, 1), (9, 7, 3, 20), (8, 8, 70, 65)])
def test_a_convolution_and_its_gradients_equal_float64_within_rounding(able, height, width, channels, dim):
    check_conv(height, width, channels, dim)


@settings(max_examples=8, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), channels=st.integers(1, 40), dim=st.integers(1, 70))
def test_a_convolution_of_any_shape_does(able, height, width, channels, dim):
    check_conv(height, width, channels, dim)


def test_factors_are_rounded_to_the_nearest_and_nothing_else_is(able):
    """Numbers of 8 bits have exact products, and sums that float32 holds are exact, too."""
    random = np.random.default_rng(0)
    x, weight = (random.integers(-127, 128, shape).astype(np.float32) for shape in ((37, 51), (29, 51)))
    bias = random.integers(-2**20, 2**20, 29).astype(np.float32)
    with precision.computing_in("bfloat16"):
        layer, one = Layer(weight, bias), Layer(np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    assert (layer(ms.Tensor(x)).asnumpy() == x @ weight.T + bias).all()
    given = np.array([[1 + U / 2], [1 + U], [1 + 3 * U], [-1 - 1.01 * U], [1e-30], [3e38]], np.float32)
    rounded = [1, 1, 1 + 4 * U, -1 - 2 * U]                   # to even, where two are as near
    assert one(ms.Tensor(given)).asnumpy()[:4, 0].tolist() == rounded


class Rounded(nn.Cell):
    """A cell that takes and gives bfloat16, for float32."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, x):
        return self.cell(x.astype(ms.bfloat16)).astype(ms.float32)


def rounded(x):
    return ms.Tensor(x).astype(ms.bfloat16).astype(ms.float32).asnumpy()


def check_attention(batch, tokens, heads, dim, rate=0.0):
    qkv, dout = normal(batch, tokens, 3 * heads * dim), normal(batch, tokens, heads * dim, seed=1)
    with precision.computing_in("bfloat16"):
        attend, *_, mask = dropping(kernels.Attend(heads, dim, rate), qkv, dout)
    assert isinstance(attend.fused, bfloat16.Attention)
    attend, qkv = Rounded(attend), rounded(qkv)
    expected, gradient = attention(qkv, heads, dout, mask)
    alike(attend(ms.Tensor(qkv)).asnumpy(), expected, 4 * U)
    # Up to four factors are rounded one after the other; what softmax makes of its scores is relative to their size,
    # and its gradient subtracts a mean that leaves little where there are few tokens: so by the norm of them all.
    alike(gradients_of(attend, [ms.Tensor(qkv)], ms.Tensor(dout))[0].asnumpy(), gradient, 4 * U)


@pytest.mark.parametrize(("tokens", "heads", "dim", "rate"), [(1, 1, 1, 0.0), (5, 2, 3, 0.0), (197, 3, 64, 0.0),
                                                              (197, 3, 64, 0.3)])
def test_attention_and_its_gradient_equal_the_definition_within_rounding(able, tokens, heads, dim, rate):
    check_attention(2, tokens, heads, dim, rate)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 2), tokens=st.integers(1, 230), heads=st.integers(1, 3), dim=st.integers(1, 80))
def test_attention_of_any_shape_does(able, batch, tokens, heads, dim):
    check_attention(batch, tokens, heads, dim)


def test_attention_holds_scores_that_overflow_an_exponential_and_lets_no_number_go_unnoticed(able):
    with precision.computing_in("bfloat16"):
        attend = Rounded(kernels.Attend(1, 8))
    qkv = normal(1, 9, 3 * 8, scale=60.0)
    assert np.isfinite(attend(ms.Tensor(qkv)).asnumpy()).all()
    qkv[0, 4, 3] = np.nan
    out = attend(ms.Tensor(qkv)).asnumpy()
    assert np.isnan(out[0, 4]).all() and np.isfinite(np.delete(out, 4, 1)).all()


def check_mlp(shape, hidden, kind, rate):
    dim = shape[-1]
    weights, x, dout = two_layers(dim, hidden), normal(*shape), normal(*shape, seed=5)
    with precision.computing_in("bfloat16"):
        layers = TwoLayers(weights, kind, rate)
    assert isinstance(layers.mlp.fused, bfloat16.Mlp)
    mask = layers.mask(*shape[:-1], hidden) if rate else 1.0
    expected, gradients = mlp_in_float64(x, weights, kind, mask, dout)
    # Two products one after the other in the output, three in what goes back through both.
    alike(layers(ms.Tensor(x)).asnumpy(), expected, 4 * U)
    for ours, wanted in zip(gradients_of(layers, [ms.Tensor(x)], ms.Tensor(dout)), gradients, strict=True):
        alike(ours.asnumpy(), wanted, 6 * U)


@pytest.mark.parametrize(("kind", "rate"), [("exact", 0.0), ("tanh", 0.3)])
def test_the_mlp_and_its_gradients_equal_the_definition_within_rounding(able, kind, rate):
    check_mlp((3, 197, 48), 100, kind, rate)


@settings(max_examples=8, deadline=None)
@given(m=st.integers(1, 70), dim=st.integers(1, 70), hidden=st.integers(1, 150))
def test_the_mlp_of_any_shape_does(able, m, dim, hidden):
    check_mlp((m, dim), hidden, "exact", 0.0)


def test_layer_norm_before_a_product_is_float32s_rounded(able):
    x = normal(3, 50, 37)
    with precision.computing_in("bfloat16"):
        ours, other = kernels.LayerNorm(37, for_product=True), kernels.LayerNorm(37)
    y, expected = ours(ms.Tensor(x)), other(ms.Tensor(x))
    assert y.dtype == ms.bfloat16 and expected.dtype == ms.float32
    within(y.astype(ms.float32), expected.asnumpy(), U * np.abs(expected.asnumpy()))


ODD = dict(image_size=20, patch_size=4, num_classes=70, dim=21, num_heads=2, head_dim=7, mlp_dim=33, gelu="tanh")


@pytest.mark.parametrize("changes", [{}, ODD])
def test_a_block_that_predicts_is_its_parts_within_rounding(able, changes):
    whole, parts = network("bfloat16", **changes), network("bfloat16", **changes)
    for block in parts.blocks:
        block.fused = None
    images = ms.Tensor(normal(3, 3, *whole.config.height_and_width))
    expected = parts.set_train(False)(images).asnumpy()
    alike(whole.set_train(False)(images).asnumpy(), expected, U)
    for net in (whole, parts):
        kernels.pack(net)
        assert {net.blocks[0].attn.qkv.weight.dtype, net.head.weight.dtype} == {ms.int32}
    assert (parts(images).asnumpy() == expected).all()
    alike(whole(images).asnumpy(), expected, U)


def test_a_network_in_float32_has_nothing_to_pack():
    net = network("float32")
    kernels.pack(net)
    assert net.head.weight.dtype == ms.float32


BITS = """
import hashlib, sys
sys.path.insert(0, "tests")
import mindspore as ms
import ms_vit.models.kernels.compiled as compiled
compiled.cpu_count = lambda: int(sys.argv[1])
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import precision
from ms_vit.models.vit import ViT
from test_bfloat16 import Rounded
from test_kernels import Layer, TwoLayers, gradients_of, kernels, normal, two_layers
digest = hashlib.sha256()
with precision.computing_in("bfloat16"):
    cells = [(Layer(normal(90, 30), normal(90)), (7777, 30), (7777, 90)),
             (Rounded(kernels.Attend(3, 20)), (2, 210, 180), (2, 210, 60)),
             (TwoLayers(two_layers(40, 90), "exact", 0.1), (600, 40), (600, 40))]
    config = ViTConfig(image_size=24, patch_size=4, num_classes=9, dim=40, depth=2, num_heads=2, mlp_dim=90)
    net = ViT(config).set_train(False)
for parameter in net.get_parameters():
    parameter.set_data(ms.Tensor(normal(*parameter.shape, scale=0.2)))
digest.update(net(ms.Tensor(normal(9, 3, 24, 24))).asnumpy().tobytes())
for cell, inputs, outputs in cells:
    x, dout = ms.Tensor(normal(*inputs)), ms.Tensor(normal(*outputs, seed=1))
    for tensor in (cell(x), *gradients_of(cell, [x], dout)):
        digest.update(tensor.asnumpy().tobytes())
print(digest.hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits(able):
    bits = {subprocess.run([sys.executable, "-c", BITS, threads], capture_output=True, text=True, check=True).stdout
            for threads in ("1", "2", "3")}
    assert len(bits) == 1 and len(bits.pop().strip()) == 64


# --- networks

def network(computed_in, **changes):
    ms.set_seed(0)
    with precision.computing_in(computed_in):
        net = ViT(ViTConfig(**NET | changes))
    for number, parameter in enumerate(net.get_parameters()):
        parameter.set_data(ms.Tensor(normal(*parameter.shape, seed=number, scale=0.2)))
    return net


@pytest.mark.parametrize("changes", [
    {}, {"qk_norm": True, "pos_embed": "sincos"}, {"post_norm": True, "gelu_twice": True, "head_hidden": [30]}])
def test_a_network_and_its_gradients_equal_float32s_within_rounding(changes, able):
    images, dout = normal(4, 3, 24, 24), normal(4, 5, seed=1)
    one, other = network("float32", **changes), network("bfloat16", **changes)
    one.set_train(), other.set_train()
    alike(other(ms.Tensor(images)).asnumpy(), one(ms.Tensor(images)).asnumpy(), 4 * U)
    pairs = zip(one.trainable_params(), *(gradients_of(net, [ms.Tensor(images)], ms.Tensor(dout))[1:]
                                          for net in (one, other)), strict=True)
    for parameter, expected, ours in pairs:
        ours, expected = ours.asnumpy(), expected.asnumpy()
        # What all keys have in common has no influence, and no gradient but rounding.
        if parameter.name.endswith("k_norm.bias"):
            continue
        if parameter.name.endswith("qkv.bias") and "qk_norm" not in changes:
            ours, expected = np.delete(ours, np.s_[24:48]), np.delete(expected, np.s_[24:48])
        # Ten products lie between the loss and the patches, whose errors are independent of each other.
        alike(ours, expected, 8 * U)


def test_dropout_of_every_kind_drops_the_same_as_in_float32(able):
    """Attention that drops runs in float32 between products in bfloat16."""
    def gradients(computed_in):
        net = network(computed_in, dropout=0.2, attention_dropout=0.2, drop_path=0.2).set_train()
        follow(net, ms.Parameter(ms.Tensor([3], ms.int32)), ms.Parameter(ms.Tensor([0], ms.int32)), 1)
        return gradients_of(net, [ms.Tensor(normal(4, 3, 24, 24))], ms.Tensor(normal(4, 5, seed=1)))[1:]

    for ours, expected in zip(gradients("bfloat16"), gradients("float32"), strict=True):
        if np.abs(expected.asnumpy()).max() > 1e-3:
            alike(ours.asnumpy(), expected.asnumpy(), 12 * U)


def test_every_product_of_a_network_is_in_bfloat16_if_it_is_asked_for(able):
    for computed_in, form in (("bfloat16", bfloat16.Linear), ("float32", type(None))):
        linear = [cell for _, cell in network(computed_in, stem=(4, 6, 8)).cells_and_names()
                  if isinstance(cell, kernels.Linear)]
        assert len(linear) == 3 + 1 + 2 * 5 + 1         # stem, its projection, blocks (one for the MLP's two), head
        assert {type(cell.fused) for cell in linear} == {form}
    with precision.computing_in("bfloat16"), compiled.off():
        assert kernels.Linear().fused is None and kernels.Attend(1, 8).fused is None       # for an export


def test_gradients_of_a_batch_in_parts_are_the_whole_ones(able):
    """Parts are a loop of the graph, in which MindSpore calls every bfloat16 number float32."""
    images, labels = ms.Tensor(normal(6, 3, 24, 24)), ms.Tensor(np.arange(6) % 5, ms.int32)
    net = network("bfloat16").set_train()
    gradients = Gradients(net, CrossEntropy(), list(net.trainable_params()))
    (loss, _), whole = gradients(images, labels)
    parts = Accumulated(gradients, 3, ms.Parameter(ms.Tensor([0], ms.int32), requires_grad=False))
    (loss_of_parts, _), summed = parts(images, labels)
    alike(loss_of_parts.asnumpy(), loss.asnumpy(), 1e-5)
    for parameter, ours, expected in zip(net.trainable_params(), summed, whole, strict=True):
        assert np.abs(expected.asnumpy()).max() > 0, parameter.name
        alike(ours.asnumpy(), expected.asnumpy(), 4 * U)


def test_fifty_losses_follow_float32s(able):
    def losses(computed_in):
        net = network(computed_in)
        step = TrainStep(net, CrossEntropy(0.1), Adam(net.trainable_params(), np.full(50, 1e-3, np.float32)),
                         clip_norm=1.0).set_train()
        random = np.random.default_rng(0)
        images, labels = random.normal(size=(32, 3, 24, 24)).astype(np.float32), random.integers(0, 5, 32)
        return [float(step(ms.Tensor(images), ms.Tensor(labels, ms.int32))[0].asnumpy()) for _ in range(50)]

    ours, expected = losses("bfloat16"), losses("float32")
    assert expected[-1] < 0.7 * expected[0]
    np.testing.assert_allclose(ours, expected, rtol=0.02)


# --- recipes

def test_a_recipe_of_former_times_says_the_same(tmp_path):
    for former, now in (("auto", "auto"), ("O0", "float32"), ("O2", "float16"), ("O3", "float16")):
        (tmp_path / "recipe.yaml").write_text(f"train: {{amp_level: {former}}}\n")
        old, new = Recipe.load(tmp_path / "recipe.yaml"), Recipe.load("digits", {"train.amp_level": former})
        assert old.train.precision == new.train.precision == now
        assert old.train == Train(precision=now)
        assert folder.changes(tmp_path, Recipe(train=Train(precision=now))) == []
        assert "amp_level" not in old.to_yaml()
    assert Recipe.load(tmp_path / "recipe.yaml", {"train.precision": "float16"}).train.precision == "float16"
    with pytest.raises(UsageError, match=r'"train\.amp_level" O3 means float16, and "train\.precision" is bfloat16'):
        Recipe.load(tmp_path / "recipe.yaml", {"train.precision": "bfloat16"})


@pytest.mark.parametrize(("device", "chip", "best"), [
    ("Ascend", "ascend910", "float16"), ("Ascend", "ascend910b", "bfloat16"), ("Ascend", "ascend910_93", "bfloat16"),
    ("GPU", "", "float16"), ("CPU", "", "bfloat16")])
def test_auto_is_the_best_that_the_device_has(able, monkeypatch, device, chip, best):
    monkeypatch.setattr(ms, "get_context", lambda name: device)
    monkeypatch.setattr(precision, "chip", lambda: chip)
    assert precision.best_precision() == best
    with precision.computing_in(best):
        assert bfloat16.wanted() == (device == "CPU")


def test_auto_is_float32_on_a_cpu_without_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "what_is_missing", lambda precision: "a processor that has it")
    assert precision.best_precision() == "float32"


# --- refusals

@pytest.mark.parametrize(("device", "told"), [
    ("Ascend", "the chip ascend910 has no bfloat16; take float16 or float32"),
    ("GPU", "MindSpore has no bfloat16 on GPUs; take float16 or float32")])
def test_a_device_without_it_is_told(monkeypatch, device, told):
    monkeypatch.setattr(ms, "get_context", lambda name: device)
    monkeypatch.setattr(precision, "chip", lambda: "ascend910")
    with pytest.raises(UsageError, match=told), precision.computing_in("bfloat16"):
        pass
    assert precision.now() == "float32"


def test_a_machine_without_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(bfloat16.compiled, "library", lambda: None)
    assert "needs a C++ compiler" in precision.what_is_missing("bfloat16")
    compiler = shutil.which("c++")
    if compiler is None:
        return
    (tmp_path / "other.cc").write_text("")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "other.so", tmp_path / "other.cc"], check=True)
    monkeypatch.setattr(bfloat16.compiled, "library", lambda: tmp_path / "other.so")
    assert precision.what_is_missing("bfloat16") == (
        "bfloat16 needs a processor with AVX512-BF16 and a compiler that knows it (g++ 10 or clang++ 10); one of both "
        "is missing here, so take float32")


def test_what_asks_for_it_in_vain_ends_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MS_VIT_KERNELS", "plain")
    ms_vit.download("digits", tmp_path)
    run = tmp_path / "runs" / "x"
    told = "bfloat16 needs the operators that MS_VIT_KERNELS=plain leaves out; unset that, or take float32"
    with pytest.raises(UsageError, match=told):
        ms_vit.train(Recipe.load("digits", {"data.root": tmp_path, "train.precision": "bfloat16"}), run)
    assert not run.exists()


@pytest.mark.parametrize(("how", "told"), [
    (dict(precision="float8"), 'no precision "float8" to predict in; there are float32, bfloat16, float16'),
    (dict(precision="bfloat16", engine="onnx"), "--engine onnx computes in float32, not in bfloat16")])
def test_an_engine_that_has_another_precision_is_told(how, told, tmp_path):
    (tmp_path / "vit.pth").write_bytes(b"")
    with pytest.raises(UsageError, match=told):
        ms_vit.Predictor(tmp_path / "vit.pth", **how)
