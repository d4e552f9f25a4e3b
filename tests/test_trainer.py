"""A run comes to the same however seldom the host looks, and whoever else trains with it."""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import nn
from mindspore.train import Model
from PIL import Image
from test_events import shown, told
from test_resume import CHANGES, EPOCHS, STEPS, TIMES, explode, outcome, recipe, root, stop_at, unbroken  # noqa: F401

import ms_vit
from ms_vit.device import sink_size
from ms_vit.distributed import World
from ms_vit.errors import DataError, UsageError
from ms_vit.models.config import configure, named
from ms_vit.recipe import Augment, Recipe
from ms_vit.runs.checkpoints import Checkpoints, read_state
from ms_vit.signals import Interrupted, Stop
from ms_vit.training import trainer as module
from ms_vit.training.images import preprocessing
from ms_vit.training.trainer import Trainer
from ms_vit.weights.formats import Pretrained


def without_times(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in TIMES} for line in lines]


def weights(run: Path) -> dict[str, bytes]:
    return {name: content for name, content in outcome(run).items() if name.endswith(".safetensors")}


# --- steps that don't stop for the host

def test_a_host_that_looks_seldom_sees_every_step(root, unbroken, tmp_path):        # noqa: F811
    """Four doesn't divide an epoch's six steps: the host also looks at the end of each."""
    ms_vit.train(recipe(root, **{"train.log_every": 4}), tmp_path / "run")
    assert weights(tmp_path / "run").items() <= unbroken.items()
    seldom = [line for line in unbroken["metrics"] if "val_top1" in line or line["step"] % 4 == 0]
    assert without_times(tmp_path / "run") == seldom


def test_a_divergence_that_is_noticed_later_names_the_step_where_it_began(root, tmp_path, monkeypatch):  # noqa: F811
    explode(monkeypatch, 9)
    with pytest.raises(DataError, match="diverged at step 9: the loss is nan"):
        ms_vit.train(recipe(root, **{"train.log_every": 6}), tmp_path / "run")
    assert json.loads((tmp_path / "run/diverged.json").read_text())["step"] == 9


def test_a_run_stopped_between_two_looks_is_saved_at_its_true_step(root, unbroken, tmp_path, monkeypatch):  # noqa: F811
    seldom = recipe(root, **{"train.log_every": 6})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(8, patch)
        ms_vit.train(seldom, tmp_path / "run")
    assert read_state(Checkpoints(tmp_path / "run").newest()).step == 8
    ms_vit.train(seldom, tmp_path / "run")
    assert weights(tmp_path / "run").items() <= unbroken.items()
    epochs = [line for line in unbroken["metrics"] if "val_top1" in line]
    assert [line for line in without_times(tmp_path / "run") if "val_top1" in line] == epochs


@pytest.mark.parametrize(("device", "steps", "most", "size"), [
    ("CPU", 60, 10, 0), ("Ascend", 60, 10, 10), ("GPU", 62, 10, 2), ("Ascend", 61, 10, 1), ("GPU", 3, 10, 3)])
def test_a_device_takes_whole_parts_of_an_epoch_on_its_own(device, steps, most, size):
    assert sink_size(device, steps, most) == size


class SinkingModel(Model):
    """Stands for Model.train on a device: callbacks hear of `sink_size` steps at a time."""

    def train(self, epoch, dataset, callbacks, dataset_sink_mode=False, sink_size=-1):
        assert dataset_sink_mode and epoch * sink_size == dataset.get_dataset_size()
        parameters = SimpleNamespace(cur_step_num=0)
        context = SimpleNamespace(original_args=lambda: parameters)
        batches = dataset.create_tuple_iterator(num_epochs=1)

        def tell(event):
            for callback in callbacks:
                getattr(callback, event)(context)

        self.train_network.set_train()
        tell("on_train_begin")
        for _ in range(epoch):
            tell("on_train_epoch_begin")
            tell("on_train_step_begin")
            for _ in range(sink_size):
                self.train_network(*next(batches))
            parameters.cur_step_num += sink_size
            tell("on_train_step_end")


def test_steps_that_a_device_takes_on_its_own_come_to_the_same(root, unbroken, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(module, "Model", SinkingModel)
    monkeypatch.setattr(module, "sink_size", lambda device, steps, most: sink_size("Ascend", steps, most))
    seldom = recipe(root, **{"train.log_every": 3})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(9, patch)
        ms_vit.train(seldom, tmp_path / "run")
    assert read_state(Checkpoints(tmp_path / "run").newest()).step == 9
    ms_vit.train(seldom, tmp_path / "run")
    assert weights(tmp_path / "run").items() <= unbroken.items()
    assert without_times(tmp_path / "run") == [
        line for line in unbroken["metrics"] if "val_top1" in line or line["step"] % 3 == 0]


# --- events for TensorBoard

def test_with_events_a_stopped_run_ends_in_the_same_bits_and_shows_its_metrics(root, unbroken, tmp_path,  # noqa: F811
                                                                               monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(8, patch)
        ms_vit.train(recipe(root), tmp_path / "run", tensorboard=True)
    ms_vit.train(recipe(root), tmp_path / "run", tensorboard=True)
    assert outcome(tmp_path / "run") == unbroken
    seen = shown(tmp_path / "run/events")
    assert [step for step, _ in seen.pop("recipe/text_summary")] == [0, 8]
    assert [step for step, _ in seen.pop("train/images")] == [0, 8]
    assert seen == told(tmp_path / "run") and len(seen["train/loss"]) == EPOCHS * STEPS


def test_a_run_that_goes_back_shows_each_step_once(root, tmp_path, monkeypatch):        # noqa: F811
    explode(monkeypatch, 9, times=1)
    ms_vit.train(recipe(root, **{"train.on_divergence": "rollback"}), tmp_path / "run", tensorboard=True)
    seen = shown(tmp_path / "run/events")
    assert told(tmp_path / "run").items() <= seen.items()
    assert [step for step, _ in seen["train/loss"]] == list(range(1, EPOCHS * STEPS + 1))


# --- more than one process

class Doubled(nn.Cell):
    """The mean of the gradients of two processes that have the same."""

    def construct(self, gradients):
        return tuple((gradient + gradient) * 0.5 for gradient in gradients)


@dataclass(frozen=True)
class Twins(World):
    """A world of two of which this process does both parts, one after the other: `rank` says which one it is now.

    sums: what the process of rank 0 brought, in order, for that of rank 1 to be added to.
    """

    size: int = 2
    sums: list = field(default_factory=list)
    signal: int = 0         # that the other process has got

    def sum(self, values):
        if self.rank == 0:
            self.sums.append(values)
            return 2 * values
        return values + self.sums.pop(0)

    def collect(self, values, count):
        return np.resize(values, (count, *values.shape[1:]))        # its own for the other's

    def most(self, number):
        return max(number, self.signal)

    def reducer(self, params):
        return Doubled()


def train_as(world: World, root: Path, run: Path, **changes):       # noqa: F811
    return Trainer(recipe(root, **changes), run, device="CPU", stop=Stop(), world=world, tensorboard=True)()


def test_each_sample_of_a_step_is_one_processs():
    order = list(np.random.default_rng(0).permutation(50))
    for size in (1, 2, 4):
        shares = [World(rank, size).slice(order, 8) for rank in range(size)]
        for step in range(6):
            share = 8 // size
            together = [sample for one in shares for sample in one[step * share:(step + 1) * share]]
            assert together == order[step * 8:(step + 1) * 8]
        scattered = [World(rank, size).scatter(order) for rank in range(size)]
        assert sorted(sample for one in scattered for sample in one) == sorted(order)
    assert World(0, 2).seed(5) == World().seed(5) == 5 != World(1, 2).seed(5)


def test_two_processes_share_a_run_and_one_writes_it(root, tmp_path, capsys):        # noqa: F811
    sums: list = []
    first = train_as(Twins(0, sums=sums), root, tmp_path / "first", **{"train.epochs": 1})
    second = train_as(Twins(1, sums=sums), root, tmp_path / "second", **{"train.epochs": 1})
    assert not sums and first.steps == second.steps == STEPS
    assert {"recipe.yaml", "metrics.jsonl", "checkpoints", "answers.jsonl", "events"} <= {
        path.name for path in (tmp_path / "first").iterdir()}
    assert not (tmp_path / "second").exists() or not list((tmp_path / "second").iterdir())
    assert capsys.readouterr().err.count("epoch 1 of 1") == 2


def test_a_signal_to_another_process_stops_this_one_where_both_look(root, tmp_path):     # noqa: F811
    with pytest.raises(Interrupted) as stopped:
        train_as(Twins(0, signal=signal.SIGTERM), root, tmp_path / "run", **{"train.log_every": 4})
    assert stopped.value.args == (signal.SIGTERM,)
    assert read_state(Checkpoints(tmp_path / "run").newest()).step == 4


# --- what a run doesn't need any more

def test_a_run_goes_on_without_the_weights_that_it_began_from(root, unbroken, tmp_path):    # noqa: F811
    begun = tmp_path / "begun.safetensors"
    begun.write_bytes(unbroken["model.safetensors"])
    changes = {"model.weights": begun, "train.epochs": 1}
    ms_vit.train(recipe(root, **changes), tmp_path / "straight")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        stop_at(3, patch)
        ms_vit.train(recipe(root, **changes), tmp_path / "run")
    begun.unlink()
    ms_vit.train(recipe(root, **changes), tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


# --- images that have no part in choosing

def test_val_is_looked_at_once_where_a_part_of_train_chooses(root, tmp_path, capsys):       # noqa: F811
    changes = {"data.holdout": 0.3, "train.epochs": 2, "train.batch_size": 8}
    best = ms_vit.train(recipe(root, **changes), tmp_path / "run").best
    told = capsys.readouterr().err
    assert told.count("looked at once") == 1 and "best top-1 on what is held out of" in told
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert best == max(line["val_top1"] for line in lines if "val_top1" in line)
    (final,) = [line for line in lines if "final_top1" in line]
    evaluation = ms_vit.eval(tmp_path / "run", data=root / "digits", split="val")
    assert final["final_top1"] == evaluation.top1 and evaluation.images == 30
    assert final["final"] == str(root / "digits/val")
    ms_vit.train(recipe(root, **changes), tmp_path / "run")
    assert "looked at once" not in capsys.readouterr().err


# --- parts by name

@pytest.mark.parametrize(("key", "name", "says"), [
    ("optimizer.name", "adanw", 'no optimizer "adanw"; did you mean "adamw"?'),
    ("schedule.name", "exponential", 'no schedule "exponential"; there are cosine, linear, step, constant'),
    ("loss.name", "cross-entropy", 'no loss "cross-entropy"; did you mean "cross_entropy"?')])
def test_an_unknown_part_is_told_with_what_comes_nearest(key, name, says, root, tmp_path):  # noqa: F811
    with pytest.raises(UsageError) as told:
        ms_vit.train(recipe(root, **{key: name}), tmp_path / "run")
    assert str(told.value) == says
    assert not (tmp_path / "run").exists()


# --- whose mean and std, whose recipe

CARD = "name: x\ntitle: x\nformat: digits\nlicence: none\nmean: [0.1, 0.2, 0.3]\nstd: [0.4, 0.5, 0.6]\n"


@pytest.mark.parametrize(("recipe_has", "weights_have", "carded", "mean", "says"), [
    ([0.7] * 3, [0.8] * 3, True, [0.7] * 3, "mean and std are the recipe's and the weights'"),
    (None, [0.8] * 3, True, [0.8] * 3, "mean and std are the weights'"),
    (None, None, True, [0.1, 0.2, 0.3], "mean and std are the card's"),
    (None, None, False, [0.485, 0.456, 0.406], "mean and std are ImageNet's")])
def test_mean_and_std_are_the_recipes_the_weights_the_cards_or_imagenets(recipe_has, weights_have, carded, mean, says,
                                                                          tmp_path, capsys):
    if carded:
        (tmp_path / "card.yaml").write_text(CARD)
    weights = Pretrained(format="x", arrays={}, config={}, labels=None,
                         preprocessing={"mean": weights_have, "std": [1.0] * 3}) if weights_have else None
    made = preprocessing(Augment(mean=recipe_has), configure(named("vit_tiny_patch16_16")), weights, tmp_path)
    assert made.mean == mean and says in capsys.readouterr().err.splitlines()
    assert made.std == ([1.0] * 3 if weights_have else [0.4, 0.5, 0.6] if carded else [0.229, 0.224, 0.225])


@pytest.mark.parametrize(("size", "weights", "chosen"), [
    ((64, 80), None, "default-small"), ((65, 80), None, "default-photos"), ((8, 8), "w.pth", "default-finetune")])
def test_without_a_recipe_one_is_taken_that_suits(size, weights, chosen, tmp_path, capsys):
    for name in ("a/1.png", "a/2.jpg", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "b/broken.png").write_bytes(b"no image")
    changes = {"data.name": str(tmp_path), "train.epochs": 7} | ({"model.weights": Path(weights)} if weights else {})
    recipe = Recipe.load("default", changes)
    told = capsys.readouterr().err
    assert f"by the recipe {chosen}: " in told and "train.epochs" not in told and "train.batch_size 32" in told
    assert recipe == Recipe.load(chosen, changes) and recipe.train.epochs == 7
