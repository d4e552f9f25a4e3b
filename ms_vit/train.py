"""ms-vit train: train a ViT by a recipe; the same command on an existing run resumes it."""

import importlib.metadata
import math
import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ms_vit
from ms_vit import cli
from ms_vit.errors import UsageError
from ms_vit.progress import say
from ms_vit.recipe import Augment, Recipe

if TYPE_CHECKING:
    from ms_vit.data.transforms import Preprocessing
    from ms_vit.models.formats import Foreign


@dataclass
class Training:
    """What a run came to: its folder, its optimiser steps, its speed, its best validation top-1.

    data_wait: the share of the training time, from 0 to 1, that was spent waiting for data.
    """

    run: Path
    steps: int
    images_per_second: float
    best: float
    data_wait: float


def train(recipe: Recipe, run: str | Path, device: str | None = None) -> Training:
    """Train a Vision Transformer by a recipe. The same command on an existing run resumes it.

    `run` is the folder for checkpoints, metrics and curves; `device` is CPU, GPU or Ascend (default: what MindSpore
    finds). Returns the run's result.

    Raises DataError where the images or the run's checkpoints are bad, UsageError where the recipe doesn't fit them.
    """
    # MindSpore takes seconds to import; whoever only asks for --help needn't wait.
    import mindspore as ms
    from mindspore.train import Model

    from ms_vit.data.labels import labels_for
    from ms_vit.data.memory import memory_share
    from ms_vit.data.pipeline import folder_pipeline, naming_bad_images, numpy_batches
    from ms_vit.device import amp_level, graph_cache, use_device
    from ms_vit.engines import native
    from ms_vit.models.kernels import compiled
    from ms_vit.models.loading import fit, merged_config, read_foreign
    from ms_vit.models.sizes import model_config
    from ms_vit.models.vit import ViT
    from ms_vit.models.weights import ModelSpec
    from ms_vit.predictor import score
    from ms_vit.reports.curves import draw_curves
    from ms_vit.training.callbacks import DataWait, Divergence, Epochs, MetricsFile, Steps
    from ms_vit.training.checkpoint import Checkpoints, RunState
    from ms_vit.training.loss import CrossEntropy
    from ms_vit.training.optimizer import Adam, choose
    from ms_vit.training.schedule import warmup_cosine
    from ms_vit.training.step import TrainStep

    run = Path(run)
    device = use_device(device)
    ms.set_seed(recipe.train.seed)

    # --- what is trained: the recipe's model, from weights where it names some, for the folder's classes
    folder = data_folder(recipe)
    weights = recipe.model.weights
    foreign = read_foreign(weights) if weights else None
    labels = labels_for(folder, recipe.model.num_classes, foreign.labels if foreign else None)
    named = {key: value for key, value in vars(recipe.model).items() if key != "weights"} | {"num_classes": len(labels)}
    config = merged_config(foreign, path=weights, **named) if foreign and weights else model_config(**named)
    spec = ModelSpec(config=config, labels=labels, preprocessing=preprocessing(recipe.augment, config, foreign))

    # --- data: folder -> batches
    batch_size = recipe.train.batch_size
    keep = memory_share() if recipe.train.epochs > 1 else 0
    batches = folder_pipeline(folder / "train", labels, replace(spec.preprocessing, transforms=recipe.augment.train),
                              batch_size=batch_size, training=True, seed=recipe.train.seed,
                              workers=recipe.data.workers, keep=keep)
    validation = folder_pipeline(folder / "val", labels, spec.preprocessing, batch_size=batch_size, training=False,
                                 workers=recipe.data.workers, keep=keep)

    # --- model, optimiser, step
    net = ViT(**config)
    steps_per_epoch = batches.get_dataset_size()
    learning_rates = warmup_cosine(recipe.optimizer.lr, epochs=recipe.train.epochs, steps_per_epoch=steps_per_epoch,
                                   **vars(recipe.schedule))
    learning = choose(net.trainable_params(), recipe.optimizer.tune)
    optimizer = Adam(learning, learning_rates, betas=recipe.optimizer.betas, eps=recipe.optimizer.eps,
                     weight_decay=recipe.optimizer.weight_decay, decoupled=recipe.optimizer.name == "adamw",
                     layer_decay=recipe.optimizer.layer_decay)
    precision = amp_level(recipe.train.amp_level, device)
    step = TrainStep(ms.amp.auto_mixed_precision(net, precision) if precision != "O0" else net,
                     CrossEntropy(recipe.loss.label_smoothing), optimizer, clip_norm=recipe.optimizer.clip_norm,
                     scale_loss=precision != "O0", recompute=recipe.train.recompute, accumulate=recipe.train.accumulate)

    # --- a new run, or the rest of an old one
    checkpoints, metrics = Checkpoints(run), MetricsFile(run / "metrics.jsonl")
    open_run(run, recipe)
    state = RunState()
    if newest := checkpoints.newest():
        state = checkpoints.restore(newest, net, optimizer.state())
        say(f"{run} has {state.epoch} of {recipe.train.epochs} epochs"
            + (f"; going on from {newest}" if state.epoch < recipe.train.epochs else ", all there is to do"))
    elif foreign and weights:
        say(f"{weights}: {fit(net, foreign, weights, config=config, labels=labels)}")
    metrics.rewind(state.step)
    operators = compiled.library() if compiled.wanted() else None
    how = f"{precision}, {'compiled' if operators else 'MindSpore'} kernels"
    describe(recipe, net, spec, batches, validation, f"{device} ({how})")

    # --- train
    def validate():
        net.set_train(False)
        scores = score(native(net, batch_size), numpy_batches(validation), classes=len(labels),
                       total=validation.get_dataset_size())
        net.set_train(True)
        return scores

    def save(state: RunState) -> None:
        checkpoints.save(net, spec, optimizer.state(), state)
        checkpoints.prune(recipe.checkpoint.keep)

    data_wait = DataWait()
    steps = Steps(state, metrics, learning_rates=learning_rates, batch_size=batch_size,
                  log_every=recipe.train.log_every, device=device, data_wait=data_wait)
    epochs = Epochs(steps, epochs=recipe.train.epochs, every=recipe.checkpoint.every_epochs, validate=validate,
                    save=save)
    guard = Divergence(steps, chance=math.log(len(labels)), checkpoints=checkpoints)
    if state.epoch < recipe.train.epochs:
        graph = f"{recipe.as_dict()} {config} {learning_rates.tolist()} {device} {precision} {operators}"
        with graph_cache(graph), naming_bad_images():
            Model(step).train(recipe.train.epochs, batches, callbacks=[steps, guard, epochs, data_wait],
                              dataset_sink_mode=False, initial_epoch=state.epoch)
        draw_curves(run / "metrics.jsonl", run / "curves.png", f"{run.name}: {recipe.model.name} on {recipe.data.name}")
        say(f"training waited for data {100 * data_wait.share():.1f} % of the time")
    say(f"best top-1 on val: {100 * state.best_top1:.2f} %; checkpoints, metrics and curves.png are in {run}")
    return Training(run, state.step, round(steps.images_per_second, 1), state.best_top1, round(data_wait.share(), 4))


def data_folder(recipe: Recipe) -> Path:
    folder = recipe.data.folder
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise UsageError(f'no folder {recipe.data.root / recipe.data.name} with train/ and val/; run '
                         f'"ms-vit download {recipe.data.name}", or give the path of your own by --data.name')
    return folder


def open_run(run: Path, recipe: Recipe) -> None:
    """Makes the run folder, or sees to it that an existing one was made by the same recipe."""
    file = run / "recipe.yaml"
    if file.is_file():
        changed = changes(Recipe.load(file).as_dict(), recipe.as_dict())
        if changed:
            raise UsageError(f"{run} was trained with another recipe ({'; '.join(changed)}); "
                             "give another --run, or remove that folder")
        return
    text = f"# {versions()}\n{recipe.to_yaml()}"
    run.mkdir(parents=True, exist_ok=True)
    part = run / ".recipe.part"
    part.write_text(text)
    part.replace(file)


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys that make it another run, in words; where metrics go and how many threads read images does not."""
    free = {"train.log_every", "checkpoint.every_epochs", "checkpoint.keep", "data.root", "data.workers"}
    return [f"{section}.{key} was {old[section][key]}, is {value}" for section in new
            for key, value in new[section].items() if f"{section}.{key}" not in free and old[section][key] != value]


def versions() -> str:
    """What a run was made with."""
    source = Path(__file__).parents[1]
    git = ["git", "-C", str(source), "describe", "--always", "--dirty"]
    found = subprocess.run(git, capture_output=True, text=True) if (source / ".git").exists() else None
    revision = f" (git {found.stdout.strip()})" if found and found.returncode == 0 else ""
    others = (f"{package} {importlib.metadata.version(package)}" for package in ("mindspore", "numpy"))
    return f"ms-vit {ms_vit.__version__}{revision}, {', '.join(others)}, Python {platform.python_version()}"


def preprocessing(augment: Augment, config: dict[str, Any], foreign: "Foreign | None") -> "Preprocessing":
    """How images are prepared for evaluation: by the recipe, else as the weights want it, else as for ImageNet."""
    from ms_vit.data.transforms import Preprocessing

    asked = {"transforms": augment.eval, "crop_pct": augment.crop_pct, "mean": augment.mean, "std": augment.std}
    given = {key: list(value) if isinstance(value, tuple) else value
             for key, value in asked.items() if value is not None}
    return Preprocessing(image_size=config["image_size"], **((foreign.eval if foreign else {}) | given))


def describe(recipe: Recipe, net: Any, spec: Any, batches: Any, validation: Any, device: str) -> None:
    """Says what is about to happen."""
    parameters = sum(parameter.size for parameter in net.get_parameters())
    say(f"{recipe.model.name}: {parameters:,} parameters, {len(spec.labels)} classes, on {device}")
    say(f"{recipe.data.folder}: {batches.get_dataset_size()} training batches of {recipe.train.batch_size}, "
        f"{validation.get_dataset_size()} for validation")
    for name, transforms in (("train", recipe.augment.train), ("eval", spec.preprocessing.transforms)):
        say(f"  {name}: " + " -> ".join(transforms))
    said = {key: value for key, value in spec.preprocessing.names.items() if key in ("image_size", "resize_size")}
    say(f"  {', '.join(f'{key} {value}' for key, value in said.items())}, mean {spec.preprocessing.mean}, "
        f"std {spec.preprocessing.std}")


def arguments(parser: Any) -> None:
    parser.add_argument("--recipe", type=str, required=True, help="name of a published recipe, or a .yaml file")
    parser.add_argument("--run", type=str, help="run folder (default: runs/RECIPE)")
    parser.add_argument("--device", type=str, help="CPU, GPU or Ascend (default: what MindSpore finds)")
    parser.add_class_arguments(Recipe)


def call(given: dict[str, Any]) -> Training:
    recipe, device = given.pop("recipe"), given.pop("device", None)
    run = given.pop("run", None) or Path("runs") / Path(recipe).stem
    return train(Recipe.load(recipe, flatten(given)), run, device)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def main(argv: list[str] | None = None) -> int:
    # --model NAME and --weights FILE, as the other verbs have them.
    short = {"--model": "--model.name", "--weights": "--model.weights"}
    words = [word.partition("=") for word in (sys.argv[1:] if argv is None else argv)]
    argv = [short.get(name, name) + equals + value for name, equals, value in words]
    return cli.run(train, argv, arguments=arguments, call=call)


if __name__ == "__main__":
    sys.exit(main())
