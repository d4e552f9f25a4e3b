"""The published systems that recipes reproduce: each network is, weight by weight, what its source describes."""

from itertools import pairwise

import mindspore as ms
import numpy as np
import pytest
from mindspore.nn.utils import no_init_parameters

from ms_vit.models.config import ViTConfig
from ms_vit.models.start import start_as_keras
from ms_vit.models.vit import ViT
from ms_vit.recipe import Recipe

torch = pytest.importorskip("torch", reason="the systems are rebuilt in PyTorch: pip install -e .[parity]")
pytest.importorskip("benchmarks.torch_cpu")
from benchmarks.token_by_torch import TokenNet  # noqa: E402 (not without PyTorch)


def network(recipe: str, **changes) -> ViT:
    """A recipe's network with random weights, so that none (a zero head, unit norms) hides a fault."""
    net = ViT(Recipe.load(recipe).model.configure(**changes)).set_train(False)
    random = np.random.default_rng(0)
    for parameter in net.trainable_params():
        parameter.set_data(ms.Tensor(random.normal(0, 0.1, parameter.shape).astype(np.float32)))
    return net


def weights(net: ViT) -> dict:
    return {parameter.name: torch.from_numpy(parameter.asnumpy()) for parameter in net.get_parameters()}


def images(net: ViT, count: int = 2) -> np.ndarray:
    shape = (count, net.config.channels, *net.config.height_and_width)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_the_five_networks_have_their_parameters():
    """Counted by hand of the layers that SYSTEMS.md and the sources list; Keras prints 21,666,762 for the second's."""
    counts = {}
    for recipe, classes in (("imagenet-subset", 1000), ("keras-cifar10", 10), ("mnist-small", 10), ("mnist-token", 10),
                            ("folder-b16", 10)):
        with no_init_parameters():
            net = ViT(Recipe.load(recipe).model.configure(num_classes=classes))
        counts[recipe] = sum(parameter.size for parameter in net.trainable_params())

    def encoder(width, depth, inner, mlp):
        norms, attention = 4 * width, 3 * inner * (width + 1) + width * (inner + 1)
        return depth * (norms + attention + mlp * (width + 1) + width * (mlp + 1))

    stem = [3, 96, 192, 384, 768]
    assert counts == {
        "imagenet-subset": 768 * 769 + 198 * 768 + encoder(768, 12, 768, 3072) + 2 * 768 + 769 * 1000,
        "keras-cifar10": 109 * 64 + 144 * 64 + encoder(64, 8, 256, 128) + 2 * 64
        + 9217 * 2048 + 2049 * 1024 + 1025 * 10,
        "mnist-small": 17 * 8 + 8 + encoder(8, 2, 8, 32) + 2 * 8 + 9 * 10,
        "mnist-token": 785 * 256 + encoder(256, 4, 256, 2048) + 257 * 10,
        "folder-b16": sum((9 * a + 1 + 2) * b for a, b in pairwise(stem)) + 769 * 768 + 768
        + encoder(768, 12, 768, 3072) + 2 * 768 + 769 * 10}
    assert counts["imagenet-subset"] == 86_567_656      # timm's vit_base_patch16_224
    assert counts["keras-cifar10"] == 21_666_762


def test_keras_network_starts_as_keras():
    """Limits by the shapes of its kernels: [64, 4, 64], [4, 64, 64], [108, 64], [1024, 10]; an embedding's is 0.05."""
    net = ViT(Recipe.load("keras-cifar10").model.configure(num_classes=10, depth=1))
    before = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
    start_as_keras(net)
    limits = {"patch_embed.proj.weight": 6 / (108 + 64), "pos_embed": 0.05**2,
              "blocks.0.attn.qkv.weight": 6 / (64 * 4 + 64 * 64), "blocks.0.attn.proj.weight": 6 / (4 * 64 + 4 * 64),
              "head.weight": 6 / (1024 + 10)}
    for parameter in net.get_parameters():
        drawn, square = parameter.asnumpy(), limits.get(parameter.name)
        if square is None:
            np.testing.assert_array_equal(drawn, before[parameter.name])
            continue
        assert square**0.5 * 0.99 < abs(drawn).max() <= square**0.5
        np.testing.assert_allclose(drawn.std(), (square / 3) ** 0.5, rtol=0.03)     # that of a uniform distribution
        assert abs(drawn.mean()) < 0.1 * drawn.std()


def test_any_network_can_start_as_keras():
    net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=4, dim=16, depth=2, num_heads=2, mlp_dim=16,
                        stem=(4, 8), pos_embed="sincos", distilled=True))
    before = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
    start_as_keras(net)
    changed = {parameter.name for parameter in net.get_parameters()
               if not np.array_equal(parameter.asnumpy(), before[parameter.name])}
    assert changed == {"head.weight", "head_dist.weight", *(
        f"blocks.{block}.attn.{layer}.weight" for block in (0, 1) for layer in ("qkv", "proj"))}


def test_keras_network_is_the_tutorials():
    net = network("keras-cifar10", num_classes=10, depth=2)
    given, x = weights(net), torch.from_numpy(images(net))
    functional = torch.nn.functional

    def layer(name, x):
        return functional.linear(x, given[f"{name}.weight"], given[f"{name}.bias"])

    def norm(name, x):
        return functional.layer_norm(x, (64,), given[f"{name}.weight"], given[f"{name}.bias"], 1e-6)

    def mlp(names, x):
        for name in names:
            x = functional.gelu(layer(name, x))
        return x

    patches = functional.unfold(x, 6, stride=6).transpose(1, 2)                         # [B, 144, 108]
    x = patches @ given["patch_embed.proj.weight"].reshape(64, 108).T + given["patch_embed.proj.bias"]
    x = x + given["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = (part.unflatten(-1, (4, 64)).transpose(1, 2)
                   for part in layer(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, -1))
        shares = torch.softmax(q @ k.transpose(-1, -2) / 8, -1)
        x = x + layer(f"{block}.attn.proj", (shares @ v).transpose(1, 2).flatten(2))
        x = x + mlp([f"{block}.mlp.fc1", f"{block}.mlp.fc2"], norm(f"{block}.norm2", x))
    expected = layer("head", mlp(["pre_logits.0.fc", "pre_logits.1.fc"], norm("norm", x).flatten(1)))
    np.testing.assert_allclose(net(ms.Tensor(images(net))).asnumpy(), expected.numpy(), rtol=1e-3, atol=1e-3)


def test_the_single_token_network_is_pytorchs_encoder():
    net = network("mnist-token", num_classes=10)
    given = weights(net)
    theirs = TokenNet("gelu").eval()
    names = {"encoder.layers.": "blocks.", "self_attn.in_proj_weight": "attn.qkv.weight", "linear1": "mlp.fc1",
             "self_attn.in_proj_bias": "attn.qkv.bias", "self_attn.out_proj": "attn.proj", "linear2": "mlp.fc2",
             "embed.": "patch_embed.proj."}
    state = theirs.state_dict()
    for name, value in state.items():
        ours = name
        for word, our_word in names.items():
            ours = ours.replace(word, our_word)
        state[name] = given.pop(ours).reshape(value.shape)      # a patch is the whole digit: [256, 1, 28, 28]
    assert not given
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images(net)).flatten(1))
    np.testing.assert_allclose(net(ms.Tensor(images(net))).asnumpy(), expected.numpy(), rtol=1e-3, atol=1e-3)
