"""What happens around the steps of Model.train: metrics, progress, validation, checkpoints."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mindspore.train import Callback

from ms_vit.data.pipeline import interruptible
from ms_vit.errors import DataError
from ms_vit.progress import progress, say
from ms_vit.reports.scores import Scores
from ms_vit.training.checkpoint import Checkpoints, RunState


class MetricsFile:
    """metrics.jsonl: a line every k steps and a line an epoch."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def rewind(self, step: int) -> None:
        """Drops what an interrupted run wrote after the step from which it goes on."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in lines))


class DataWait(Callback):
    """Measures what training waits for data: from the end of one step, all callbacks done, to the begin of the next.

    It is the last of the callbacks, so that the time of the others counts as the step's. Left out are the first step,
    which compiles the graph, and what lies between two epochs, such as validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0       # seconds
        self.worked = 0.0
        self.compiled = False

    @property
    def seconds(self) -> tuple[float, float]:
        """Waited and worked so far: a mark for `share`."""
        return self.waited, self.worked

    def share(self, since: tuple[float, float] = (0.0, 0.0)) -> float:
        """The part of the time that was waited, from 0 to 1, since a mark."""
        waited, worked = self.waited - since[0], self.worked - since[1]
        return waited / (waited + worked) if waited + worked else 0.0

    def on_train_epoch_begin(self, run_context: Any) -> None:
        self.last = time.perf_counter()

    def on_train_step_begin(self, run_context: Any) -> None:
        now = time.perf_counter()
        if self.compiled:
            self.waited += now - self.last
        self.last = now

    def on_train_step_end(self, run_context: Any) -> None:
        now = time.perf_counter()
        if self.compiled:
            self.worked += now - self.last
        self.compiled = True
        self.last = now


class Steps(Callback):
    """Counts steps, writes their metrics, shows progress, and says early how long the run will take.

    learning_rates: one for each step, [steps]. data_wait: measures beside it.
    """

    WARM = 5  # steps until the speed is steady: the first compiles the graph

    def __init__(self, state: RunState, metrics: MetricsFile, *, learning_rates: np.ndarray, batch_size: int,
                 log_every: int, device: str, data_wait: DataWait):
        super().__init__()
        self.state = state
        self.metrics = metrics
        self.learning_rates = learning_rates
        self.batch_size = batch_size
        self.log_every = log_every
        self.device = device
        self.data_wait = data_wait
        self.logged = self.began_epoch = data_wait.seconds      # marks
        self.losses: list[Any] = []         # of this epoch; read on demand, since reading waits for the device
        self.seconds = 0.0                  # spent in the steps after the first
        self.timed_steps = 0
        self.bar: Any = None                # from the first step on: compiling would spoil its rate

    @property
    def total(self) -> int:
        return len(self.learning_rates)

    @property
    def images_per_second(self) -> float:
        return self.batch_size * self.timed_steps / self.seconds if self.seconds else 0.0

    @property
    def mean_loss(self) -> float:
        """Of the epoch so far."""
        return float(np.mean([loss.asnumpy() for loss in self.losses]))

    def on_train_begin(self, run_context: Any) -> None:
        self.began = time.perf_counter()
        say("compiling the training step")

    def on_train_epoch_begin(self, run_context: Any) -> None:
        self.losses = []
        self.began_epoch = self.data_wait.seconds
        self.last = time.perf_counter()

    def on_train_step_begin(self, run_context: Any) -> None:
        interruptible()

    def on_train_step_end(self, run_context: Any) -> None:
        self.losses.append(run_context.original_args().net_outputs)
        self.state.step += 1
        if self.state.step % self.log_every == 0:
            self.log()
        now = time.perf_counter()
        if self.bar is None:
            say(f"compiled and took the first step in {now - self.began:.1f} s")
            self.bar = progress("training", self.total, "steps", done=self.state.step)
        else:
            self.seconds += now - self.last
            self.timed_steps += 1
            self.bar.update()
        self.last = now
        if self.timed_steps == self.WARM:
            self.estimate()

    def log(self) -> None:
        loss = float(self.losses[-1].asnumpy())
        if self.bar:
            self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.metrics.write(step=self.state.step, epoch=self.state.epoch + 1, loss=loss,
                           lr=float(self.learning_rates[self.state.step - 1]),
                           images_per_second=round(self.images_per_second, 1),
                           data_wait=round(self.data_wait.share(self.logged), 4))
        self.logged = self.data_wait.seconds

    def estimate(self) -> None:
        self.losses[-1].asnumpy()           # waits for the device, so that the time is whole
        self.seconds += time.perf_counter() - self.last
        left = (self.total - self.state.step) * self.seconds / self.timed_steps
        say(f"{self.images_per_second:.0f} images/s on {self.device}: {self.total - self.state.step:,} steps will take "
            f"about {duration(left)}, and validation on top")

    def on_train_end(self, run_context: Any) -> None:
        if self.bar:
            self.bar.close()


class Divergence(Callback):
    """Stops a run whose loss is no number, or stays far above what it began with and what guessing would give.

    chance: the loss of guessing, ln(classes).
    """

    PATIENCE = 3        # steps: one batch alone may be hard
    FACTOR = 1.5

    def __init__(self, steps: Steps, *, chance: float, checkpoints: Checkpoints):
        super().__init__()
        self.steps = steps
        self.chance = chance
        self.checkpoints = checkpoints
        self.bound = 0.0
        self.above = 0

    def on_train_step_end(self, run_context: Any) -> None:
        loss = float(self.steps.losses[-1].asnumpy())
        self.bound = self.bound or self.FACTOR * max(loss, self.chance)
        self.above = self.above + 1 if loss > self.bound else 0
        if math.isfinite(loss) and self.above < self.PATIENCE:
            return
        last = self.checkpoints.newest()
        raise DataError(f"the run diverged at step {self.steps.state.step}: the loss is {loss:.4g}, guessing has "
                        f"{self.chance:.2f}. Lower optimizer.lr or lengthen schedule.warmup_epochs, and give another "
                        f"--run; the last good checkpoint is {last or 'none yet'}")


class Epochs(Callback):
    """At the end of an epoch: validates, writes the metrics, and saves a checkpoint where one is due.

    validate: scores the network as it is. save: writes a checkpoint of the state.
    """

    def __init__(self, steps: Steps, *, epochs: int, every: int, validate: Callable[[], Scores],
                 save: Callable[[RunState], None]):
        super().__init__()
        self.steps = steps
        self.epochs = epochs
        self.every = every
        self.validate = validate
        self.save = save

    def on_train_epoch_end(self, run_context: Any) -> None:
        state = self.steps.state
        state.epoch += 1
        train_loss = self.steps.mean_loss
        began = time.perf_counter()
        scores = self.validate()
        best = scores.top1 > state.best_top1
        if best:
            state.best_top1, state.best_step = scores.top1, state.step
        self.steps.metrics.write(
            step=state.step, epoch=state.epoch, train_loss=train_loss, val_loss=scores.loss, val_top1=scores.top1,
            val_top5=scores.top5, images_per_second=round(self.steps.images_per_second, 1),
            data_wait=round(self.steps.data_wait.share(self.steps.began_epoch), 4),
            validation_seconds=round(time.perf_counter() - began, 2))
        say(f"epoch {state.epoch:{len(str(self.epochs))}} of {self.epochs}: loss {train_loss:.3f}, "
            f"val loss {scores.loss:.3f}, top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} %"
            + (" (best)" if best else ""))
        if best or state.epoch % self.every == 0 or state.epoch == self.epochs:
            self.save(state)


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 10 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
