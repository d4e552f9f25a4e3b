import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ms_vit.errors import UsageError
from ms_vit.recipe import RECIPES, Recipe

KEYS = st.sampled_from(["data", "train", "model", "lr", "epochs", "x"]) | st.integers()


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


@pytest.mark.parametrize(("text", "says"), [
    ("optimiser: {lr: 1}", 'unknown key "optimiser" in .*my.yaml; did you mean "optimizer"?'),
    ("optimizer: {learn: 1}", 'unknown key "optimizer.learn"'),
    ("train: {epoch: 1}", 'did you mean "train.epochs"'),
    ("train: 3", '"train" in .*my.yaml is a section'),
    ("train: {epochs: many}", '"train.epochs": expected int, got many in .*my.yaml'),
    ("train: {epochs: 0}", '"train.epochs" must be at least 1'),
    ("model: {pool: max}", '"model.pool": expected'),
    ("model: {drop_path: 1.0}", "drop_path.*below 1"),
    ("data: [1, 2]", '"data" in .* is a section'),
    ("- a\n- b", "must hold"),
    ("a: [", "no valid YAML"),
    ("!!python/object/apply:os.system ['true']", "no valid YAML"),
])
def test_a_mistake_in_a_recipe_gets_one_line(text, says, tmp_path):
    with pytest.raises(UsageError, match=says) as error:
        Recipe.load(write(tmp_path / "my.yaml", text))
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_is_told_with_those_there_are():
    with pytest.raises(UsageError, match="digits, imagenet-subset"):
        Recipe.load("digit")


def test_an_unknown_change_is_told(tmp_path):
    with pytest.raises(UsageError, match=r'did you mean "optimizer\.lr"'):
        Recipe.load("digits", {"optimizer.Lr": 1})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8))
def test_whatever_a_yaml_holds_it_is_a_recipe_or_one_line(tmp_path_factory, values):
    path = write(tmp_path_factory.mktemp("recipe") / "my.yaml", yaml.safe_dump(values))
    try:
        assert isinstance(Recipe.load(path), Recipe)
    except UsageError as error:
        assert "\n" not in str(error)
