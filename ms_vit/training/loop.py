"""One epoch after the other, from wherever a run is, until all are done or something stops it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import mindspore.dataset as ds
from mindspore.train import Callback

from ms_vit.data.pipeline import Batches
from ms_vit.errors import DataError
from ms_vit.inference.scores import Scores
from ms_vit.progress import say
from ms_vit.recipe import Recipe
from ms_vit.signals import Interrupted, Stop
from ms_vit.training.callbacks import DataWait, Diverged, Divergence, Saving, Steps

ROLLBACKS = 3


class Loop:
    """Trains on `batches` by a recipe, validates after each epoch, and saves every so many.

    train: takes a step for each batch of a pipeline, with callbacks. validate: scores the network as it is. restore:
    takes the run back to a checkpoint's folder, with the learning rate scaled by a factor.
    """

    def __init__(self, batches: Batches, recipe: Recipe, *, steps: Steps, guard: Divergence, saving: Saving,
                 data_wait: DataWait, stop: Stop, train: Callable[[ds.Dataset, list[Callback]], None],
                 validate: Callable[[], Scores], restore: Callable[[Path, float], None]):
        self.batches = batches
        self.recipe = recipe
        self.steps = steps
        self.saving = saving
        # In this order: a step is counted, then judged, then saved, and the time of all of that counts as its own.
        self.callbacks: list[Callback] = [steps, guard, saving, data_wait]
        self.data_wait = data_wait
        self.stop = stop
        self.train = train
        self.validate = validate
        self.restore = restore
        self.seconds = 0.0          # of a call that came to its end

    def __call__(self) -> None:
        """Raises DataError where the run diverges, Interrupted, once the run is saved, where it is asked to stop."""
        began = time.perf_counter()
        if self.recipe.train.on_divergence == "rollback" and self.steps.state.step == 0:
            self.saving.save()          # there must be something to go back to
        self.stop.patient = True
        while self.steps.state.epoch < self.recipe.train.epochs:
            try:
                if self.done < self.batches.steps:
                    self.train(self.batches.epoch(self.steps.state.epoch, skip=self.done), self.callbacks)
                self.finish_epoch()
            except Diverged as fault:
                self.roll_back(fault)
            except Interrupted:
                self.saving.save()
                say(f"stopped after step {self.steps.state.step}" + ("" if self.saving.failed else ", which is saved"))
                raise
        self.stop.patient = False
        self.seconds = time.perf_counter() - began

    @property
    def done(self) -> int:
        """Steps of the epoch under way."""
        return self.steps.state.step - self.steps.state.epoch * self.batches.steps

    def finish_epoch(self) -> None:
        state, epochs = self.steps.state, self.recipe.train.epochs
        began = time.perf_counter()
        scores = self.validate()
        train_loss = state.loss_sum / self.batches.steps
        state.epoch, state.loss_sum = state.epoch + 1, 0.0
        best = scores.top1 > state.best_top1
        if best:
            state.best_top1, state.best_step = scores.top1, state.step
        self.steps.metrics.write(
            step=state.step, epoch=state.epoch, train_loss=train_loss, val_loss=scores.loss, val_top1=scores.top1,
            val_top5=scores.top5, images_per_second=round(self.steps.images_per_second, 1),
            data_wait=round(self.data_wait.share(self.steps.began_epoch), 4),
            validation_seconds=round(time.perf_counter() - began, 2))
        say(f"epoch {state.epoch:{len(str(epochs))}} of {epochs}: loss {train_loss:.3f}, "
            f"val loss {scores.loss:.3f}, top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} %"
            + (" (best)" if best else ""))
        if best or state.epoch % self.recipe.checkpoint.every_epochs == 0 or state.epoch == epochs:
            self.saving.save()

    def roll_back(self, fault: Diverged) -> None:
        """Goes on from the last good checkpoint with half the learning rate, or raises DataError."""
        state = self.steps.state
        files = [str(file) for file in self.batches.files_of(state.epoch, self.done - 1)]
        told = self.saving.checkpoints.run / "diverged.json"
        told.write_text(json.dumps({"step": state.step, "reason": str(fault), "files": files}, indent=1))
        happened = f"the run diverged at step {state.step}: {fault}; its batch is listed in {told}"
        good = self.saving.checkpoints.newest()
        if self.recipe.train.on_divergence == "stop" or good is None or state.rollbacks == ROLLBACKS:
            tried = f" The learning rate was halved {state.rollbacks} times." if state.rollbacks else ""
            raise DataError(f"{happened}, and the last good checkpoint is {good or 'none yet'}.{tried} Lower "
                            "optimizer.lr or lengthen schedule.warmup_epochs, and give another --run")
        rollbacks = state.rollbacks + 1
        say(f"{happened}; going on from {good} with the learning rate halved, for the {rollbacks}. time of {ROLLBACKS}")
        self.restore(good, 0.5**rollbacks)
        self.steps.state.rollbacks = rollbacks
