"""Parts that a user's package adds by an entry point."""

import sys
from contextlib import nullcontext

import mindspore as ms
import numpy as np
import pytest
from test_resume import recipe, root  # noqa: F401

import ms_vit
from ms_vit import registry
from ms_vit.data.operations import OURS, parse
from ms_vit.errors import UsageError
from ms_vit.inference import engines
from ms_vit.recipe import Augment, Loss, Schedule
from ms_vit.training import trainer
from ms_vit.training.losses import losses
from ms_vit.training.optimizers import optimizers
from ms_vit.training.schedules import schedules

MODULE = '''
import numpy as np
from mindspore import nn

from ms_vit.data import operations
from ms_vit.training.losses import losses
from ms_vit.training.optimizers import Descent, optimizers
from ms_vit.training.schedules import schedules


@operations.register("Invert")
def invert(most: int = 255):
    return lambda image: most - image


@losses.register("nothing")
class Nothing(nn.Cell):
    def __init__(self, settings):
        super().__init__()

    def construct(self, logits, labels):
        return 0.0 * logits.sum()


@schedules.register("zero")
def zero(lr, epochs, steps_per_epoch, settings):
    return np.zeros(epochs * steps_per_epoch, np.float32)


class Still(Descent):
    def change(self, gradients, factor, lr):
        return factor


@optimizers.register("still")
def still(params, learning_rates, settings):
    return Still(params, learning_rates)
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(source): a package `my_parts`, as it lies there after pip install."""
    def install(source: str) -> None:
        (tmp_path / "my_parts.py").write_text(source)
        info = tmp_path / "my_parts-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[ms_vit.parts]\nmine = my_parts\n")
        monkeypatch.syspath_prepend(tmp_path)

    for each in (OURS, losses, optimizers, schedules):
        monkeypatch.setattr(each, "entries", dict(each.entries))
    registry.load_parts.cache_clear()
    yield install
    registry.load_parts.cache_clear()
    sys.modules.pop("my_parts", None)


def test_a_package_adds_an_operation_a_loss_a_schedule_and_an_optimiser(install, root, tmp_path, monkeypatch):  # noqa: F811
    install(MODULE)
    cached = []
    for module in (trainer, engines):
        monkeypatch.setattr(module, "graph_cache", lambda what: cached.append(what) or nullcontext())
    assert OURS.find("Normalise") is None and "Invert" in list(OURS)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (parse("Invert(most=100)").build({})(image) == 100 - image).all()
    assert float(losses["nothing"](Loss())(ms.Tensor([[1.0]]), ms.Tensor([0])).asnumpy()) == 0
    assert not schedules["zero"](1.0, 2, 3, Schedule()).any()
    train = ["Decode()", "Resize((image_size, image_size))", "Invert()", "Normalize(mean, std)", "HWC2CHW()"]
    done = ms_vit.train(recipe(root, **{"optimizer.name": "still", "augment.train": train, "train.epochs": 1,
                                        "schedule.name": "zero"}), tmp_path / "run")
    assert done.steps > 0
    assert [what.split(" ")[0] for what in cached] == ["logits"]    # a step of theirs may change behind our back


def test_names_of_ours_are_found_without_any_package(install):
    install("raise RuntimeError('never imported')")
    assert optimizers["adamw"] and parse("RandomHorizontalFlip(0.5)") and Augment().train


@pytest.mark.parametrize(("source", "says"), [
    ("import missing_module", "my_parts: No module named 'missing_module'"), ("1 / 0", "my_parts: division by zero"),
    ("raise ValueError('first\\nsecond')", "my_parts: first")])
def test_a_package_that_cannot_be_imported_is_named_in_a_line(source, says, install):
    install(source)
    for use in (lambda: optimizers["mine"], lambda: parse("Mine()")):
        with pytest.raises(UsageError) as told:
            use()
        assert str(told.value) == (f'the parts of the package "my-parts" can\'t be imported ({says}); mend or '
                                   "uninstall it")


def test_a_name_that_no_package_has_is_told_with_the_nearest_of_all(install):
    install(MODULE)
    with pytest.raises(UsageError, match='no optimizer "stil"; did you mean "still"'):
        optimizers["stil"]
    with pytest.raises(UsageError, match='has no operation "Invrt"; did you mean "Invert"'):
        parse("Invrt()")
