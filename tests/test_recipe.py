"""Recipes: the published ones are sound, one's own are read strictly."""

import contextlib
import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packing import refusal

from ms_vit.errors import UsageError
from ms_vit.models.vit import create_model
from ms_vit.recipe import RECIPES, Recipe

KEYS = st.sampled_from(["base", "data", "train", "model", "lr", "epochs", "x"]) | st.integers()


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.yaml")))
def test_every_published_recipe_loads_and_survives_being_written(name, tmp_path):
    recipe = Recipe.load(name)
    assert Recipe.load(write(tmp_path / "again.yaml", recipe.to_yaml())) == recipe


def test_the_file_wins_over_defaults_and_changes_over_the_file(tmp_path):
    path = write(tmp_path / "my.yaml", "train: {epochs: 7, batch_size: 5}\noptimizer: {lr: 1e-4}")
    recipe = Recipe.load(path, {"train.epochs": 3, "model.drop_path": 0.1})
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.optimizer.lr) == (3, 5, 1e-4)
    assert (recipe.model.drop_path, recipe.schedule.min_lr) == (0.1, 0.0)


def test_a_recipe_begins_with_what_its_base_says_and_the_bases_base(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "first.yaml", "base: digits\nmodel: {depth: 2}\ntrain: {epochs: 7, batch_size: 5}\n"
                                   "augment: {train: [Decode(), HWC2CHW()]}")
    own = write(tmp_path / "more/own.yaml", "base: ../first.yaml\ntrain: {epochs: 3}\nmodel: {head_dim: null}")
    recipe, digits = Recipe.load(own, {"train.seed": 4}), Recipe.load("digits")
    assert (recipe.train.seed, recipe.train.epochs, recipe.train.batch_size, recipe.model.depth) == (4, 3, 5, 2)
    assert recipe.augment.train == ["Decode()", "HWC2CHW()"] and recipe.augment.eval == digits.augment.eval
    assert (recipe.optimizer, recipe.model.dim, recipe.model.head_dim) == (digits.optimizer, digits.model.dim, None)


@pytest.mark.parametrize(("text", "says"), [
    ("base: digit", 'no recipe "digit", the base of .*my.yaml; give one of .*digits'),
    ("base: none.yaml", "can't read .*none.yaml: no such file"),
    ("base: [digits]", '"base" in .*my.yaml must be the name or the file of a recipe, not .*digits'),
    ("base: my.yaml", "my.yaml is based on itself, by .*my.yaml; give that another base, or none"),
    ("base: other.yaml", "my.yaml is based on itself, by .*other.yaml; give"),
    ("optimiser: {lr: 1}", 'unknown key "optimiser" in .*my.yaml; did you mean "optimizer"?'),
    ("optimizer: {learn: 1}", 'unknown key "optimizer.learn"'),
    ("train: {epoch: 1}", 'did you mean "train.epochs"'),
    ("train: 3", '"train" in .*my.yaml is a section'),
    ("train: {epochs: many}", '"train.epochs": expected int, got many in .*my.yaml'),
    ("train: {epochs: 0}", '"train.epochs" must be at least 1'),
    ("model: {pool: max}", '"model.pool": expected'),
    ("model: {drop_path: 1.0}", "drop_path.*below 1"),
    ("data: [1, 2]", '"data" in .* is a section'),
    ("1: 2", 'unknown key "1"'),
    ('"\\e[2J\\nms-vit: all is well": 1', r'unknown key "\\x1b\[2J\\nms-vit: all is well"'),
    ("train: {epochs: }", '"train.epochs" in .*my.yaml has no value'),
    ("optimizer: {betas: null}", '"optimizer.betas" in .*my.yaml has no value'),
    ("train:", '"train" in .*my.yaml is a section'),
    ("train: {epochs: 1.5}", "expected int, got 1.5"),
    ("optimizer: {betas: [0.9]}", "optimizer.betas"),
    ("schedule: {name: step}", '"schedule.milestones" must list the epochs after which step lowers the rate'),
    ("loss: {distill: soft}", '"loss.distill" says how to learn from train.teacher, which is not given'),
    ("loss: {distill_alpha: 0.9}", '"loss.distill_alpha" says how to learn from train.teacher, which is not given'),
    ("train: {batch_size: 6, accumulate: 4}", '"train.accumulate" must divide train.batch_size, 6'),
])
def test_a_mistake_in_a_recipe_gets_one_line(text, says, tmp_path):
    write(tmp_path / "other.yaml", "base: my.yaml")
    assert re.search(says, refusal(Recipe.load, write(tmp_path / "my.yaml", text), UsageError))


BELOW_1, INF, HUGE = math.nextafter(1, 0), float("inf"), float.fromhex("0x1.fffffffffffffp+1023")


@pytest.mark.parametrize("keys, good, bad", [
    ("train.epochs train.batch_size train.log_every data.workers checkpoint.every_epochs checkpoint.keep",
     [1, 1_000_000], [0, -1, 1_000_001, 10 ** 20]),
    ("train.seed", [0, (1 << 32) - 1], [-1, 1 << 32, 10 ** 24]),
    ("model.dropout model.attention_dropout model.drop_path train.ema loss.label_smoothing "
     "optimizer.momentum",
     [0.0, BELOW_1], [-1e-9, 1.0, math.nan]),
    ("augment.crop_pct optimizer.layer_decay schedule.gamma augment.mix_chance augment.cutmix_chance",
     [1e-9, 1.0], [0.0, 1.0001, math.nan]),
    ("augment.mixup augment.cutmix optimizer.lr optimizer.eps optimizer.weight_decay optimizer.clip_norm "
     "schedule.warmup_epochs schedule.min_lr checkpoint.every_minutes", [0.0, HUGE], [-1e-9, INF, -INF, math.nan]),
    ("optimizer.betas", [[0.0, BELOW_1]], [[1.0, 0.9], [0.9, 1.0], [-1e-9, 0.9], [math.nan, 0.9]]),
    ("schedule.milestones", [[], [0.5, 9]], [[0.0], [1.0, -1.0], [INF], [math.nan]]),
    ("optimizer.tune", ["all", "head", 1], [0, -1]),
    ("augment.train augment.eval", [["Decode()"]], [[]]),
    ("augment.mean", [[-HUGE, 0.0, HUGE]], [[math.nan, 0.0, 0.0], [0.0, 0.0, INF]]),
    ("augment.std", [[5e-324, 1.0, HUGE]], [[0.0, 1.0, 1.0], [1.0, 1.0, INF], [1.0, math.nan, 1.0]]),
])
def test_a_value_out_of_its_bounds_is_told_and_those_at_them_are_taken(keys, good, bad):
    for key in keys.split():
        section, name = key.split(".")
        for value in good + bad:
            recipe = Recipe()
            setattr(getattr(recipe, section), name, value)
            with pytest.raises(UsageError, match=f'"{key}" (must|is) ') if value in bad else contextlib.nullcontext():
                recipe.validate()


def test_a_batch_is_cut_into_equal_parts():
    assert Recipe.load("digits", {"train.batch_size": 6, "train.accumulate": 3}).train.accumulate == 3


@pytest.mark.parametrize(("model", "says"), [
    ({"name": "vit_tiny_patch16_0"}, "image_size must be a whole number from 1 to 16,384, not 0"),
    ({"name": "vit_tiny_patch16_99999999999"}, "image_size must be"),
    ({"name": "vit_tiny_patch7_224"}, 'no model "vit_tiny_patch7_224"'),
    *[({key: value}, f"{key} must be a whole number") for key, values in {
        "image_size": (0, -16, 16_385), "patch_size": (0, 129), "dim": (0, 16_385), "depth": (0, 513),
        "num_heads": (0, 513), "mlp_dim": (0, 131_073), "num_classes": (-2, 1_000_001)}.items() for value in values],
    ({"image_size": 16_384}, "makes 1,048,576 patches, more than 16,384"),
    ({"patch_size": 1}, "makes 50,176 patches, more than 16,384"),
    ({"num_heads": 7}, "can't be split into num_heads 7"),
    ({"dim": 16_384, "depth": 512, "num_heads": 1}, "weights, more than 30,000,000,000"),
    ({"stem": [0, 0, 0, 0]}, "stem must be"),
    ({"stem": [8]}, "a stem of 1 stages, each halving the image, makes patches of 2 pixels, not 16"),
])
def test_a_network_that_cannot_be_is_refused_before_it_is_built(model, says):
    with pytest.raises(UsageError, match=says):
        create_model(**{"name": "vit_tiny_patch16_224"} | model)


def test_an_unknown_recipe_is_told_with_those_there_are():
    with pytest.raises(UsageError, match="digits, folder-b16, imagenet-subset"):
        Recipe.load("digit")


def test_an_unknown_change_is_told(tmp_path):
    with pytest.raises(UsageError, match=r'"optimizer\.Lr" in the changes to the recipe; did you mean "optimizer\.lr"'):
        Recipe.load("digits", {"optimizer.Lr": 1})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8))
def test_whatever_a_yaml_holds_it_is_a_recipe_or_one_line(tmp_path_factory, values):
    path = write(tmp_path_factory.mktemp("recipe") / "my.yaml", yaml.safe_dump(values))
    try:
        assert isinstance(Recipe.load(path), Recipe)
    except UsageError as error:
        assert "\n" not in str(error)
