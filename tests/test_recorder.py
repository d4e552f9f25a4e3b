"""What a network attends to, and its tokens: against a float64 ViT."""

import mindspore as ms
import numpy as np
import pytest
import reference
from test_vit import SMALL, images, randomized

import ms_vit
from ms_vit.errors import UsageError
from ms_vit.inference.recorder import Recorder
from ms_vit.inference.rollout import gradient_rollout, on_patches, rollout
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.weights.loading import load_model

HOW = dict(patch_size=8, depth=2, num_heads=3, form="exact")
KINDS = [{}, {"pool": "mean"}, {"pool": "flatten", "pos_embed": "sincos"}, {"post_norm": True, "pool": "mean"},
         {"qk_norm": True, "layer_scale": True, "gelu": "tanh"}, {"distilled": True, "registers": 2, "head_dim": 10},
         {"stem": [6, 8, 10], "pool": "mean", "fc_norm": True, "gelu_twice": True}]


@pytest.fixture(scope="module", params=["cls", "mean"])
def recorded(request):
    """A network, images, what was recorded of it, and the float64 ViT's weights, attention and tokens."""
    net = ViT(ViTConfig(**SMALL, pool=request.param))
    weights, batch = randomized(net), images(3, 3, 20, 28)
    attention, tokens = [], []
    reference.vit(weights, batch, **HOW, pool=request.param, attention=attention, tokens=tokens)
    return net, batch, Recorder(net)(batch, classes=[0, 3, 6]), weights, np.stack(attention), tokens


def test_attention_is_that_of_a_float64_forward(recorded):
    _, _, recording, _, attention, _ = recorded
    np.testing.assert_allclose(recording.attention, attention, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(recording.attention.sum(-1), 1, rtol=1e-5)


def test_gradients_by_attention_are_the_slope_of_the_float64_logits(recorded, monkeypatch):
    net, batch, recording, weights, _, _ = recorded
    step, random = 1e-4, np.random.default_rng(5)
    for place in zip(*(random.integers(0, size, 12) for size in recording.attention.shape), strict=True):
        layer, image = place[:2]
        logits = []
        for sign in (-1, 1):
            calls = iter(range(net.config.depth))

            def nudged(x: np.ndarray, calls=calls, place=place, sign=sign, softmax=reference.softmax) -> np.ndarray:
                found = softmax(x)
                if next(calls) == place[0]:
                    found[place[1:]] += sign * step
                return found

            with monkeypatch.context() as patch:
                patch.setattr(reference, "softmax", nudged)
                logits.append(reference.vit(weights, batch, **HOW, pool=net.config.pool)[image, (0, 3, 6)[image]])
        slope = (logits[1] - logits[0]) / (2 * step)
        assert recording.gradients[place] == pytest.approx(slope, rel=2e-3, abs=2e-4), (place, layer)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_the_walk_of_the_recorder_ends_in_the_networks_logits(kind):
    net = ViT(ViTConfig(**SMALL | kind))
    randomized(net)
    for parameter in net.get_parameters():      # variances are positive
        if parameter.name.endswith("running_var"):
            parameter.set_data(ms.ops.abs(parameter) + 0.5)
    net.set_train(False)
    names, batch = [parameter.name for parameter in net.get_parameters()], images(2, 3, 20, 28)
    recording = Recorder(net)(batch)
    np.testing.assert_allclose(recording.logits, net(ms.Tensor(batch)).asnumpy(), rtol=1e-4, atol=1e-4)
    assert [parameter.name for parameter in net.get_parameters()] == names
    assert recording.rollout().shape == recording.gradient_rollout().shape == (2, 3, 4)


def test_a_graph_that_was_compiled_before_gives_the_same_bits_after():
    net, batch = ViT(ViTConfig(**SMALL)), ms.Tensor(images(2, 3, 20, 28))
    randomized(net)
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        net.set_train(True)
        before = net(batch).asnumpy()
        Recorder(net)(batch.asnumpy())
        assert ms.get_context("mode") == ms.GRAPH_MODE and net.training
        np.testing.assert_array_equal(net(batch).asnumpy(), before)
    finally:
        ms.set_context(mode=mode)


def test_rollout_by_hand():
    # One block, two heads, two tokens: the mean of the heads and the identity, each by half.
    heads = np.array([[[0.5, 0.5], [0.2, 0.8]], [[0.1, 0.9], [0.4, 0.6]]])[None, None]
    one = np.array([[0.65, 0.35], [0.15, 0.85]])
    np.testing.assert_allclose(rollout(heads), one[None])
    np.testing.assert_allclose(rollout(np.concatenate([heads, heads])), (one @ one)[None])


def test_gradient_rollout_by_hand():
    heads = np.array([[[0.5, 0.5], [0.2, 0.8]], [[0.1, 0.9], [0.4, 0.6]]])[None, None]
    slopes = np.array([[[2.0, -1.0], [0.0, 1.0]], [[1.0, 1.0], [-3.0, 1.0]]])[None, None]
    one = np.array([[0.55, 0.45], [0.0, 0.7]])      # by hand: the means of what is above zero
    np.testing.assert_allclose(gradient_rollout(heads, slopes), one[None])
    np.testing.assert_allclose(gradient_rollout(np.concatenate([heads] * 2), np.concatenate([slopes] * 2)),
                               (2 * one + one @ one)[None])


def test_patches_lie_row_by_row_behind_the_other_tokens():
    config = ViTConfig(**SMALL, distilled=True, registers=1)
    relevance = np.zeros((1, 15, 15))
    relevance[0, 0, 3 + 5], relevance[0, 1, 3 + 5], relevance[0, 2, :] = 1.0, 3.0, 9.0
    expected = np.zeros((1, 3, 4))
    expected[0, 1, 1] = 2.0
    np.testing.assert_array_equal(on_patches(relevance, config), expected)


def test_features_are_the_tokens_of_a_float64_forward(recorded):
    net, batch, _, _, _, tokens = recorded
    first, last = ms_vit.features(net, batch, layers=[0, -1])
    np.testing.assert_allclose(first, tokens[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last, tokens[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ms_vit.features(net, np.concatenate([batch] * 200))[0][-3:], last)
    with pytest.raises(UsageError, match="there is no layer 2; the network has 2 blocks, 0 to 1"):
        ms_vit.features(net, batch, layers=[2])


def test_features_equal_timms_with_real_weights(shared_data):
    torch = pytest.importorskip("torch")
    pytest.importorskip("benchmarks.torch_cpu")
    timm = pytest.importorskip("timm")
    weights = shared_data / "vit_tiny_patch16_224.safetensors"
    net, _ = load_model(weights)
    theirs = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(weights)).eval()
    batch = images(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_intermediates(torch.from_numpy(batch), indices=[3, 11], intermediates_only=True,
                                                output_fmt="NLC", return_prefix_tokens=True)
    for ours, (patches, extra) in zip(ms_vit.features(net, batch, layers=[3, 11]), expected, strict=True):
        np.testing.assert_allclose(ours, np.concatenate([extra, patches], 1), rtol=1e-3, atol=2e-3)
