import importlib.util
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Parameter, nn, ops
from mindspore.train import Callback, Model

from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import compiled
from ms_vit.models.kernels.precision import computing_in
from ms_vit.models.vit import ViT
from ms_vit.recipe import Augment, Schedule
from ms_vit.training.callbacks import DataWait
from ms_vit.training.ema import Average
from ms_vit.training.gradients import hyper_map, scaled, top1
from ms_vit.training.losses import BinaryCrossEntropy, CrossEntropy
from ms_vit.training.mixing import Mixing, boxes
from ms_vit.training.optimizers import Adam, decays, trainable
from ms_vit.training.schedules import schedules
from ms_vit.training.step import Evened, GlobalNorm, TrainStep

WARM = np.arange(1, 21) / 20                # two epochs of ten steps
AFTER = np.arange(80) / 80


@pytest.mark.parametrize(("name", "after"), [
    ("cosine", 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * AFTER))), ("linear", 1 - 0.9 * AFTER), ("constant", np.ones(80)),
    ("step", np.repeat([1, 0.5, 0.25, 0.125, 0.1], [5, 30, 20, 10, 15]))])
def test_the_rate_warms_up_linearly_and_follows_its_schedule(name, after):
    settings = Schedule(name=name, warmup_epochs=2, min_lr=0.1, milestones=[5.5, 2.5, 7.5, 8.5], gamma=0.5)
    rates = schedules[name](1.0, 10, 10, settings)
    np.testing.assert_allclose(rates, np.concatenate([WARM, after]), rtol=1e-5)
    assert rates.dtype == np.float32
    by_epoch = schedules[name](1.0, 10, 10, replace(settings, per_epoch=True))
    np.testing.assert_array_equal(by_epoch, np.repeat(rates[::10], 10))


def test_by_epoch_the_rate_is_the_tutorials_cosine():
    rates = schedules["cosine"](5e-5, 10, 7, Schedule(per_epoch=True))
    tutorial = [0.5 * 5e-5 * (1 + np.cos(np.pi * epoch / 10)) for epoch in range(10)]
    np.testing.assert_allclose(rates, np.repeat(tutorial, 7), rtol=1e-5)


def adam_in_float64(w, gradients, rates, *, betas, eps, decay, decoupled):
    """Kingma & Ba 2015, algorithm 1, and Loshchilov & Hutter 2019, algorithm 2."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        if decoupled:
            w = w - lr * decay * w
        else:
            g = g + decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        w = w - lr * (m / (1 - betas[0]**t)) / (np.sqrt(v / (1 - betas[1]**t)) + eps)
    return w


@pytest.mark.parametrize("form", ["fused", "plain"])
@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_steps_as_in_the_papers(decoupled, form):
    random = np.random.default_rng(0)
    matrix, bias = random.normal(size=(4, 3)), random.normal(size=3)
    gradients = [(random.normal(size=(4, 3)), random.normal(size=3)) for _ in range(5)]
    rates = np.array([0.1, 0.2, 0.05, 0.01, 0.3], np.float32)
    options = {"betas": (0.9, 0.95), "eps": 1e-2}       # a large eps shows where it is added
    params = [Parameter(ms.Tensor(matrix, ms.float32), name="weight"),
              Parameter(ms.Tensor(bias, ms.float32), name="bias")]
    with compiled.off() if form == "plain" else nullcontext():
        optimizer = Adam(params, rates, **options, weight_decay=0.1, decoupled=decoupled)
    for pair in gradients:                              # doubled, and halved by the factor
        optimizer(tuple(ms.Tensor(2 * gradient, ms.float32) for gradient in pair), ms.Tensor(0.5, ms.float32))

    def expected(start, index, decay):
        return adam_in_float64(start, [pair[index] for pair in gradients], rates, **options, decay=decay,
                               decoupled=decoupled)

    np.testing.assert_allclose(params[0].asnumpy(), expected(matrix, 0, 0.1), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(params[1].asnumpy(), expected(bias, 1, 0.0), rtol=2e-5, atol=1e-6)
    assert optimizer.step.asnumpy().tolist() == [5]


def test_weight_decay_acts_on_matrices_only():
    net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8))
    assert {parameter.name for parameter in net.trainable_params() if decays(parameter)} == {
        "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight", "head.weight"}


def timms_module(file: str):
    """One of timm's files, without the package around it, which needs torchvision."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm is the oracle here")
    spec = importlib.util.spec_from_file_location("timms", Path(found.origin).parent / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def smoothed_loss(logits, targets):
    logits = logits.astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -(targets * log_probabilities).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_its_definition(smoothing):
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 4])
    targets = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
    loss = CrossEntropy(smoothing)(ms.Tensor(logits), ms.Tensor(labels, ms.int32))
    assert float(loss.asnumpy()) == pytest.approx(smoothed_loss(logits, targets), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_binary_cross_entropy_is_pytorchs_of_smoothed_targets(mixed):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    logits = random.normal(size=(6, 5)).astype(np.float32) * 30         # some of which overflow where exp is careless
    labels = random.dirichlet(np.ones(5), 6).astype(np.float32) if mixed else np.array([0, 1, 2, 3, 4, 4], np.int32)
    targets = 0.9 * (labels if mixed else np.eye(5)[labels]) + 0.1 / 5
    loss = BinaryCrossEntropy(0.1)(ms.Tensor(logits), ms.Tensor(labels))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits).double(),
                                                                    torch.tensor(targets))
    assert float(loss.asnumpy()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 9])
def test_guessing_comes_to_what_a_loss_of_yes_and_no_says(classes):
    loss = BinaryCrossEntropy(0.1)(ms.ops.zeros((4, classes)), ms.Tensor([0, 1, 1, 0], ms.int32))
    assert float(loss.asnumpy()) == pytest.approx(BinaryCrossEntropy.chance(classes), rel=1e-6)


def test_the_imagenet_recipes_smoothing_is_the_tutorials():
    logits = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    labels = np.array([1, 5, 999, 0])
    targets = np.where(np.eye(1000)[labels] == 1, 0.9, 0.1 / 999)
    loss = CrossEntropy(0.1001001)(ms.Tensor(logits), ms.Tensor(labels, ms.int32))
    assert float(loss.asnumpy()) == pytest.approx(smoothed_loss(logits, targets), rel=1e-5)


class Shown(nn.Cell):
    """Stands for an optimiser, and returns the gradients that it is given, times their factor."""

    def __init__(self, params):
        super().__init__(auto_prefix=False)
        self.params = params
        self.step = Parameter(ms.Tensor([0], ms.int32), name="step")

    def construct(self, gradients, factor):
        return hyper_map(ops.partial(scaled, factor), gradients)


def test_clipping_bounds_the_joint_norm_and_leaves_small_gradients():
    large = (ms.Tensor([3.0, 0.0]), ms.Tensor([[4.0]]))
    norm = GlobalNorm()(large)
    assert float(norm.asnumpy()) == pytest.approx(5.0)
    net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8))
    clips, leaves = (TrainStep(net, CrossEntropy(), Shown(net.trainable_params()), clip_norm=bound)
                     for bound in (1.0, 10.0))
    clipped = [gradient.asnumpy() for gradient in clips.apply(large, norm)]
    np.testing.assert_allclose(clipped[0], [0.6, 0.0], rtol=1e-5)
    np.testing.assert_allclose(clipped[1], [[0.8]], rtol=1e-5)
    np.testing.assert_allclose(leaves.apply(large, norm)[1].asnumpy(), [[4.0]])


def small_step(**options):
    ms.set_seed(0)
    with computing_in("float16" if options.get("scale_loss") else "float32"):
        net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8))
    optimizer = Adam(net.trainable_params(), np.full(8, 1e-2, np.float32))
    step = TrainStep(net, CrossEntropy(), optimizer, **options)
    step.set_train(True)
    return net, optimizer, step


def batch():
    random = np.random.default_rng(0)
    return ms.Tensor(random.normal(size=(6, 3, 8, 8)), ms.float32), ms.Tensor([0, 1, 2, 0, 1, 2], ms.int32)


def loss_of(step):
    """Of one more step on that batch."""
    return float(step(*batch())[0].asnumpy())


def test_steps_lower_the_loss_of_a_batch():
    _, _, step = small_step(clip_norm=1.0)
    losses = [loss_of(step) for _ in range(8)]
    assert losses[0] == pytest.approx(np.log(3), rel=1e-5)      # the head starts from zero
    assert losses[-1] < 0.7 * losses[0]


def test_a_network_learns_a_batch_by_heart():
    """Images and labels are drawn: all that there is to learn is which is which."""
    ms.set_context(mode=ms.GRAPH_MODE)
    random = np.random.default_rng(0)
    images = ms.Tensor(random.normal(size=(16, 3, 8, 8)), ms.float32)
    labels = ms.Tensor(random.integers(0, 5, 16), ms.int32)
    ms.set_seed(0)
    net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=5, dim=32, depth=2, num_heads=2, mlp_dim=64))
    step = TrainStep(net, CrossEntropy(), Adam(net.trainable_params(), np.full(100, 3e-3, np.float32)), recent=100)
    step.set_train(True)
    for _ in range(100):
        step(images, labels)
    losses, _, top1 = step.recent.rows.asnumpy().T
    assert losses[0] == pytest.approx(np.log(5), rel=1e-5) and losses[-1] < 0.02
    assert top1[0] < 0.5 and (top1[-50:] == 1).all()


@pytest.mark.parametrize("options", [
    {}, {"recompute": True}, {"accumulate": 2}, {"scale_loss": True}])
def test_a_step_keeps_the_share_of_images_that_it_knew(options):
    net, _, step = small_step(recent=3, **options)
    images, labels = batch()
    for _ in range(3):
        net.set_train(False)
        answers = net(images).asnumpy().argmax(1)
        net.set_train(True)
        step(images, labels)
        assert step.recent.rows.asnumpy()[-1, 2] == pytest.approx((answers == labels.asnumpy()).mean(), abs=1e-6)


def test_images_that_are_mixed_have_no_share_that_was_known():
    mixed = Mixing(Augment(mixup=0.5), steps=3, classes=3, size=(8, 8), seed=0)
    _, _, step = small_step(mixing=mixed)
    step(*batch())
    assert np.isnan(step.recent.rows.asnumpy()[-1, 2]) and np.isfinite(step.recent.rows.asnumpy()[-1, :2]).all()


@pytest.mark.parametrize("heads", [1, 2])
def test_what_a_student_knows_is_judged_by_the_labels_and_by_both_heads(heads):
    random = np.random.default_rng(0)
    one, other, teacher = random.normal(size=(3, 9, 4)).astype(np.float32)
    labels = random.integers(0, 4, 9)
    targets = ms.Tensor(np.stack([np.eye(4, dtype=np.float32)[labels], teacher], 1))
    logits = ms.Tensor(one) if heads == 1 else (ms.Tensor(one), ms.Tensor(other))
    expected = ((one + other if heads == 2 else one).argmax(1) == labels).mean()
    assert float(top1(logits, targets).asnumpy()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_float16_steps_follow_float32_and_leave_out_an_overflow(mode):
    ms.set_context(mode=mode)
    _, _, step32 = small_step()
    expected = [loss_of(step32) for _ in range(8)]
    net, optimizer, step = small_step(scale_loss=True)
    assert net.norm.weight.dtype == ms.float32
    for _ in range(5):      # some overflow by themselves; then nothing but the scale may change
        before = net.blocks[0].attn.qkv.weight.asnumpy().copy()
        done, scale = int(optimizer.step.asnumpy()[0]), float(step.scaler.scale_value.asnumpy())
        assert loss_of(step) == pytest.approx(expected[done], abs=0.01)
        moved = (net.blocks[0].attn.qkv.weight.asnumpy() != before).any()
        overflowed = float(step.scaler.scale_value.asnumpy()) == scale / 2
        assert int(optimizer.step.asnumpy()[0]) == done + (not overflowed)
        assert done == 0 or moved == (not overflowed)       # behind a head of zeros the first gradient is zero
    assert int(optimizer.step.asnumpy()[0]) >= 3
    images, labels = batch()
    before, scale = net.head.weight.asnumpy().copy(), float(step.scaler.scale_value.asnumpy())
    step(images * 1e38, labels)
    assert (net.head.weight.asnumpy() == before).all()
    assert float(step.scaler.scale_value.asnumpy()) == scale / 2


@pytest.mark.parametrize("less_memory", [dict(recompute=True), dict(accumulate=3), dict(recompute=True, accumulate=2)])
def test_with_less_memory_a_step_comes_to_the_same(less_memory):
    net, _, step = small_step(clip_norm=1.0)
    other, _, frugal = small_step(clip_norm=1.0, **less_memory)
    for _ in range(4):
        (loss, norm), (same, as_long) = step(*batch()), frugal(*batch())
        assert float(same.asnumpy()) == pytest.approx(float(loss.asnumpy()), rel=1e-5)
        assert float(as_long.asnumpy()) == pytest.approx(float(norm.asnumpy()), rel=1e-4)
    for ours, expected in zip(other.get_parameters(), net.get_parameters(), strict=True):
        # The keys' bias has no influence; its gradient is rounding, which Adam makes as large as any other.
        there = slice(None) if not ours.name.endswith("qkv.bias") else np.r_[0:8, 16:24]
        np.testing.assert_allclose(ours.asnumpy()[there], expected.asnumpy()[there], atol=2e-5)


def test_with_some_parameters_frozen_a_recomputed_step_comes_to_the_same():
    def weights(**options):
        ms.set_seed(0)
        net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=2, num_heads=2, mlp_dim=8))
        step = TrainStep(net, CrossEntropy(), Adam(trainable(net.trainable_params(), 1), np.full(3, 1e-2, np.float32)),
                         **options)
        for _ in range(3):
            step(*batch())
        return {param.name: param.asnumpy() for param in net.get_parameters()}

    expected, recomputed = weights(), weights(recompute=True)
    for name, values in recomputed.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6)


@pytest.mark.parametrize("frugal", [dict(recompute=True), dict(accumulate=2), dict(recompute=True, accumulate=2)])
def test_with_less_memory_a_step_drops_the_same(frugal):
    """A block that runs again drops what it dropped before; only a batch in parts is dropped from anew in each."""
    def losses(**options):
        ms.set_seed(0)
        net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=2, num_heads=2, mlp_dim=8,
                            dropout=0.3, attention_dropout=0.3, drop_path=0.3))
        step = TrainStep(net, CrossEntropy(), Adam(net.trainable_params(), np.full(9, 1e-2, np.float32)), seed=5,
                         **options)
        step.set_train(True)
        return [loss_of(step) for _ in range(5)]

    whole = losses()
    np.testing.assert_allclose(losses(**frugal), whole, rtol=1e-4)
    assert not np.allclose(losses(part=1), whole, rtol=1e-4)       # as if it were the second half of a larger batch


PARTNERS = [1, 0, 3, 2, 5, 4]


def test_the_last_of_an_odd_number_of_images_is_mixed_with_itself():
    images, labels = batch()
    mixed, targets = Mixing(Augment(mixup=0.4), steps=1, classes=3, size=(8, 8), seed=1)(
        images[:5], labels[:5], ms.Tensor([0], ms.int32))
    np.testing.assert_allclose(mixed[4].asnumpy(), images[4].asnumpy(), atol=1e-6)
    np.testing.assert_allclose(targets[4].asnumpy(), np.eye(3)[labels[4].asnumpy()], atol=1e-6)


def test_mixup_blends_images_and_labels_by_shares_of_the_step():
    mixup = Mixing(Augment(mixup=0.4), steps=3, classes=3, size=(8, 8), seed=1)
    shares = np.random.default_rng(1).beta(0.4, 0.4, 3)
    images, labels = batch()
    for step in range(4):
        share = shares[min(step, 2)]
        mixed, targets = mixup(images, labels, ms.Tensor([step], ms.int32))
        x, y = images.asnumpy().astype(np.float64), np.eye(3)[labels.asnumpy()]
        np.testing.assert_allclose(mixed.asnumpy(), share * x + (1 - share) * x[PARTNERS], atol=1e-6)
        np.testing.assert_allclose(targets.asnumpy(), share * y + (1 - share) * y[PARTNERS], atol=1e-6)


def test_cutmix_puts_a_box_of_one_image_into_another_and_labels_have_its_share():
    cutmix = Mixing(Augment(cutmix=1.0), steps=12, classes=3, size=(8, 8), seed=1)
    images, labels = batch()
    x, y, areas = images.asnumpy(), np.eye(3)[labels.asnumpy()], set()
    for step in range(12):
        mixed, targets = (each.asnumpy() for each in cutmix(images, labels, ms.Tensor([step], ms.int32)))
        theirs = (mixed == x[PARTNERS]).all((0, 1))                         # [H, W]
        assert ((mixed == x).all((0, 1)) == ~theirs).all()
        rows, columns = (np.flatnonzero(theirs.any(axis)) for axis in (1, 0))
        if theirs.any():
            assert theirs[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].sum() == theirs.sum()
        share = 1 - theirs.mean()
        np.testing.assert_allclose(targets, share * y + (1 - share) * y[PARTNERS], atol=1e-6)
        areas.add(theirs.mean())
    assert len(areas) > 5


def test_cutmixs_boxes_are_timms(monkeypatch):
    """Whose random numbers come one by one from NumPy's global source."""
    mixup = timms_module("data/mixup.py")
    random = np.random.default_rng(3)
    shares, rows, columns = random.beta(0.7, 0.7, 50), random.integers(0, 9, 50), random.integers(0, 7, 50)
    middles = iter(np.stack([rows, columns], 1).reshape(-1))
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(middles))
    ours = boxes(0.7, 50, 9, 7, np.random.default_rng(3))
    assert [mixup.rand_bbox((9, 7), share) for share in shares] == [tuple(box) for box in ours]


def test_what_mixes_a_step_is_drawn_by_its_chances():
    drawn = Mixing(Augment(mixup=0.4, cutmix=1.0, mix_chance=0.8, cutmix_chance=0.25), steps=4000, classes=3,
                   size=(8, 8), seed=1)
    blended, cut = drawn.shares.asnumpy() < 1, drawn.boxes.asnumpy().any(1)
    assert not (blended & cut).any()
    assert blended.mean() == pytest.approx(0.8 * 0.75, abs=0.03)
    assert cut.mean() == pytest.approx(0.8 * 0.25, abs=0.03)
    again = Mixing(Augment(mixup=0.4), steps=4000, classes=3, size=(8, 8), seed=1)
    assert (drawn.shares.asnumpy()[blended] == again.shares.asnumpy()[blended]).all()


def test_cross_entropy_takes_targets_in_the_labels_place():
    logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    targets = np.random.default_rng(1).dirichlet(np.ones(5), 4).astype(np.float32)
    loss = CrossEntropy(0.1)(ms.Tensor(logits), ms.Tensor(targets))
    assert float(loss.asnumpy()) == pytest.approx(smoothed_loss(logits, 0.9 * targets + 0.1 / 5), rel=1e-5)


def test_a_moving_average_follows_the_weights():
    ms.set_seed(0)
    shape = dict(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8)
    net, averaged = ViT(ViTConfig(**shape)), ViT(ViTConfig(**shape))
    expected = [parameter.asnumpy().astype(np.float64) for parameter in averaged.get_parameters()]
    step = TrainStep(net, CrossEntropy(), Adam(net.trainable_params(), np.full(9, 1e-2, np.float32)),
                     average=Average(net, averaged, 0.3))
    for t in range(1, 6):
        step(*batch())
        decay = min(0.3, (1 + t) / (10 + t))
        expected = [decay * old + (1 - decay) * parameter.asnumpy()
                    for old, parameter in zip(expected, net.get_parameters(), strict=True)]
    for ours, wanted in zip(averaged.get_parameters(), expected, strict=True):
        np.testing.assert_allclose(ours.asnumpy(), wanted, atol=1e-6)
    assert "ema.head.weight" not in {parameter.name for parameter in net.get_parameters()}


class Halves(nn.Cell):
    """Stands for the mean of two processes, of which the other has zeros."""

    def construct(self, arrays):
        return hyper_map(ops.partial(ops.mul, 0.5), arrays)


def test_running_statistics_are_made_alike_after_each_step():
    def running(**options):
        ms.set_seed(0)
        net = ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8,
                            stem=(4, 8), stem_form="pooled"))
        statistics = [parameter for parameter in net.get_parameters() if "running_" in parameter.name]
        evened = {"evened": Evened(statistics, Halves())} if options else {}
        optimizer = Adam(net.trainable_params(), np.full(8, 1e-2, np.float32))
        step = TrainStep(net, CrossEntropy(), optimizer, **evened)
        step.set_train()
        step(*batch())
        return [parameter.asnumpy() for parameter in statistics]

    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        own, alike = running(), running(evened=True)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert len(own) == 8
    for one, other in zip(own, alike, strict=True):
        np.testing.assert_allclose(other, one / 2, rtol=1e-6)


def test_a_scaled_rate_scales_the_step():
    net, optimizer, step = small_step()
    before = net.norm.weight.asnumpy().copy()
    step(*batch())
    step(*batch())
    whole = net.norm.weight.asnumpy() - before
    other, optimizer, step = small_step()
    optimizer.lr_scale.set_data(ms.Tensor([0.0], ms.float32))
    step(*batch())
    step(*batch())
    assert whole.any() and (other.norm.weight.asnumpy() == before).all()


def test_compiled_kernels_leave_fifty_losses_as_they_were(monkeypatch):
    ms.set_context(mode=ms.GRAPH_MODE)

    def losses():
        ms.set_seed(0)
        net = ViT(ViTConfig(image_size=16, patch_size=4, num_classes=5, dim=24, depth=2, num_heads=3, mlp_dim=48))
        step = TrainStep(net, CrossEntropy(0.1), Adam(net.trainable_params(), np.full(50, 1e-3, np.float32)),
                         clip_norm=1.0).set_train()
        random = np.random.default_rng(0)
        batches = [(random.normal(size=(8, 3, 16, 16)), random.integers(0, 5, 8)) for _ in range(50)]
        return [float(step(ms.Tensor(x, ms.float32), ms.Tensor(y, ms.int32))[0].asnumpy()) for x, y in batches]

    ours = losses()
    monkeypatch.setenv("MS_VIT_KERNELS", "plain")
    np.testing.assert_allclose(ours, losses(), atol=1e-4)


def test_five_steps_from_one_seed_are_bitwise_the_same():
    def weights():
        net, _, step = small_step(clip_norm=1.0)
        for _ in range(5):
            step(*batch())
        return [parameter.asnumpy() for parameter in net.get_parameters()]

    assert all((one == other).all() for one, other in zip(weights(), weights(), strict=True))


def test_a_wrapped_network_keeps_its_parameter_names():
    net, _, step = small_step()
    assert isinstance(step, nn.Cell)
    assert {"cls_token", "blocks.0.attn.qkv.weight"} <= {parameter.name for parameter in net.get_parameters()}


class Net(nn.Cell):
    def construct(self, x):
        return x + 1


class Slow(Callback):
    """Stands for a step that takes its time."""

    def on_train_step_end(self, run_context):
        time.sleep(0.03)


def trained(seconds_of_a_row, *callbacks):
    """What was waited for data in two epochs of 6 steps."""
    def rows():
        for number in range(6):
            time.sleep(seconds_of_a_row)
            yield (np.array([number], np.float32),)

    data_wait = DataWait()
    Model(Net()).train(2, ds.GeneratorDataset(rows, ["x"]), callbacks=[*callbacks, data_wait])
    return data_wait


def test_time_spent_waiting_for_data_is_told_from_time_spent_in_steps():
    starved = trained(0.05)
    assert starved.share() > 0.5
    assert starved.share(since=starved.seconds) == 0.0      # nothing happened since
    assert 0 <= trained(0, Slow()).share() < 0.5
