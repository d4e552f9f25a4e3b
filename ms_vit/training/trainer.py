"""A training run, from a recipe to its result: Trainer's methods stand in the order in which things happen."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import mindspore as ms
from mindspore.train import Callback, Model

from ms_vit.caches import graph_cache
from ms_vit.data.inspection import unreadable
from ms_vit.data.labels import labels_for
from ms_vit.data.layout import find_layout
from ms_vit.data.memory import memory_share
from ms_vit.data.pipeline import Batches, naming_bad_images, numpy_batches
from ms_vit.device import cpu_count, sink_size
from ms_vit.distributed import World
from ms_vit.errors import DataError
from ms_vit.inference.engines import on_mindspore
from ms_vit.inference.predictor import score
from ms_vit.inference.scores import Scores
from ms_vit.models.kernels import compiled, precision
from ms_vit.models.start import start_as_keras
from ms_vit.models.vit import ViT
from ms_vit.progress import say, warn
from ms_vit.recipe import Recipe
from ms_vit.reports.showing import REPORT, show_run
from ms_vit.runs import folder
from ms_vit.runs.answers import ANSWERS
from ms_vit.runs.checkpoints import AVERAGE, MODEL, OPTIMIZER, Checkpoints, TrainState, read_state
from ms_vit.runs.events import Events
from ms_vit.runs.metrics import MetricsFile
from ms_vit.signals import Interrupted, Stop
from ms_vit.training.callbacks import DataWait, Throughput
from ms_vit.training.distillation import taught
from ms_vit.training.divergence import Diverged, Divergence
from ms_vit.training.ema import Average
from ms_vit.training.images import data_folder, preprocessing
from ms_vit.training.losses import losses
from ms_vit.training.mixing import mixing
from ms_vit.training.optimizers import optimizers, trainable
from ms_vit.training.outcome import Training
from ms_vit.training.schedules import schedules
from ms_vit.training.step import Evened, TrainStep
from ms_vit.weights.files import ModelSpec, read_spec
from ms_vit.weights.loading import fit, merged_config, read_pretrained

ROLLBACKS = 3
MOST_RECENT = 100       # steps that the device keeps for the host to look at, however seldom it logs
T = TypeVar("T")


class Trainer(Callback):
    """A run. Model.train takes the steps, and calls this after each; what the run is, and how far, is kept here.

    recipe, run, device, stop: what to train, the folder for it, the device that is in use, and whether to stop.
    state: how far it is, as its checkpoints hold it. World says what there is to share with other processes.
    tensorboard: whether to write events for TensorBoard, too.
    """

    def __init__(self, recipe: Recipe, run: Path, *, device: str, stop: Stop, world: World | None = None,
                 tensorboard: bool = False):
        super().__init__()
        self.recipe = recipe
        self.run = run
        self.device = device
        self.stop = stop
        self.world = world or World()
        self.checkpoints = Checkpoints(run)
        self.events = Events(run / "events") if tensorboard else None
        self.metrics = MetricsFile(run / "metrics.jsonl", self.events)
        self.state = TrainState()

    def __call__(self) -> Training:
        """Trains, or goes on with what is there of the run; see ms_vit.train for what it raises."""
        data = data_folder(self.recipe)
        with folder.locked(self.run, self.world), contextlib.ExitStack() as settings:
            self.open(data)
            settings.enter_context(precision.computing_in(self.state.precision))
            self.prepare_model(data)
            self.prepare_data(data)
            self.prepare_step()
            self.begin()
            self.describe()
            if self.state.epoch < self.recipe.train.epochs or self.unscored:
                with naming_bad_images(), contextlib.closing(self.throughput), contextlib.closing(self.metrics):
                    self.train()
                    self.score_best()
            return self.finish()

    # --- what there is: the run so far, the network, the images, the step

    def open(self, data: Path) -> None:
        """Finds what there is of this run and of the images. Raises UsageError where the run is another's."""
        self.changed = folder.changes(self.run, self.recipe)
        self.layout = find_layout(data, self.recipe.data.holdout)
        for line in self.layout.said:
            say(line)
        ms.set_seed(self.recipe.train.seed)
        if self.world.writes:
            self.checkpoints.tidy()
        self.world.wait()
        self.newest = self.checkpoints.newest()
        if self.newest:
            self.state = read_state(self.newest)
        self.state.precision = self.precision()

    def precision(self) -> str:
        """The recipe's; "auto" is the machine's best for a new run, and for one that goes on what it had before."""
        if self.recipe.train.precision != "auto":
            return self.recipe.train.precision
        if not self.newest:
            return precision.best_precision()
        # Runs that don't tell are older than bfloat16 on CPUs.
        before = self.state.precision or ("float16" if self.device == "Ascend" else "float32")
        if before == "bfloat16" and (missing := precision.what_is_missing(before)):
            warn(f"{self.run} was trained in bfloat16 before, now in float32, so its numbers are others than in an "
                 f"unbroken run: {missing}")
            return "float32"
        return before

    def prepare_model(self, data: Path) -> None:
        """The spec: the newest checkpoint's, which knows all, else by the recipe, its weights, and the classes."""
        self.pretrained, weights = None, self.recipe.model.weights
        if self.newest:
            self.spec = read_spec(self.newest / MODEL)
            return
        if weights:
            self.pretrained = read_pretrained(weights)
        labels = labels_for(data, self.recipe.model.num_classes, self.pretrained.labels if self.pretrained else None)
        named = self.recipe.model
        config = merged_config(self.pretrained, weights, named.name, **named.changes | {"num_classes": len(labels)}) \
            if self.pretrained else named.configure(num_classes=len(labels))
        self.spec = ModelSpec(config=config, labels=labels, preprocessing=preprocessing(
            self.recipe.augment, config, self.pretrained, data))

    def prepare_data(self, data: Path) -> None:
        """Folder -> batches."""
        train, prepared = self.recipe.train, self.spec.preprocessing
        how: dict[str, Any] = {
            "batch_size": train.batch_size, "workers": workers(self.recipe, self.state),
            "keep": memory_share() // self.world.neighbours() if train.epochs > 1 else 0,
            "leave_out": (unreadable(data, self.run, self.layout.files(), self.world)
                          if self.recipe.data.bad_images == "skip" else ()),
            "world": self.world}
        augmented = replace(prepared, transforms=self.recipe.augment.train).for_channels(self.spec.config.channels)
        self.batches = Batches(self.layout.train, self.spec.labels, augmented, training=True, seed=train.seed,
                               repeats=self.recipe.augment.repeats, alternate_flip=self.recipe.augment.alternate_flip,
                               **how)
        self.validation = Batches(self.layout.val, self.spec.labels, prepared, training=False, **how)
        self.final = Batches(self.layout.final, self.spec.labels, prepared, training=False, **how | {"keep": 0}) \
            if self.layout.final else None
        if self.state.images not in ("", self.batches.fingerprint):
            raise DataError(f"{self.layout.train.folder} has other images than when {self.run} was begun; bring those "
                            "back, or give another --run")
        self.state.workers, self.state.images = self.batches.workers, self.batches.fingerprint

    def prepare_step(self) -> None:
        """The network, its optimiser, and the step that Model.train takes; each by its section of the recipe."""
        recipe, config, train = self.recipe, self.spec.config, self.recipe.train
        self.net = ViT(config)
        if recipe.model.weight_init == "keras":
            start_as_keras(self.net)
        self.averaged = ViT(config) if train.ema else None
        self.learning_rates = schedules[recipe.schedule.name](
            recipe.optimizer.lr, train.epochs, self.batches.steps, recipe.schedule)
        learning = trainable(self.net.trainable_params(), recipe.optimizer.tune)
        self.optimizer = optimizers[recipe.optimizer.name](learning, self.learning_rates, recipe.optimizer)
        loss = losses[recipe.loss.name](recipe.loss)
        self.guard = Divergence(chance=getattr(loss, "chance", math.log)(config.num_classes))
        learner, loss, teacher = taught(self.net, loss, recipe, self.spec)
        self.step = TrainStep(
            learner, loss, self.optimizer, clip_norm=recipe.optimizer.clip_norm,
            scale_loss=self.state.precision == "float16", recompute=train.recompute, accumulate=train.accumulate,
            mixing=mixing(recipe.augment, steps=len(self.learning_rates), classes=config.num_classes,
                          size=config.height_and_width, seed=train.seed),
            teacher=teacher, average=Average(self.net, self.averaged, train.ema) if self.averaged else None,
            seed=train.seed, part=self.world.rank * train.accumulate,
            reducer=self.world.reducer(self.optimizer.params), evened=self.evened(),
            recent=min(train.log_every, MOST_RECENT))
        self.model = Model(self.step)
        self.operators = compiled.library() if compiled.wanted() else None
        # All that decides what is compiled.
        graph = (f"{recipe.as_dict()} {config} {self.learning_rates.tolist()} {self.world} "
                 f"{teacher and teacher.net.config} {precision.compiled_with(self.state.precision)}")
        # The cache knows our sources, and none of other packages' parts.
        builders = optimizers[recipe.optimizer.name], losses[recipe.loss.name]
        ours = all(part.__module__.startswith("ms_vit.") for part in builders)
        self.step_graph: contextlib.AbstractContextManager[None] = \
            graph_cache(f"step {graph}") if ours else contextlib.nullcontext()
        self.logits = on_mindspore(self.averaged or self.net, self.validation.own_batch_size, graph=graph)
        self.state_dicts = {MODEL: self.net.parameters_dict(), OPTIMIZER: self.step.state()}
        if self.averaged:
            self.state_dicts[AVERAGE] = dict(zip(self.state_dicts[MODEL], self.averaged.get_parameters(), strict=True))

    def evened(self) -> Evened | None:
        """What keeps running statistics alike in all processes, where there are such."""
        running = [parameter for parameter in self.net.get_parameters() if "running_" in parameter.name]
        reducer = self.world.reducer(running) if running else None
        return Evened(running, reducer) if reducer is not None else None

    def begin(self) -> None:
        """Where the run goes on from: its newest checkpoint, or the weights that it starts from."""
        if self.changed:
            say(f"{self.run} goes on with {'; '.join(self.changed)}")
        if self.world.writes and (self.changed or not (self.run / "recipe.yaml").is_file()):
            folder.write_recipe(self.run, self.recipe)
        epochs = self.recipe.train.epochs
        if self.newest:
            self.checkpoints.restore(self.newest, self.state_dicts)
            say(f"{self.run} has {self.state.epoch} of {epochs} epochs"
                + (f"; going on from {self.newest}" if self.state.epoch < epochs else ", all there is to do"))
        else:
            if self.pretrained:
                weights = self.recipe.model.weights
                say(f"{weights}: {fit(self.net, self.pretrained, weights, labels=self.spec.labels)}")
            for name, parameter in self.state_dicts.get(AVERAGE, {}).items():
                # A copy: set_data alone shares the memory.
                parameter.set_data(ms.Tensor(self.state_dicts[MODEL][name].asnumpy()))
        self.pretrained = None      # its arrays are as large as the network
        if self.world.writes and self.state.epoch < epochs:
            self.metrics.rewind(self.state)

        self.data_wait = DataWait()
        self.throughput = Throughput(self.state.step, steps=self.batches.steps, epochs=epochs,
                                     validation=self.validation.steps, batch_size=self.recipe.train.batch_size,
                                     device=self.device)
        self.unseen = 0             # steps that were taken and not looked at
        self.seconds = self.saving_seconds = 0.0
        self.saved, self.save_failed = time.perf_counter(), ""
        self.logged = self.epoch_began = self.data_wait.seconds     # marks

    @property
    def parameters(self) -> int:
        return sum(parameter.size for parameter in self.net.get_parameters())

    def describe(self) -> None:
        """Says what is about to happen."""
        prepared, title = self.spec.preprocessing, self.recipe.model.title
        say(f"{title}: {self.parameters:,} parameters, {len(self.spec.labels)} classes, on {self.device} "
            f"({self.state.precision}, {'compiled' if self.operators else 'MindSpore'} kernels)")
        say(f"{self.recipe.data.folder}: {self.batches.steps} training batches of {self.recipe.train.batch_size}, "
            f"{self.validation.steps} for validation")
        if self.world.size > 1:
            say(f"{self.world.size} processes, {self.world.neighbours()} of them on this machine: number "
                f"{self.world.rank} has {self.batches.own_batch_size} images of each batch and augments by seed "
                f"{self.world.seed(self.recipe.train.seed)}; learning rates are the recipe's, for whole batches")
        for name, transforms in (("train", self.batches.whole.transforms), ("eval", prepared.transforms)):
            say(f"  {name}: " + " -> ".join(transforms))
        said = {key: value for key, value in prepared.names.items() if key in ("image_size", "resize_size")}
        say(f"  {', '.join(f'{key} {value}' for key, value in said.items())}, mean {prepared.mean}, std {prepared.std}")

    # --- training

    def train(self) -> None:
        """Epoch after epoch, from wherever the run is.

        Raises DataError where it diverges, Interrupted, once it is saved, where it is asked to stop.
        """
        began = self.counted = time.perf_counter()
        if self.recipe.train.on_divergence == "rollback" and self.state.step == 0:
            self.save()                 # there must be something to go back to
        if self.events and self.world.writes and self.state.epoch < self.recipe.train.epochs:
            pictures = [picture for picture, _ in self.batches.pictures(self.state.epoch)]
            self.events.begin(self.state, self.recipe.to_yaml(), pictures)
        self.stop.patient = True
        while self.state.epoch < self.recipe.train.epochs:
            try:
                self.train_epoch()
                self.end_epoch(self.validate())
            except Diverged as why:
                self.roll_back(why)
            except Interrupted:
                self.save()
                say(f"stopped after step {self.state.step}" + ("" if self.save_failed else ", which is saved"))
                raise
        self.stop.patient = False
        self.seconds = time.perf_counter() - began

    def count_seconds(self) -> None:
        """Adds what has passed since the last call to the state."""
        now = time.perf_counter()
        self.state.seconds += now - self.counted
        self.counted = now

    @property
    def done(self) -> int:
        """Steps of the epoch under way."""
        return self.state.step - self.state.epoch * self.batches.steps

    def train_epoch(self) -> None:
        """What is left of the epoch under way."""
        left = self.batches.steps - self.done
        if not left:
            return
        self.epoch_began = self.data_wait.seconds
        # In this order: a step is counted, judged and saved, and the time of all of that counts as its own.
        callbacks = [self.throughput, self, self.data_wait]
        pipeline = self.batches.epoch(self.state.epoch, skip=self.done)
        sink = sink_size(self.device, left, self.step.recent.steps)
        with contextlib.ExitStack() as self.compiling:
            self.compiling.enter_context(self.step_graph)
            self.step_graph = contextlib.nullcontext()      # the next epoch's is the same
            if sink:
                self.model.train(left // sink, pipeline, callbacks, dataset_sink_mode=True, sink_size=sink)
            else:
                self.model.train(1, pipeline, callbacks, dataset_sink_mode=False)

    def on_train_begin(self, run_context: Any) -> None:
        self.before = 0                 # steps of this call of Model.train that were counted

    def on_train_step_end(self, run_context: Any) -> None:
        """After a step, or after the several that a device takes on its own."""
        self.compiling.close()          # so that the graph is kept, though the run be stopped
        number = run_context.original_args().cur_step_num
        self.throughput.taken(number - self.before)
        self.unseen += number - self.before
        self.before = number
        step = self.state.step + self.unseen
        if self.unseen >= self.step.recent.steps or step % self.recipe.train.log_every == 0 or \
                step % self.batches.steps == 0:
            self.look()
        elif self.world.size > 1:       # processes agree where all of them look
            return
        if number := self.world.most(self.stop.number):
            self.look()                 # a divergence goes first
            raise Interrupted(number)
        minutes = (time.perf_counter() - self.saved) / 60
        if self.world.most(int(minutes >= self.recipe.checkpoint.every_minutes)):
            self.save()

    def look(self) -> None:
        """Reads from the device what the steps since the last look came to, and judges each. Raises Diverged."""
        if not self.unseen:
            return
        rows = self.step.recent.rows.asnumpy()[-self.unseen:].astype("float64")
        self.unseen = 0
        for loss, norm, top1 in (self.world.sum(rows) / self.world.size).tolist():
            self.state.step += 1
            if self.step.scaler is not None and math.isinf(norm):
                self.state.overflows, norm = self.state.overflows + 1, None
            self.state.loss_sum += loss
            if not math.isnan(top1):        # else images are mixed
                self.state.top1_sum, self.state.top1_steps = self.state.top1_sum + top1, self.state.top1_steps + 1
            if self.state.step % self.recipe.train.log_every == 0:
                self.log(loss, norm)
            self.guard.judge(self.state, loss, norm)

    def log(self, loss: float, norm: float | None) -> None:
        """A line on the step just counted; `norm` is None where it was left out."""
        lr = float(self.learning_rates[max(self.state.step - 1 - self.state.overflows, 0)]) / 2**self.state.rollbacks
        waited, self.logged = self.data_wait.share(self.logged), self.data_wait.seconds
        self.throughput.log(loss, lr, waited)
        if self.world.writes:
            self.metrics.write(
                step=self.state.step, epoch=self.state.epoch + 1, loss=loss, grad_norm=norm, lr=lr,
                **{"overflows": self.state.overflows} if self.step.scaler is not None else {},
                images_per_second=round(self.throughput.recently, 1), data_wait=round(waited, 4))

    def validate(self) -> Scores:
        """Scores on every image of the split that the best epoch is chosen by."""
        return self.score(self.validation)

    def score(self, batches: Batches) -> Scores:
        """Scores the network, or its average, as it is."""
        scored = self.averaged or self.net
        scored.set_train(False)
        images = until(self.stop, numpy_batches(batches.epoch()))
        scores = score(self.logits, images, classes=self.spec.config.num_classes, total=batches.steps).over(self.world)
        self.net.set_train(True)
        return scores

    def end_epoch(self, scores: Scores) -> None:
        """Counts an epoch with the scores after it, tells of it, and saves it where it is time to."""
        state, epochs = self.state, self.recipe.train.epochs
        train_loss = state.loss_sum / self.batches.steps
        train_top1 = state.top1_sum / state.top1_steps if state.top1_steps else None
        state.epoch, state.loss_sum, state.top1_sum, state.top1_steps = state.epoch + 1, 0.0, 0.0, 0
        best = scores.top1 > state.best_top1
        if best:
            state.best_top1, state.best_step = scores.top1, state.step
        self.count_seconds()
        if self.world.writes:
            self.metrics.write(
                step=state.step, epoch=state.epoch, train_loss=train_loss,
                **{"train_top1": train_top1} if train_top1 is not None else {},
                val_loss=scores.loss, val_top1=scores.top1, val_top5=scores.top5,
                images_per_second=round(self.throughput.images_per_second, 1),
                data_wait=round(self.data_wait.share(self.epoch_began), 4),
                validation_seconds=round(scores.seconds, 2), seconds=round(state.seconds, 1))
        say(f"epoch {state.epoch:{len(str(epochs))}} of {epochs}: train loss {train_loss:.3f}, "
            + (f"top-1 {100 * train_top1:.2f} %, " if train_top1 is not None else "") +
            f"val loss {scores.loss:.3f}, top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} %"
            + (f", {state.overflows} steps left out so far (overflow)" if state.overflows else "")
            + (" (best)" if best else ""))
        if best or state.epoch % self.recipe.checkpoint.every_epochs == 0 or state.epoch == epochs:
            self.save()
        if best and not self.final:
            self.tell(scores, self.validation)

    def tell(self, scores: Scores, batches: Batches) -> None:
        """Writes what the best epoch's network said of each image. Where it can't be written, training goes on."""
        best = self.checkpoints.pointed("BEST")
        if not (self.world.writes and best):
            return
        answers = scores.answers(batches.split, batches.taken_names, best / (AVERAGE if self.averaged else MODEL))
        try:
            answers.write(self.run / ANSWERS, self.spec.labels)
        except OSError as error:
            warn(f"can't write {self.run / ANSWERS} ({(error.strerror or str(error)).lower()}); training goes on")

    def save(self) -> None:
        """Writes the run as it is, every step that was taken included. Where that fails, training goes on."""
        began, self.save_failed = time.perf_counter(), ""
        self.look()
        self.count_seconds()
        if self.world.writes:
            self.metrics.flush()
            about = {"recipe": self.recipe.as_dict(), "versions": folder.versions()}
            try:
                self.checkpoints.save(self.state_dicts, self.spec, self.state, about)
            except OSError as error:
                self.save_failed = (error.strerror or str(error)).lower()
                warn(f"can't save step {self.state.step} in {self.checkpoints.folder} ({self.save_failed}); "
                     "training goes on")
            else:
                self.checkpoints.prune(self.recipe.checkpoint.keep)
        self.world.wait()       # whoever ended before it is written might take the one that writes along
        self.saved = time.perf_counter()
        self.saving_seconds += self.saved - began

    def roll_back(self, why: Diverged) -> None:
        """Goes on from the last good checkpoint with half the learning rate, or raises DataError."""
        state, told, self.unseen = self.state, self.run / "diverged.json", 0
        files = [str(file) for file in self.batches.files_of(state.epoch, self.done - 1)]
        if self.world.writes:
            told.write_text(json.dumps({"step": state.step, "reason": str(why), "files": files}, indent=1))
        happened = f"the run diverged at step {state.step}: {why}; its batch is listed in {told}"
        good = self.checkpoints.newest()
        if self.recipe.train.on_divergence == "stop" or good is None or state.rollbacks == ROLLBACKS:
            tried = f" The learning rate was halved {state.rollbacks} times." if state.rollbacks else ""
            raise DataError(f"{happened}, and the last good checkpoint is {good or 'none yet'}.{tried} Lower "
                            "optimizer.lr or lengthen schedule.warmup_epochs, and give another --run")
        rollbacks = state.rollbacks + 1
        warn(f"{happened}; going on from {good} with the learning rate halved, for the {rollbacks}. time of "
             f"{ROLLBACKS}")
        self.state = replace(read_state(good), rollbacks=rollbacks, seconds=state.seconds)
        self.throughput.go_back(self.state.step)
        if self.world.writes:
            self.metrics.rewind(self.state)
        self.checkpoints.restore(good, self.state_dicts)
        self.optimizer.lr_scale.set_data(ms.Tensor([0.5**rollbacks], ms.float32))

    # --- the end

    @property
    def unscored(self) -> bool:
        """Whether there are images that had no part in choosing the best epoch, and were not looked at yet."""
        return self.final is not None and not self.metrics.has("final_top1")

    def score_best(self) -> None:
        """Scores the best epoch on them: once, at the end."""
        best = self.checkpoints.pointed("BEST")
        if self.final is None or best is None:
            return
        self.checkpoints.restore(best, {name: self.state_dicts[name] for name in (MODEL, AVERAGE)
                                        if name in self.state_dicts})
        scores = self.score(self.final)
        if self.world.writes:
            self.metrics.write(step=self.state.best_step, final=str(self.layout.final), final_loss=scores.loss,
                               final_top1=scores.top1, final_top5=scores.top5)
        self.tell(scores, self.final)
        say(f"{self.layout.final}, looked at once: top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} % of "
            f"{scores.images:,} images, by the best epoch on {self.layout.val}")

    def finish(self) -> Training:
        """Shows the run, and says what the run came to. Raises DataError where its last checkpoint is missing."""
        if self.save_failed:
            raise DataError(f"the last checkpoint of {self.run} couldn't be written: {self.save_failed}. Mend that, "
                            f"and the same command goes on from {self.checkpoints.newest()}")
        if self.seconds:
            say(f"training waited for data {100 * self.data_wait.share():.1f} % of the time, and saving took "
                f"{100 * self.saving_seconds / self.seconds:.1f} %")
        if self.world.writes and (self.seconds or not (self.run / REPORT).is_file()):   # one killed at its end has none
            show_run(self.run)
        self.world.wait()
        best = self.state.best_top1
        chosen_by = "val" if self.layout.val.part == "all" else f"what is held out of {self.layout.val.folder}"
        say(f"best top-1 on {chosen_by}: {100 * best:.2f} %; checkpoints and metrics are in {self.run}")
        return Training(self.run, self.state.step, round(self.throughput.images_per_second, 1), best,
                        round(self.data_wait.share(), 4), round(self.state.seconds, 1), self.parameters,
                        self.state.precision)


def workers(recipe: Recipe, state: TrainState) -> int:
    """Threads that read images: the recipe's, else as many as the run had before, as its random draws follow them."""
    before = state.workers or recipe.data.workers or cpu_count()
    now = recipe.data.workers or min(before, cpu_count())
    if now != before:
        warn(f"images were read by {before} threads before, now by {now}: augmentation draws other numbers than in an "
             "unbroken run")
    return now


def until(stop: Stop, batches: Iterator[T]) -> Iterator[T]:
    """The same, but Interrupted is raised where the run is asked to stop."""
    for batch in batches:
        stop.check()
        yield batch
