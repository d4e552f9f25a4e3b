"""One description of a network: recipes, files and networks agree on all that a ViT can be."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ms_vit
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import DataError, UsageError
from ms_vit.models import kernels
from ms_vit.models.config import KEYS, SHARES, ViTConfig, configure, named
from ms_vit.models.vit import ViT, create_model
from ms_vit.recipe import Recipe
from ms_vit.weights.files import ModelSpec, read_spec, save_parameters
from ms_vit.weights.loading import fit, load_weights, merged_config, read_pretrained

SMALL = {"image_size": 16, "patch_size": 4, "num_classes": 3, "dim": 64, "depth": 1, "num_heads": 2, "mlp_dim": 16}
ODD = {"channels": 1, "head_dim": 8, "pool": "mean", "gelu": "tanh", "epsilon": 1e-5, "class_token": True,
       "registers": 2, "class_position": False, "layer_scale": True, "fc_norm": True, "drop_path": 0.1,
       "stem_form": "pooled", "pos_embed": "sincos", "qk_norm": True, "gelu_twice": True, "mlp_dropout": 0.2,
       "head_dropout": 0.1}
MORE = {"distilled": False, "stem": [8, 16], "post_norm": True, "head_hidden": [12]}


def saved(path, config: ViTConfig):
    net = ViT(config)
    labels = Labels(list("abc"), list("abc"))
    save_parameters(path, net.parameters_dict(), ModelSpec(config=config, labels=labels,
                                                           preprocessing=Preprocessing(image_size=16)))
    return path


def test_everything_that_a_vit_can_be_is_sayable_in_a_recipe(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(f"model: {SMALL | ODD | MORE}".replace("'", ""))
    recipe = Recipe.load(file)
    assert set(KEYS) - set(recipe.model.changes) == {"dropout", "attention_dropout"} - set(recipe.model.changes)
    config = recipe.model.configure()
    assert config == ViTConfig(**SMALL, **ODD, **MORE)
    file.write_text(recipe.to_yaml())
    assert Recipe.load(file).model.configure() == config


def test_what_is_not_given_is_as_the_name_says():
    recipe = Recipe.load("digits", {"model.name": "vit_small_patch16_224"})
    assert recipe.model.configure(num_classes=7) == ViTConfig(
        **named("vit_small_patch16_224") | {key: value for key, value in recipe.model.changes.items()}
        | {"num_classes": 7})


@pytest.mark.parametrize(("changes", "says"), [
    ({"dim": 65}, "dim 65 can't be split into num_heads 2; give head_dim"),
    ({"stem": [8]}, "a stem of 1 stages, each halving the image, makes patches of 2 pixels, not 4"),
    ({"class_token": False}, "class_token must be true where pool is cls"),
    ({"pool": "mean", "class_token": False, "distilled": True}, "class_token must be true where distilled is"),
    ({"epsilon": 0.0}, "epsilon must be above 0 and below 1, not 0.0"),
    ({"mlp_dropout": -0.1}, "mlp_dropout must be at least 0 and below 1, not -0.1"),
    ({"dim": 66, "pos_embed": "sincos"}, "dim must be a multiple of 4 where pos_embed is sincos, not 66"),
    ({"distilled": True, "head_hidden": [8]}, "head_hidden and head_dropout are for a network of one head"),
    ({"stem": 8}, "stem must be a list of whole numbers, not 8"),
    ({"head_hidden": [0]}, "head_hidden must be a whole number from 1 to 131,072, not 0"),
    ({"pos_embed": "fixed"}, "pos_embed must be learned or sincos or none, not 'fixed'"),
    ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1, not 1.0"),
    ({"layer_scale": 1}, "layer_scale must be true or false, not 1"),
    ({"depth": 0}, "depth must be a whole number from 1 to 512, not 0"),
    ({"dim": 64.0}, "dim must be a whole number from 1 to 16,384, not 64.0"),
    ({"pool": "max"}, "pool must be cls or mean or flatten, not 'max'"),
    ({"image_size": (16, 16, 16)}, "image_size must be one number, or height and width"),
    ({"image_size": 16_384}, "makes 16,777,216 patches, more than 16,384")])
def test_a_network_that_cannot_be_is_one_line(changes, says):
    with pytest.raises(ValueError) as told:
        ViTConfig(**SMALL | changes)
    assert says in str(told.value)
    with pytest.raises(UsageError, match="there is no such network: "):
        configure(SMALL, **changes)


@given(st.dictionaries(st.sampled_from(KEYS), st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(
    max_size=3) | st.lists(st.integers(0, 40), max_size=3), max_size=4))
def test_any_values_are_a_network_or_one_line(changes):
    try:
        config = ViTConfig(**SMALL | changes)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert ViTConfig(**config.as_dict()) == config


def test_a_config_counts_what_its_network_has():
    for changes in ({}, ODD | {"channels": 3}, {"distilled": True}, {"pool": "flatten", "head_hidden": [20, 8]},
                    {"image_size": (12, 24)}):
        config = ViTConfig(**SMALL | changes)
        net = ViT(config)
        assert tuple(net.pos_embed.shape) == (1, config.positions, config.dim)
        assert net(ms.ops.zeros((1, config.channels, *config.height_and_width))).shape == (1, 3)
        matrices = [parameter.size for parameter in net.get_parameters() if len(parameter.shape) in (2, 4)
                    and not parameter.name.startswith("head_dist")]
        assert sum(matrices) == config.weights - config.dim * config.patches


def test_a_network_keeps_what_it_was_built_from():
    net = create_model("vit_tiny_patch16_224", depth=1, num_classes=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.config.depth = 2
    assert net.config == configure(named("vit_tiny_patch16_224"), depth=1, num_classes=5)


# --- files

def test_a_file_of_version_0_1_0_is_read_with_its_old_words(tmp_path):
    """It said norm_after_pool for fc_norm, and left out what was as by default."""
    values = SMALL | {"pool": "mean", "norm_after_pool": True}
    assert ViTConfig.from_dict(values) == ViTConfig(**SMALL, pool="mean", fc_norm=True)


def test_a_spec_comes_back_as_it_was(tmp_path):
    config = ViTConfig(**SMALL | ODD)
    assert read_spec(saved(tmp_path / "w.safetensors", config)).config == config


@pytest.mark.parametrize(("changes", "says"), [
    ({"gelu": "tanh"}, "gelu exact, not tanh"), ({"epsilon": 1e-12}, "epsilon 1e-06, not 1e-12"),
    ({"post_norm": True}, "post_norm False, not True"), ({"pos_embed": "sincos"}, "pos_embed learned, not sincos"),
    ({"num_heads": 4}, "head_dim 32, not 16; num_heads 2, not 4"), ({"fc_norm": True}, "fc_norm False, not True")])
def test_weights_of_a_network_that_is_another_say_so(changes, says, tmp_path):
    path = saved(tmp_path / "w.safetensors", ViTConfig(**SMALL))
    net = ViT(ViTConfig(**SMALL | changes))
    before = net.head.weight.asnumpy().copy()
    with pytest.raises(DataError) as told:
        load_weights(net, path)
    assert f"{path} is of another network: it was trained with {says}. Give that to create_model" in str(told.value)
    assert (net.head.weight.asnumpy() == before).all()
    assert ", ".join(load_weights(net, path, partial=True).contradictions) == says.replace("; ", ", ")


def test_a_deeper_head_on_weights_starts_anew_and_fixed_positions_are_the_grids(tmp_path):
    path = saved(tmp_path / "w.safetensors", ViTConfig(**SMALL | {"pos_embed": "sincos"}))
    pretrained = read_pretrained(path)
    net = ViT(merged_config(pretrained, path, head_hidden=(12,), image_size=24))
    started = {name: parameter.asnumpy().copy() for name, parameter in net.parameters_dict().items()}
    report = fit(net, pretrained, path)
    assert report.replaced == ["pre_logits.0.fc.weight", "pre_logits.0.fc.bias", "head.weight", "head.bias"]
    for name, parameter in net.parameters_dict().items():
        expected = started if name in (*report.replaced, "pos_embed") else pretrained.arrays
        assert (parameter.asnumpy() == expected[name]).all(), name
    assert report.resized == []


def test_a_networks_gelu_is_the_weights_everywhere(tmp_path):
    """In the stem, too: it was built with what they say, and nothing is changed in it afterwards."""
    config = ViTConfig(**SMALL | {"gelu": "tanh", "stem": (8, 16)})
    path = saved(tmp_path / "w.safetensors", config)
    net = ViT(merged_config(read_pretrained(path), path))
    load_weights(net, path)
    kinds = {name: cell.approximate for name, cell in net.cells_and_names() if isinstance(cell, kernels.Gelu)}
    assert len(kinds) == 3 and set(kinds.values()) == {"tanh"}


def test_heads_of_64_are_assumed_and_said(tmp_path, capsys):
    """As weights of timm's names have it, which don't tell their heads."""
    net = ViT(ViTConfig(**SMALL | {"num_heads": 1}))
    path = tmp_path / "timm.safetensors"
    save_parameters(path, net.parameters_dict())
    config = merged_config(read_pretrained(path), path)
    assert (config.num_heads, config.head_dim) == (1, 64)
    assert "doesn't tell its attention heads; 1 of 64 are assumed" in capsys.readouterr().err
    images = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    logits = ms_vit.Predictor(path).logits(images)
    np.testing.assert_allclose(logits, net.set_train(False)(ms.Tensor(images)).asnumpy(), atol=1e-6)


def test_the_shares_dropped_are_no_matter_of_weights(tmp_path):
    path = saved(tmp_path / "w.safetensors", ViTConfig(**SMALL | {"dropout": 0.5, "drop_path": 0.1}))
    config = merged_config(read_pretrained(path), path)
    assert all(getattr(config, key) == 0.0 for key in SHARES)
