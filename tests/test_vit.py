import contextlib
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
import reference
from mindspore import nn

from ms_vit.errors import UsageError
from ms_vit.models import kernels
from ms_vit.models.config import PATCHES, SIZES, ViTConfig, configure, named
from ms_vit.models.kernels import compiled
from ms_vit.models.vit import Attention, ViT, create_model
from ms_vit.weights.files import read_arrays, set_parameters

SMALL = dict(image_size=(20, 28), patch_size=8, num_classes=7, dim=24, depth=2, num_heads=3, mlp_dim=40)


def randomized(net: nn.Cell, seed: int = 0) -> dict[str, np.ndarray]:
    """Gives every parameter random values, so that none (a zero head, unit norms) hides a fault; returns them."""
    random = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape).astype(np.float32)))
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("pool", "gelu"), [("cls", "exact"), ("mean", "tanh"), ("flatten", "exact")])
def test_logits_equal_a_float64_vit_on_sizes_that_need_padding(pool, gelu):
    net = ViT(ViTConfig(**SMALL, pool=pool, gelu=gelu))
    net.set_train(False)
    weights = randomized(net)
    batch = images(3, 3, 20, 28)
    expected = reference.vit(weights, batch, patch_size=8, depth=2, num_heads=3, pool=pool, form=gelu)
    np.testing.assert_allclose(net(ms.Tensor(batch)).asnumpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("stem_form", ["strided", "pooled"])
def test_logits_with_a_conv_stem_equal_a_float64_vit(plain, stem_form):
    with compiled.off() if plain else contextlib.nullcontext():
        net = ViT(ViTConfig(**SMALL, stem=[6, 8, 10], stem_form=stem_form, pool="mean"))
    net.set_train(False)
    randomized(net)
    for parameter in net.get_parameters():
        if parameter.name.endswith("running_var"):
            parameter.set_data(ms.ops.abs(parameter) + 0.5)
    weights = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
    batch = images(3, 3, 20, 28)
    expected = reference.vit(weights, batch, patch_size=8, depth=2, num_heads=3, pool="mean", form="exact")
    np.testing.assert_allclose(net(ms.Tensor(batch)).asnumpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_stem_that_makes_other_patches_is_refused():
    with pytest.raises(ValueError, match="a stem of 2 stages, each halving the image, makes patches of 4 pixels, not"):
        ViT(ViTConfig(**SMALL, stem=[6, 8]))


def test_a_patch_convolution_equals_the_native_one():
    ours, native = kernels.PatchConv(3, 10, 4), nn.Conv2d(3, 10, 4, stride=4, pad_mode="valid", has_bias=True)
    randomized(ours)
    native.weight.set_data(ours.weight)
    native.bias.set_data(ours.bias)
    x = ms.Tensor(images(2, 3, 8, 12))
    expected = native(x).asnumpy().reshape(2, 10, 6).transpose(0, 2, 1)
    np.testing.assert_allclose(ours(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_logits_equal_timms_with_real_weights_on_real_photos(shared_data):
    net = create_model("vit_tiny_patch16_224")
    net.set_train(False)
    path = shared_data / "vit_tiny_patch16_224.safetensors"
    set_parameters(net.parameters_dict(), read_arrays(path), path)
    stored = np.load(shared_data / "reference_logits.npz")
    logits = net(ms.Tensor(stored["images"])).asnumpy()
    assert np.abs(logits - stored["logits"]).max() < 2e-3
    assert (logits.argmax(1) == stored["logits"].argmax(1)).all()


def test_parameters_carry_timms_names_and_counts():
    net = create_model("vit_tiny_patch16_224")
    names = {parameter.name for parameter in net.get_parameters()}
    block = {f"{layer}.{kind}" for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
             for kind in ("weight", "bias")}
    whole = {"cls_token", "pos_embed"} | {f"{layer}.{kind}" for layer in ("patch_embed.proj", "norm", "head")
                                          for kind in ("weight", "bias")}
    assert names == whole | {f"blocks.{i}.{name}" for i in range(12) for name in block}
    assert sum(parameter.size for parameter in net.get_parameters()) == 5_717_416       # as timm's


def test_every_size_goes_with_every_patch_by_name():
    for size, shape in SIZES.items():
        for patch in PATCHES:
            config = configure(named(f"vit_{size}_patch{patch}_384"), num_classes=5, drop_path=None)
            assert config == ViTConfig(**shape, patch_size=patch, image_size=384, num_classes=5)
    assert named("vit_base_patch16")["image_size"] == 224


@pytest.mark.parametrize("name", ["vit_huge_patch14_224", "vit_tiny_patch15_224", "resnet50", "vit_tiny_patch16_"])
def test_an_unknown_model_is_told_with_what_there_is(name):
    with pytest.raises(UsageError, match="vit_tiny_patch16_224"):
        create_model(name)


def test_a_width_that_heads_do_not_divide_needs_a_head_dim():
    with pytest.raises(ValueError, match="give head_dim"):
        Attention(10, 3)
    assert Attention(10, 3, head_dim=4).qkv.weight.shape == (36, 10)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = kernels.DropPath(0.25)
    drop.set_train(True)
    x = ms.ops.ones((4000, 2, 3), ms.float32)
    out = drop(x).asnumpy()
    kept = out[:, 0, 0] != 0
    np.testing.assert_allclose(out, np.where(kept[:, None, None], 1 / 0.75, 0) * np.ones((4000, 2, 3)), rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.03
    drop.set_train(False)
    assert (drop(x).asnumpy() == 1).all()


def test_each_dropout_acts_in_training_only():
    batch = ms.Tensor(images(2, 3, 20, 28))
    for option in ("dropout", "attention_dropout", "mlp_dropout", "drop_path", "head_dropout"):
        net = ViT(ViTConfig(**SMALL, head_hidden=[9], **{option: 0.5}))
        randomized(net)
        net.set_train(False)
        still = net(batch).asnumpy()
        assert (net(batch).asnumpy() == still).all(), option
        net.set_train(True)
        assert np.abs(net(batch).asnumpy() - still).max() > 1e-3, option


def test_an_mlp_drops_as_everything_does_unless_it_is_told_otherwise():
    rates = [ViTConfig(**SMALL, dropout=0.2, **changes).mlp_dropout for changes in ({}, {"mlp_dropout": 0.0})]
    assert rates == [0.2, 0.0]


def test_fixed_positions_are_maes_and_do_not_learn():
    pytest.importorskip("benchmarks.torch_cpu", reason="it is compared with MAE's: pip install -e .[parity]")
    mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    if not hasattr(mae, "build_2d_sinusoidal_position_embedding"):
        pytest.skip("it is compared with transformers 5")
    net = ViT(ViTConfig(**SMALL | {"image_size": 24}, pos_embed="sincos"))
    theirs = mae.build_2d_sinusoidal_position_embedding(3, 3, 24, cls_token=True).numpy()
    row, column = np.split(theirs, 2, 1)        # MAE has them the other way round, as its own code swaps the two
    np.testing.assert_allclose(net.pos_embed.asnumpy()[0], np.concatenate([column, row], 1), atol=1e-6)
    assert not net.pos_embed.asnumpy()[0, 0].any()
    assert "pos_embed" not in {parameter.name for parameter in net.trainable_params()}
    wide = ViT(ViTConfig(**SMALL, pos_embed="sincos", pool="mean"))         # 3 x 4 patches, and no other tokens
    rows, columns = wide.pos_embed.asnumpy().reshape(3, 4, 2, 12)[..., ::-1, :].transpose(2, 0, 1, 3)
    assert np.ptp(rows, 1).max() == np.ptp(columns, 0).max() == 0
    np.testing.assert_allclose(rows[:, 0, 0], np.sin(range(3)), atol=1e-7)
    np.testing.assert_allclose(columns[0, :, 1], np.sin(np.arange(4) / 10_000 ** (1 / 6)), atol=1e-7)


def test_drop_path_grows_with_depth_up_to_the_given_rate():
    net = ViT(ViTConfig(**SMALL | {"depth": 3}, drop_path=0.2))
    assert [block.drop_path1.rate for block in net.blocks] == pytest.approx([0, 0.1, 0.2])


def test_a_new_head_makes_every_class_equally_probable():
    net = ViT(ViTConfig(**SMALL))
    net.set_train(False)
    assert (net(ms.Tensor(images(1, 3, 20, 28))).asnumpy() == 0).all()


PROGRAM = """
import io
import sys

from ms_vit.caches import graph_cache
from ms_vit.models.vit import create_model
import mindspore as ms

ms.set_context(mode=ms.GRAPH_MODE)
net = create_model("vit_tiny_patch8_16", num_classes=3, dim=24, depth=1, num_heads=3, mlp_dim=40).set_train(False)
sys.stderr = io.StringIO()
with graph_cache("a notebook's"):
    net(ms.ops.ones((1, 3, 16, 16)))
print(type(sys.stderr).__name__)
"""


def test_compiling_with_a_cache_leaves_stderr_to_a_notebook_and_tells_nothing_there(tmp_path):
    """MindSpore puts another stream in its place, after which a notebook's cells don't end, and warns of each graph."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True,
                          env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
    assert (done.stdout, done.stderr) == ("StringIO\n", "")
    assert list(tmp_path.rglob("graph.mindir"))     # it was kept
