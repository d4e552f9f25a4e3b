"""A student and its teacher: the loss against float64, what each head learns from, whole runs."""

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from test_resume import go_on_from, outcome, recipe, root  # noqa: F401

import ms_vit
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import UsageError
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.recipe import Loss
from ms_vit.training.distillation import BothHeads, Distillation, Teacher
from ms_vit.training.gradients import Gradients, RecomputedGradients
from ms_vit.training.losses import CrossEntropy
from ms_vit.weights.files import ModelSpec

SMALL = ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, num_heads=2, mlp_dim=8)
SPEC = ModelSpec(config=SMALL, labels=Labels(["a", "b", "c"], ["a", "b", "c"]),
                 preprocessing=Preprocessing(image_size=8, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def distilled(of_labels, of_teacher, targets, teacher, settings):
    """Touvron et al. 2021, eq. 2 and 3; the divergence is the batch's mean."""
    own = -(targets * log_softmax(of_labels)).sum(-1).mean()
    if settings.distill == "hard":
        taught = -log_softmax(of_teacher)[np.arange(len(teacher)), teacher.argmax(-1)].mean()
    else:
        t = settings.distill_temperature
        p, q = log_softmax(teacher / t), log_softmax(of_teacher / t)
        taught = t * t * (np.exp(p) * (p - q)).sum(-1).mean()
    return (1 - settings.distill_alpha) * own + settings.distill_alpha * taught


@pytest.mark.parametrize("how", ["hard", "soft"])
@pytest.mark.parametrize("both", [False, True])
def test_the_loss_is_hintons_and_deits(how, both):
    random = np.random.default_rng(0)
    one, other, teacher = 3 * random.normal(size=(3, 6, 5))
    targets = random.dirichlet(np.ones(5), 6)
    settings = Loss(distill=how, distill_alpha=0.3, distill_temperature=2.5)
    given = [ms.Tensor(each, ms.float32) for each in (one, other)]
    loss = Distillation(CrossEntropy(), settings, both_heads=both)(
        tuple(given) if both else given[0], ms.Tensor(np.stack([targets, teacher], 1), ms.float32))
    expected = distilled(one, other if both else one, targets, teacher, settings)
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)


def images():
    return ms.Tensor(np.random.default_rng(0).normal(size=(4, 3, 8, 8)), ms.float32)


def net_with_a_head(config=SMALL):
    ms.set_seed(0)
    net = ViT(config)
    net.head.weight.set_data(ms.Tensor(np.random.default_rng(1).normal(size=net.head.weight.shape), ms.float32))
    return net


def test_a_teacher_sees_what_the_student_sees_in_its_own_order_and_numbers():
    net, x = net_with_a_head(), images()
    theirs = replace(SPEC, labels=Labels(["c", "a", "b"], ["c", "a", "b"]),
                     preprocessing=Preprocessing(image_size=8, mean=[0.1, 0.2, 0.3], std=[0.5, 0.3, 0.2]))
    mean, std, their_mean, their_std = (np.reshape(each, (3, 1, 1)) for each in (
        SPEC.preprocessing.mean, SPEC.preprocessing.std, theirs.preprocessing.mean, theirs.preprocessing.std))
    shown = ((x.asnumpy() * std + mean) - their_mean) / their_std
    expected = net(ms.Tensor(shown, ms.float32)).asnumpy()[:, [1, 2, 0]]
    teacher = Teacher(net, theirs, SPEC, Path("teacher")).set_train()
    assert not net.blocks[0].training
    made = teacher(x, ms.Tensor([0, 1, 2, 0], ms.int32)).asnumpy()
    np.testing.assert_allclose(made[:, 1], expected, atol=1e-5)
    assert (made[:, 0] == np.eye(3)[[0, 1, 2, 0]]).all()


def test_a_teacher_of_another_image_size_gets_resampled_images():
    torch = pytest.importorskip("torch")
    config = ViTConfig(**SMALL.as_dict() | {"image_size": 12})
    net, x = net_with_a_head(config), images()
    larger = torch.nn.functional.interpolate(torch.tensor(x.asnumpy()), size=(12, 12), mode="bilinear")
    expected = net(ms.Tensor(larger.numpy())).asnumpy()
    made = Teacher(net, replace(SPEC, config=config), SPEC, Path("teacher"))(x, ms.Tensor([0, 1, 2, 0], ms.int32))
    np.testing.assert_allclose(made.asnumpy()[:, 1], expected, atol=1e-5)


@pytest.mark.parametrize(("changes", "says"), [
    ({"labels": Labels(["a", "b", "d"], ["a", "b", "d"])}, "the teacher t has other classes than the student: c, d; "),
    ({"config": ViTConfig(**SMALL.as_dict() | {"channels": 1})}, "sees images of 1 channels, the student of 3")])
def test_a_teacher_that_cannot_teach_is_refused_in_a_line(changes, says):
    with pytest.raises(UsageError, match=says):
        Teacher(ViT(SMALL), replace(SPEC, **changes), SPEC, Path("t"))


class FirstHead(nn.Cell):
    """The loss of the labels' head alone."""

    def construct(self, logits, targets):
        return CrossEntropy()(logits[0], targets[:, 0])


@pytest.mark.parametrize("kind", [Gradients, RecomputedGradients])
def test_a_distilled_networks_heads_learn_from_labels_and_from_the_teacher(kind):
    """At alpha 1 the labels teach nothing, at alpha 0 the teacher."""
    net = ViT(ViTConfig(**SMALL.as_dict() | {"distilled": True}))
    params = [net.head.weight, net.head_dist.weight, net.blocks[0].mlp.fc1.weight]
    net.head_dist.weight.set_data(ms.Tensor(np.ones(net.head_dist.weight.shape), ms.float32))
    targets = ms.Tensor(np.random.default_rng(2).normal(size=(4, 2, 3)), ms.float32)
    moved = []
    for alpha in (1.0, 0.0):
        loss = Distillation(CrossEntropy(), Loss(distill_alpha=alpha), both_heads=True)
        _, gradients = kind(BothHeads(net), loss, params)(images(), targets)
        moved.append([bool(each.asnumpy().any()) for each in gradients[:2]])
    assert moved == [[False, True], [True, False]]


# --- whole runs

@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):        # noqa: F811
    """A run of other image size than its students'."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    ms_vit.train(recipe(root, **{"train.epochs": 1, "model.image_size": 20}), run)
    return run


@pytest.mark.parametrize("changes", [
    {"loss.distill": "soft"}, {"model.distilled": True, "train.recompute": True, "train.accumulate": 2}],
    ids=["one head", "two heads"])
def test_a_student_learns_and_goes_on_in_the_same_bits(changes, teacher, root, tmp_path, monkeypatch, capsys):  # noqa: F811
    wanted = recipe(root, **{"train.teacher": teacher, "train.epochs": 1, "optimizer.name": "muon"} | changes)
    go_on_from(3, wanted, tmp_path, monkeypatch)
    told = capsys.readouterr().err
    assert f"taught by {teacher / 'checkpoints'}" in told and "images resampled to 20x20" in told
    ended = outcome(tmp_path / "run")
    assert ended == outcome(tmp_path / "straight")
    assert not any(b'"teacher.' in content for name, content in ended.items() if name.endswith(".safetensors"))


def test_a_teacher_that_is_not_there_is_told_in_a_line(root, tmp_path, run):       # noqa: F811
    code, _, told = run("train", "--recipe", "digits", f"--data.root={root}", f"--run={tmp_path / 'run'}",
                        f"--train.teacher={tmp_path / 'none'}")
    assert code in (1, 2) and str(tmp_path / "none") in told.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    code, _, told = run("train", "--recipe", "digits", f"--data.root={root}", f"--run={tmp_path / 'run'}",
                        f"--train.teacher={tmp_path / 'cifar10-teacher'}")      # as a recipe names its own
    assert code == 1 and f"ms-vit train --recipe cifar10-teacher --run {tmp_path / 'cifar10-teacher'}" in told
    assert not (tmp_path / "run").exists()
    code, _, told = run("train", "--recipe", "digits", f"--data.root={root}", f"--run={tmp_path / 'run'}",
                        "--train.teacher_model=vit_tiny_patch16_224")
    assert code == 2 and told.splitlines()[-1].endswith("names the network of train.teacher, which is not given")
