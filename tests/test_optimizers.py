"""Each optimiser's steps, against float64, PyTorch and timm; and that a run with one goes on in the same bits."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter
from test_resume import go_on_from, outcome, recipe, root  # noqa: F401
from test_training import adam_in_float64

from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.training.optimizers import Lamb, Lion, Muon, Sgd, is_inner

RATES = np.array([0.1, 0.2, 0.05, 0.01, 0.3], np.float32)
SHAPES = {"blocks.0.mlp.fc1.weight": (6, 4), "blocks.1.mlp.fc2.weight": (3, 5), "blocks.1.mlp.fc2.bias": (3,),
          "patch_embed.stem.0.conv.weight": (4, 2, 3, 3), "head.weight": (2, 3)}


def drawn(seed: int = 0) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Weights, and the gradients of five steps."""
    random = np.random.default_rng(seed)
    weights, *gradients = [{name: random.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(6)]
    return weights, gradients


def stepped(make, weights, gradients) -> dict[str, np.ndarray]:
    """What an optimiser makes of weights. Gradients are doubled, and halved by the factor."""
    params = [Parameter(ms.Tensor(values, ms.float32), name=name) for name, values in weights.items()]
    optimizer = make(params)
    for each in gradients:
        optimizer(tuple(ms.Tensor(2 * each[param.name], ms.float32) for param in optimizer.params),
                  ms.Tensor(0.5, ms.float32))
    assert optimizer.step.asnumpy().tolist() == [len(gradients)]
    return {param.name: param.asnumpy() for param in params}


def agree(ours, expected, rtol=2e-5):
    for name, values in expected.items():
        np.testing.assert_allclose(ours[name], values, rtol=rtol, atol=1e-6, err_msg=name)


# --- Muon

def orthogonalised_in_float64(x):
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def muon_in_float64(w, gradients, rates, *, momentum, decay):
    """Jordan et al. 2024, with the scale of Liu et al. 2025, eq. 4."""
    velocity, shape = np.zeros_like(w), w.shape
    for g, lr in zip(gradients, rates, strict=True):
        velocity = momentum * velocity + g
        turn = orthogonalised_in_float64((g + momentum * velocity).reshape(shape[0], -1))
        w = w - lr * (0.2 * max(turn.shape) ** 0.5 * turn.reshape(shape) + decay * w)
    return w


def test_muon_turns_inner_matrices_and_leaves_the_others_to_adamw():
    weights, gradients = drawn()
    options = {"betas": (0.9, 0.95), "eps": 1e-2}
    ours = stepped(lambda params: Muon(params, RATES, momentum=0.9, weight_decay=0.1, **options), weights, gradients)
    expected = {}
    for name in SHAPES:
        each = [gradient[name] for gradient in gradients]
        expected[name] = (
            adam_in_float64(weights[name], each, RATES, **options, decay=0.1 * (name == "head.weight"), decoupled=True)
            if name in ("head.weight", "blocks.1.mlp.fc2.bias") else
            muon_in_float64(weights[name], each, RATES, momentum=0.9, decay=0.1))
    agree(ours, expected, rtol=2e-4)        # float32 in five rounds of products


def test_muon_is_pytorchs_with_its_scale_for_adamws_rate(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)      # in which it makes orthogonal
    weights, gradients = drawn(1)
    names = ["blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc2.weight"]          # it knows no filters
    theirs = {name: torch.nn.Parameter(torch.tensor(weights[name])) for name in names}
    optimizer = torch.optim.Muon(list(theirs.values()), momentum=0.95, weight_decay=0.1, nesterov=True,
                                 adjust_lr_fn="match_rms_adamw")
    for each, rate in zip(gradients, RATES.tolist(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for name, param in theirs.items():
            param.grad = torch.tensor(each[name])
        optimizer.step()
    ours = stepped(lambda params: Muon(params, RATES, weight_decay=0.1), weights, gradients)
    agree(ours, {name: param.detach().numpy() for name, param in theirs.items()}, rtol=2e-4)


def test_muon_takes_blocks_and_the_stem_and_no_embedding_or_head():
    net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8, stem=[4, 6],
                        distilled=True))
    assert {param.name for param in net.trainable_params() if is_inner(param)} == {
        "patch_embed.stem.0.conv.weight", "patch_embed.stem.1.conv.weight", "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"}


# --- SGD, Lion, LAMB

def sgd_is(w, gradients, *, momentum, decay):
    """PyTorch's, on which the test below holds it."""
    velocity = np.zeros_like(w)
    for g, lr in zip(gradients, RATES, strict=True):
        g = g + decay * w
        velocity = momentum * velocity + g
        w = w - lr * (g + momentum * velocity)
    return w


def lion_is(w, gradients, *, betas, decay):
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros_like(w)
    for g, lr in zip(gradients, RATES, strict=True):
        w = w - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def lamb_is(w, gradients, *, betas, eps, decay, adapts):
    """You et al. 2020, algorithm 2, with phi(x) = x."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, lr) in enumerate(zip(gradients, RATES, strict=True), start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step = m / (1 - betas[0]**t) / (np.sqrt(v / (1 - betas[1]**t)) + eps) + decay * w
        w = w - lr * (np.linalg.norm(w) / np.linalg.norm(step) if adapts else 1) * step
    return w


@pytest.mark.parametrize(("ours", "options", "expected"), [
    (Sgd, {"momentum": 0.8}, sgd_is), (Lion, {"betas": (0.9, 0.95)}, lion_is),
    (Lamb, {"betas": (0.9, 0.95), "eps": 1e-2}, lamb_is)])
def test_each_steps_as_in_its_paper(ours, options, expected):
    weights, gradients = drawn()
    bias = "blocks.1.mlp.fc2.bias"

    def wanted(name):
        adapts = {"adapts": name != bias} if ours is Lamb else {}
        return expected(weights[name], [each[name] for each in gradients], **options, **adapts,
                        decay=0.0 if name == bias else 0.1)

    agree(stepped(lambda params: ours(params, RATES, weight_decay=0.1, **options), weights, gradients),
          {name: wanted(name) for name in SHAPES})


def test_sgd_is_pytorchs():
    torch = pytest.importorskip("torch")
    weights, gradients = drawn()
    param = torch.nn.Parameter(torch.tensor(weights["head.weight"]))
    optimizer = torch.optim.SGD([param], momentum=0.9, nesterov=True, weight_decay=0.1)
    for each, rate in zip(gradients, RATES.tolist(), strict=True):
        optimizer.param_groups[0]["lr"], param.grad = rate, torch.tensor(each["head.weight"])
        optimizer.step()
    agree(stepped(lambda params: Sgd(params, RATES, weight_decay=0.1), weights, gradients),
          {"head.weight": param.detach().numpy()})


@pytest.mark.parametrize("ours", [Sgd, Lion, Lamb, Muon])
def test_layers_further_from_the_head_learn_by_less(ours):
    weights, gradients = drawn()
    whole, less = (stepped(lambda params, decay=decay: ours(params, RATES[:1], layer_decay=decay), weights,
                           gradients[:1]) for decay in (1.0, 0.5))
    factors = {"patch_embed.stem.0.conv.weight": 1 / 8, "blocks.0.mlp.fc1.weight": 1 / 4,
               "blocks.1.mlp.fc2.weight": 1 / 2, "blocks.1.mlp.fc2.bias": 1 / 2, "head.weight": 1}
    for name, factor in factors.items():
        np.testing.assert_allclose(less[name] - weights[name], factor * (whole[name] - weights[name]), atol=1e-6)


# --- all of them

@pytest.mark.parametrize("name", ["muon", "sgd", "lion", "lamb"])
def test_a_run_with_any_optimiser_learns_and_goes_on_in_the_same_bits(name, root, tmp_path, monkeypatch):  # noqa: F811
    wanted = recipe(root, **{"optimizer.name": name, "optimizer.layer_decay": 0.9, "optimizer.lr": 1e-3,
                             "train.epochs": 1})
    go_on_from(3, wanted, tmp_path, monkeypatch)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
