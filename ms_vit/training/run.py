"""A training run, from a recipe to its result."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.dataset as ds
from mindspore.train import Callback, Model

from ms_vit.caches import graph_cache
from ms_vit.data.inspection import unreadable
from ms_vit.data.labels import labels_for
from ms_vit.data.layout import find_layout
from ms_vit.data.memory import memory_share
from ms_vit.data.pipeline import Batches, naming_bad_images, numpy_batches
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.device import amp_level, cpu_count, use_device
from ms_vit.errors import DataError, UsageError
from ms_vit.inference.engines import on_mindspore
from ms_vit.inference.predictor import score
from ms_vit.inference.scores import Scores
from ms_vit.models.config import model_config
from ms_vit.models.kernels import compiled
from ms_vit.models.vit import ViT
from ms_vit.progress import say
from ms_vit.recipe import Augment, Recipe
from ms_vit.reports.curves import draw_curves
from ms_vit.runs.checkpoints import AVERAGE, MODEL, OPTIMIZER, Checkpoints, RunState, read_state
from ms_vit.runs.folder import changes, locked, versions, write_recipe
from ms_vit.signals import Stop
from ms_vit.training.callbacks import DataWait, Divergence, MetricsFile, Saving, Steps
from ms_vit.training.ema import Average
from ms_vit.training.loop import Loop
from ms_vit.training.losses import CrossEntropy
from ms_vit.training.mixing import Mixup
from ms_vit.training.optimizers import Adam, trainable
from ms_vit.training.outcome import Training
from ms_vit.training.schedules import warmup_cosine
from ms_vit.training.step import TrainStep
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.formats import Pretrained
from ms_vit.weights.loading import fit, merged_config, read_pretrained


def carry_out(recipe: Recipe, run: Path, device: str | None, stop: Stop) -> Training:
    """Trains by a recipe in a run folder, or goes on there; see ms_vit.train."""
    device = use_device(device)
    folder = data_folder(recipe)
    with locked(run):
        return carry_out_in(run, recipe, folder, device, stop)


def carry_out_in(run: Path, recipe: Recipe, folder: Path, device: str, stop: Stop) -> Training:
    """The same in a run folder that is locked, with the images of a data folder, on a device that is chosen."""
    changed = changes(run, recipe)
    ms.set_seed(recipe.train.seed)

    layout = find_layout(folder, recipe.data.holdout)
    for line in layout.said:
        say(line)

    # --- what is trained: the recipe's model, from weights where it names some, for the folder's classes
    weights = recipe.model.weights
    pretrained = read_pretrained(weights) if weights else None
    labels = labels_for(folder, recipe.model.num_classes, pretrained.labels if pretrained else None)
    named = {key: value for key, value in vars(recipe.model).items() if key != "weights"} | {"num_classes": len(labels)}
    config = merged_config(pretrained, path=weights, **named) if pretrained and weights else model_config(**named)
    spec = ModelSpec(config=config, labels=labels, preprocessing=preprocessing(recipe.augment, config, pretrained))

    # --- a new run, or the rest of an old one
    checkpoints, metrics = Checkpoints(run), MetricsFile(run / "metrics.jsonl")
    checkpoints.tidy()
    newest = checkpoints.newest()
    state = read_state(newest) if newest else RunState()

    # --- data: folder -> batches
    batch_size = recipe.train.batch_size
    how: dict[str, Any] = {"batch_size": batch_size, "workers": workers(recipe, state),
                           "keep": memory_share() if recipe.train.epochs > 1 else 0,
                           "leave_out": (unreadable(folder, run, layout.files())
                                         if recipe.data.bad_images == "skip" else ())}
    batches = Batches(layout.train, labels, replace(spec.preprocessing, transforms=recipe.augment.train),
                      training=True, seed=recipe.train.seed, **how)
    validation = Batches(layout.val, labels, spec.preprocessing, training=False, **how)
    if state.images not in ("", batches.fingerprint):
        raise DataError(f"{layout.train.folder} has other images than when {run} was begun; bring those back, or give "
                        "another --run")
    state.workers, state.images = batches.workers, batches.fingerprint

    # --- model, optimiser, step
    net, averaged = ViT(**config), ViT(**config) if recipe.train.ema else None
    learning_rates = warmup_cosine(recipe.optimizer.lr, epochs=recipe.train.epochs, steps_per_epoch=batches.steps,
                                   **vars(recipe.schedule))
    learning = trainable(net.trainable_params(), recipe.optimizer.tune)
    optimizer = Adam(learning, learning_rates, betas=recipe.optimizer.betas, eps=recipe.optimizer.eps,
                     weight_decay=recipe.optimizer.weight_decay, decoupled=recipe.optimizer.name == "adamw",
                     layer_decay=recipe.optimizer.layer_decay)
    precision = amp_level(recipe.train.amp_level, device)
    mixup = Mixup(recipe.augment.mixup, len(learning_rates), len(labels), recipe.train.seed) \
        if recipe.augment.mixup else None
    if precision != "O0":
        ms.amp.auto_mixed_precision(net, precision)     # in place; what it returns only casts logits, as the loss does
    step = TrainStep(net, CrossEntropy(recipe.loss.label_smoothing), optimizer, clip_norm=recipe.optimizer.clip_norm,
                     scale_loss=precision != "O0", recompute=recipe.train.recompute, accumulate=recipe.train.accumulate,
                     mixup=mixup, average=Average(net, averaged, recipe.train.ema) if averaged else None,
                     seed=recipe.train.seed)
    parts = {MODEL: net.parameters_dict(), OPTIMIZER: step.state()}
    if averaged:
        parts[AVERAGE] = dict(zip(parts[MODEL], averaged.get_parameters(), strict=True))

    if changed:
        say(f"{run} goes on with {'; '.join(changed)}")
    if changed or not (run / "recipe.yaml").is_file():
        write_recipe(run, recipe)
    if newest:
        checkpoints.restore(newest, parts)
        say(f"{run} has {state.epoch} of {recipe.train.epochs} epochs"
            + (f"; going on from {newest}" if state.epoch < recipe.train.epochs else ", all there is to do"))
    else:
        if pretrained and weights:
            say(f"{weights}: {fit(net, pretrained, weights, config=config, labels=labels)}")
        for name, parameter in parts.get(AVERAGE, {}).items():
            parameter.set_data(ms.Tensor(parts[MODEL][name].asnumpy()))    # a copy: set_data alone shares the memory
    metrics.rewind(state)
    operators = compiled.library() if compiled.wanted() else None
    describe(recipe, net, spec, batches, validation,
             f"{device} ({precision}, {'compiled' if operators else 'MindSpore'} kernels)")

    # --- train
    model = Model(step)
    graph = f"{recipe.as_dict()} {config} {learning_rates.tolist()} {device} {precision} {operators}"
    caches, cached = contextlib.ExitStack(), set()

    def first_use(what: str) -> None:
        """Each graph has a cache of its own: MindSpore tells them by their order, and a resumed run's is another."""
        if what not in cached:
            cached.add(what)
            caches.enter_context(graph_cache(f"{what} {graph}"))

    def train(pipeline: ds.Dataset, callbacks: list[Callback]) -> None:
        first_use("step")
        model.train(1, pipeline, callbacks=callbacks, dataset_sink_mode=False)

    def validate() -> Scores:
        scored = averaged or net
        scored.set_train(False)
        first_use("validation")
        scores = score(on_mindspore(scored, batch_size), until(stop, numpy_batches(validation.epoch())),
                       classes=len(labels), total=validation.steps)
        net.set_train(True)
        return scores

    def save() -> None:
        checkpoints.save(parts, spec, steps.state, {"recipe": recipe.as_dict(), "versions": versions()})

    def restore(checkpoint: Path, lr_scale: float) -> None:
        steps.go_back(read_state(checkpoint))
        metrics.rewind(steps.state)
        checkpoints.restore(checkpoint, parts)
        optimizer.lr_scale.set_data(ms.Tensor([lr_scale], ms.float32))

    data_wait = DataWait()
    steps = Steps(state, metrics, learning_rates=learning_rates, batch_size=batch_size,
                  log_every=recipe.train.log_every, device=device, data_wait=data_wait)
    saving = Saving(steps, checkpoints, stop, write=save, minutes=recipe.checkpoint.every_minutes,
                    keep=recipe.checkpoint.keep)
    loop = Loop(batches, recipe, steps=steps, guard=Divergence(steps, chance=math.log(len(labels))), saving=saving,
                data_wait=data_wait, stop=stop, train=train, validate=validate, restore=restore)
    if state.epoch < recipe.train.epochs:
        with caches, naming_bad_images(), contextlib.closing(steps):
            loop()
        if saving.failed:
            raise DataError(f"the last checkpoint of {run} couldn't be written: {saving.failed}. Mend that, and the "
                            f"same command goes on from {checkpoints.newest()}")
        say(f"training waited for data {100 * data_wait.share():.1f} % of the time, and saving took "
            f"{100 * saving.seconds / loop.seconds:.1f} %")
    if loop.seconds or not (run / "curves.png").is_file():      # a killed run may have come to its end, but not here
        draw_curves(run / "metrics.jsonl", run / "curves.png", f"{run.name}: {recipe.model.name} on {recipe.data.name}")
    best = steps.state.best_top1
    say(f"best top-1 on val: {100 * best:.2f} %; checkpoints, metrics and curves.png are in {run}")
    return Training(run, steps.state.step, round(steps.images_per_second, 1), best, round(data_wait.share(), 4))


def workers(recipe: Recipe, state: RunState) -> int:
    """Threads that read images: the recipe's, else as many as the run had before, as its random draws follow them."""
    before = state.workers or recipe.data.workers or cpu_count()
    now = recipe.data.workers or min(before, cpu_count())
    if now != before:
        say(f"images were read by {before} threads before, now by {now}: augmentation draws other numbers than in an "
            "unbroken run")
    return now


def until(stop: Stop, batches: Iterator[Any]) -> Iterator[Any]:
    """The same, but Interrupted is raised where the run is asked to stop."""
    for batch in batches:
        stop.check()
        yield batch


def data_folder(recipe: Recipe) -> Path:
    folder = recipe.data.folder
    if not folder.is_dir():
        raise UsageError(f'no folder {recipe.data.root / recipe.data.name} with train/ and val/; run '
                         f'"ms-vit download {recipe.data.name}", or give the path of your own by --data.name')
    return folder


def preprocessing(augment: Augment, config: dict[str, Any], pretrained: Pretrained | None) -> Preprocessing:
    """How images are prepared for evaluation: by the recipe, else as the weights want it, else as for ImageNet."""
    asked = {"transforms": augment.eval, "crop_pct": augment.crop_pct, "mean": augment.mean, "std": augment.std}
    given = {key: list(value) if isinstance(value, tuple) else value
             for key, value in asked.items() if value is not None}
    return Preprocessing(image_size=config["image_size"], **((pretrained.preprocessing if pretrained else {}) | given))


def describe(recipe: Recipe, net: ViT, spec: ModelSpec, batches: Batches, validation: Batches, device: str) -> None:
    """Says what is about to happen."""
    parameters = sum(parameter.size for parameter in net.get_parameters())
    say(f"{recipe.model.name}: {parameters:,} parameters, {len(spec.labels)} classes, on {device}")
    say(f"{recipe.data.folder}: {batches.steps} training batches of {recipe.train.batch_size}, "
        f"{validation.steps} for validation")
    for name, transforms in (("train", recipe.augment.train), ("eval", spec.preprocessing.transforms)):
        say(f"  {name}: " + " -> ".join(transforms))
    said = {key: value for key, value in spec.preprocessing.names.items() if key in ("image_size", "resize_size")}
    say(f"  {', '.join(f'{key} {value}' for key, value in said.items())}, mean {spec.preprocessing.mean}, "
        f"std {spec.preprocessing.std}")


