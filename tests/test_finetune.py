"""Starting from weights: what learns, how fast, and what is kept of the old head."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter

from ms_vit import cli
from ms_vit.data.labels import Labels, imagenet_labels
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.runs.checkpoints import TrainState
from ms_vit.training.divergence import Diverged, Divergence
from ms_vit.training.losses import CrossEntropy
from ms_vit.training.optimizers import Adam, learning_rate_scale, trainable
from ms_vit.training.step import TrainStep
from ms_vit.weights.loading import known_rows


def net(depth=3):
    return ViT(ViTConfig(image_size=8, patch_size=4, num_classes=3, dim=8, depth=depth, num_heads=2, mlp_dim=8))


def learning(tune):
    return {param.name for param in trainable(net().trainable_params(), tune)}


def test_all_the_head_or_the_last_blocks_learn():
    everything = {param.name for param in net().trainable_params()}
    assert learning("all") == everything
    assert learning("head") == {"head.weight", "head.bias"}
    last_two = {name for name in everything if name.startswith(("blocks.1.", "blocks.2.", "norm.", "head."))}
    assert learning(2) == last_two
    assert learning(9) == {name for name in everything if name.startswith(("blocks.", "norm.", "head."))}


def test_what_does_not_learn_keeps_its_bits():
    model = net()
    random = np.random.default_rng(0)
    model.head.weight.set_data(ms.Tensor(random.normal(size=(3, 8)), ms.float32))
    step = TrainStep(model, CrossEntropy(), Adam(trainable(model.trainable_params(), 1), np.full(3, 0.1, np.float32)))
    step.set_train(True)
    before = {param.name: param.asnumpy().copy() for param in model.get_parameters()}
    for _ in range(3):
        step(ms.Tensor(random.normal(size=(4, 3, 8, 8)), ms.float32), ms.Tensor([0, 1, 2, 0], ms.int32))
    changed = {param.name for param in model.get_parameters() if (param.asnumpy() != before[param.name]).any()}
    learns = {name for name in before if name.startswith(("blocks.2.", "norm.", "head."))}
    assert changed <= learns and {"blocks.2.attn.qkv.weight", "norm.weight", "head.weight"} <= changed


def test_layer_decay_slows_each_block_by_its_distance_from_the_head():
    params = net(depth=12).trainable_params()
    scales = {param.name: learning_rate_scale(param.name, params, 0.75) for param in params}
    assert scales["head.weight"] == scales["norm.bias"] == 1
    assert scales["blocks.11.attn.qkv.weight"] == pytest.approx(0.75)
    assert scales["blocks.0.mlp.fc1.bias"] == pytest.approx(0.75**12)
    assert scales["pos_embed"] == scales["cls_token"] == scales["patch_embed.proj.weight"] == pytest.approx(0.75**13)


def test_adam_takes_scaled_steps_under_layer_decay():
    names = ("blocks.0.x", "blocks.1.x", "head.bias")
    params = [Parameter(ms.Tensor([1.0]), name=name) for name in names]
    Adam(params, np.array([0.1], np.float32), layer_decay=0.5)(tuple(ms.Tensor([3.0]) for _ in params), ms.Tensor(1.0))
    steps = [1 - float(param.asnumpy()[0]) for param in params]       # the first step of Adam is the rate itself
    assert steps == pytest.approx([0.025, 0.05, 0.1], rel=1e-4)


def test_rows_carry_over_by_id_and_by_unique_name():
    old = Labels(["n1", "n2", "n3", "n4"], ["tench", "crane", "crane", "dog"])
    new = Labels(["n2", "dog", "crane", "cat"], ["crane", "dog", "crane", "cat"])
    assert known_rows(old, new) == {0: 1, 1: 3}     # "crane" alone could be either


def test_imagenet_has_its_thousand_classes_in_the_usual_order():
    labels = imagenet_labels()
    assert len(labels) == 1000 and labels.ids == sorted(labels.ids)
    assert [(labels.ids[i], labels.names[i]) for i in (0, 217, 236)] == [
        ("n01440764", "tench"), ("n02102040", "English springer"), ("n02107142", "Doberman")]
    assert labels.index["Doberman"] == labels.index["n02107142"] == 236
    assert "crane" not in labels.index              # a bird and a machine


def guarded(losses, norm=1.0):
    """The step at which the guard stops, 0 for none."""
    state, guard = TrainState(), Divergence(chance=np.log(1000))
    for step, loss in enumerate(losses, start=1):
        try:
            guard.judge(state, loss, norm)
        except Diverged:
            return step
    return 0


def test_the_guard_stops_the_tutorials_divergence():
    assert guarded([1.9, 13.5, 13.6, 14.0, 14.0]) == 4


def test_the_guard_stops_where_a_network_forgets_what_it_knew():
    assert guarded([2.0] + 100 * [0.1] + 9 * [6.9]) == 104


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_the_guard_stops_at_once_where_loss_or_gradient_is_no_number(number):
    assert guarded([1.9, number]) == 2
    assert guarded([1.9], norm=number) == 1


def test_the_guard_bears_a_hard_batch_and_a_bad_start():
    assert guarded([6.9, 7.5, 11.0, 6.8, 10.6, 10.7, 6.0]) == 0
    assert guarded([40.0, 39.0, 35.0, 20.0, 5.0]) == 0
    assert guarded([6.9 - 0.01 * step for step in range(600)]) == 0


def test_a_rate_far_too_high_ends_in_one_line_and_keeps_the_last_checkpoint(tmp_path, capfd):
    root = tmp_path / "data"
    assert cli.main(["download", "digits", "--root", str(root)]) == 0
    code = cli.main(["train", "--recipe", "digits", "--data.root", str(root), "--run", str(tmp_path / "run"),
                     "--optimizer.lr", "1e4", "--optimizer.clip_norm", "0", "--train.epochs", "2",
                     "--model.depth", "1", "--schedule.warmup_epochs", "0"])
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ms-vit:")]
    assert code == 1 and len(told) == 1
    assert "the run diverged at step" in told[0] and "Lower optimizer.lr" in told[0]
