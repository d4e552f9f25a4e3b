"""ms-vit train: train a ViT by a recipe; the same command on an existing run resumes it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_vit import cli, signals
from ms_vit.progress import hush
from ms_vit.recipe import DEFAULT, Recipe
from ms_vit.training.outcome import Training


def train(recipe: Recipe, run: str | Path, device: str | None = None, *, tensorboard: bool = False) -> Training:
    """Train a Vision Transformer by a recipe. The same command on an existing run resumes it.

    `run` is the folder for checkpoints, metrics and curves; `device` is CPU, GPU or Ascend, or a card of several, as in
    Ascend:3 (default: what MindSpore finds); `tensorboard` has events for TensorBoard written to RUN/events, too.
    Returns the run's result. Ctrl-C ends it by a KeyboardInterrupt, once the step is done and saved.

    Raises DataError where the images or the run's checkpoints are bad, or the run diverges, and UsageError where the
    recipe doesn't fit them, another process trains in the same folder, or the library that writes events is missing.
    """
    with signals.caught() as stop:
        # MindSpore's threads begin when it is imported, and inherit that; and whoever asks for --help needn't wait.
        from ms_vit.device import use_device
        from ms_vit.distributed import join
        from ms_vit.training.trainer import Trainer

        used = use_device(device, deterministic=recipe.train.deterministic)
        return Trainer(recipe, Path(run), device=used, stop=stop, world=join(), tensorboard=tensorboard)()


def arguments(parser: Any) -> None:
    parser.add_argument("--recipe", type=str, help="name of a published recipe, or a .yaml file (default: what suits "
                                                   "the images and the weights)")
    parser.add_argument("--run", type=str, help="run folder (default: runs/RECIPE, or without one runs/DATA)")
    parser.add_argument("--device", type=str, help="CPU, GPU or Ascend, one card of several as in Ascend:3 (default: "
                                                   "what MindSpore finds)")
    parser.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard to RUN/events, too")
    parser.add_argument("--quiet", action="store_true", help="tell nothing but what goes wrong")
    parser.add_class_arguments(Recipe)


def call(given: dict[str, Any]) -> Training:
    name, run, device = given.pop("recipe", DEFAULT), given.pop("run", None), given.pop("device", None)
    tensorboard = given.pop("tensorboard", False)
    with hush(given.pop("quiet", False)):
        recipe = Recipe.load(name, flatten(given))
        title = recipe.data.folder.name if name == DEFAULT else Path(name).stem
        return train(recipe, run or Path("runs") / title, device, tensorboard=tensorboard)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def whole(words: Sequence[str]) -> list[str]:
    """The command line with a recipe's keys for --model NAME and --weights FILE, as the other verbs have them."""
    short = {"--model": "--model.name", "--weights": "--model.weights"}
    parts = [word.partition("=") for word in words]
    return [short.get(name, name) + equals + value for name, equals, value in parts]


def main(argv: list[str] | None = None) -> int:
    return cli.run(train, whole(sys.argv[1:] if argv is None else argv), arguments=arguments, call=call)


if __name__ == "__main__":
    sys.exit(main())
