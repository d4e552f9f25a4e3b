"""The images of a run: the folder that they are in, and how they are prepared."""

from pathlib import Path

from ms_vit.data.preprocessing import Preprocessing
from ms_vit.data.sets.cards import card_of
from ms_vit.errors import UsageError
from ms_vit.models.config import ViTConfig
from ms_vit.progress import say
from ms_vit.recipe import Augment, Recipe
from ms_vit.weights.formats import Pretrained


def data_folder(recipe: Recipe) -> Path:
    data = recipe.data.folder
    if not data.is_dir():
        raise UsageError(f'no folder {recipe.data.root / recipe.data.name}; run "ms-vit download {recipe.data.name}", '
                         "or give the path of your own images by --data.name")
    return data


def preprocessing(augment: Augment, config: ViTConfig, pretrained: Pretrained | None, data: Path) -> Preprocessing:
    """How images are prepared for evaluation: by the recipe, the weights, the data's card, else as for ImageNet.

    The card knows mean and std alone; whose these are is said. Raises UsageError where the network wants other images.
    """
    asked = {"transforms": augment.eval, "crop_pct": augment.crop_pct, "mean": augment.mean, "std": augment.std}
    given = {key: value for key, value in asked.items() if value is not None}
    card = card_of(data)
    known = {"the recipe's": given, "the weights'": pretrained.preprocessing if pretrained else {},
             "the card's": {"mean": list(card.mean), "std": list(card.std)} if card else {}}
    whose = {key: next((name for name, values in known.items() if key in values), "ImageNet's")
             for key in ("mean", "std")}
    say("mean and std are " + (whose["mean"] if whose["mean"] == whose["std"] else
                               f"{whose['mean']} and {whose['std']}"))
    if config.channels not in (1, 3):
        raise UsageError(f'"model.channels" must be 3, or 1 for grey images, to train on image files, not '
                         f"{config.channels}")
    prepared = Preprocessing(image_size=config.image_size, **known["the card's"] | known["the weights'"] | given)
    prepared = prepared.for_channels(config.channels)
    if len(prepared.mean) != config.channels:
        raise UsageError(f'"augment.mean" is {prepared.mean}, and the network sees {config.channels} channels; give as '
                         "many numbers, or another model.channels")
    prepared.check()
    return prepared
