"""The forms that Ascend and GPU compute by, on the CPU: the choice is patched, values and gradients are float64's.

GPU's run as they are. Of Ascend's the CPU has matrix products alone: GELU and LayerNorm are held to what they ask of
aclnn, by stand-ins that do what MindSpore's documentation says of it; the fused attention and the generator of dropout
can't be had here.
"""

import math
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import scipy.special
from mindspore import nn, ops

from ms_vit.models import kernels
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import compiled
from ms_vit.models.kernels.precision import computing_in
from ms_vit.models.vit import ViT

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(0, 2, (3, 5, 16))
UP = RANDOM.normal(size=X.shape)        # the gradient that comes from above


def gelu(x, approximate):
    phi = (1 + ops.erf(x / math.sqrt(2))) / 2 if approximate == "none" else \
        ops.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))      # the CPU's tanh is off by 1e-4
    return x * phi


def layer_norm(x, shape, weight, bias, eps):
    assert shape == (x.shape[-1],)
    centred = x - x.mean(-1, keep_dims=True)
    return centred / ops.sqrt((centred * centred).mean(-1, keep_dims=True) + eps) * weight + bias


@pytest.fixture(params=["Ascend", "GPU"])
def device(request, monkeypatch):
    """Cells that are made here choose as on that device."""
    monkeypatch.setattr(kernels, "on", lambda device: device == request.param)
    monkeypatch.setattr(kernels, "chip", lambda: "ascend910")      # which has no fused attention
    monkeypatch.setenv("MS_VIT_KERNELS", "plain")
    assert not compiled.wanted()
    if request.param == "Ascend":       # stand-ins are Python's own, which graphs don't take
        functions = SimpleNamespace(gelu=gelu, layer_norm=layer_norm)
        monkeypatch.setattr(kernels, "mint", SimpleNamespace(nn=SimpleNamespace(functional=functions)))
    else:
        ms.set_context(mode=ms.GRAPH_MODE)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


def value_and_gradient(cell, x, up, *weights):
    """In float64's place: what the cell comes to, and its gradients by x and by weights."""
    class Weighed(nn.Cell):
        def __init__(self):
            super().__init__()
            self.cell = cell
            self.up = ms.Tensor(up, ms.float32)

        def construct(self, *inputs):
            y = self.cell(*inputs)
            return (y.astype(ms.float32) * self.up).sum(), y

    inputs = [ms.Tensor(array, ms.float32) for array in (x, *weights)]
    learnt = list(cell.trainable_params())
    places = tuple(range(len(inputs)))
    (_, y), gradients = ms.value_and_grad(Weighed(), places, learnt or None, has_aux=True)(*inputs)
    by_inputs, by_weights = gradients if learnt else (gradients, ())
    flat = by_inputs if isinstance(by_inputs, tuple) else (by_inputs,)
    return [array.astype(ms.float32).asnumpy() for array in (y, *flat, *by_weights)]


def close(found, expected, tolerance=2e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(other).max()))


@pytest.mark.parametrize("kind", ["exact", "tanh"])
def test_gelu(device, kind):
    if kind == "exact":
        share = scipy.special.ndtr(X)
        slope = np.exp(-X**2 / 2) / np.sqrt(2 * np.pi)
    else:
        inner = np.sqrt(2 / np.pi) * (X + 0.044715 * X**3)
        share = (1 + np.tanh(inner)) / 2
        slope = (1 - np.tanh(inner)**2) / 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * X**2)
    close(value_and_gradient(kernels.Gelu(kind), X, UP), [X * share, UP * (share + X * slope)])


def test_layer_norm(device):
    norm = kernels.LayerNorm(16, epsilon=1e-3)
    weight, bias = RANDOM.normal(size=(2, 16))
    norm.weight.set_data(ms.Tensor(weight, ms.float32))
    norm.bias.set_data(ms.Tensor(bias, ms.float32))
    spread = np.sqrt(X.var(-1, keepdims=True) + 1e-3)
    normal = (X - X.mean(-1, keepdims=True)) / spread
    up = UP * weight
    by_x = (up - up.mean(-1, keepdims=True) - normal * (up * normal).mean(-1, keepdims=True)) / spread
    close(value_and_gradient(norm, X, UP), [normal * weight + bias, by_x, (UP * normal).sum((0, 1)), UP.sum((0, 1))])


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("float16", 5e-3)])
def test_linear(device, precision, tolerance):
    weight, bias, up = RANDOM.normal(size=(12, 16)), RANDOM.normal(size=12), RANDOM.normal(size=(3, 5, 12))
    with computing_in(precision):
        cell = kernels.Linear()
    close(value_and_gradient(cell, X, up, weight, bias),
          [X @ weight.T + bias, up @ weight, np.einsum("bno,bni->oi", up, X), up.sum((0, 1))], tolerance)


def test_a_whole_network_computes_as_by_the_cpus_own_forms(device, monkeypatch):
    def answers():
        ms.set_seed(0)
        net = ViT(ViTConfig(image_size=16, patch_size=4, num_classes=5, dim=32, depth=2, num_heads=2, mlp_dim=64,
                            stem=(4, 8)))
        for parameter in net.get_parameters():
            parameter.set_data(ms.Tensor(random.normal(0, 0.2, parameter.shape), ms.float32))
        return net.set_train(False)(ms.Tensor(images, ms.float32)).asnumpy()

    images = RANDOM.normal(size=(2, 3, 16, 16))
    random = np.random.default_rng(1)
    devices = answers()
    monkeypatch.setattr(kernels, "on", lambda device: device == "CPU")
    random = np.random.default_rng(1)
    np.testing.assert_allclose(devices, answers(), atol=1e-5 * np.abs(devices).max())


def test_gradients_of_a_float16_network_are_float32s(device):
    """All of them, at a tolerance of float16: what is cast, and where, is the precision's, and no layer's slips."""
    def gradients(precision):
        random = np.random.default_rng(1)
        with computing_in(precision):
            net = ViT(ViTConfig(image_size=16, patch_size=8, num_classes=5, dim=32, depth=1, num_heads=2, mlp_dim=64))
        for parameter in net.get_parameters():
            parameter.set_data(ms.Tensor(random.normal(0, 0.2, parameter.shape), ms.float32))
        images, labels = ms.Tensor(random.normal(size=(4, 3, 16, 16)), ms.float32), ms.Tensor([0, 1, 2, 3], ms.int32)
        whole = nn.WithLossCell(net, nn.CrossEntropyLoss())
        found = ops.value_and_grad(whole, None, net.trainable_params())(images, labels)[1]
        assert all(gradient.dtype == ms.float32 for gradient in found)
        return [gradient.asnumpy() for gradient in found]

    for low, exact in zip(gradients("float16"), gradients("float32"), strict=True):
        np.testing.assert_allclose(low, exact, atol=2e-2 * np.abs(exact).max())
