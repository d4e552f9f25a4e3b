"""What happens around the steps of Model.train: metrics, progress, checkpoints, and when to stop."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mindspore.train import Callback

from ms_vit.progress import progress, say
from ms_vit.runs.checkpoints import Checkpoints, RunState
from ms_vit.signals import Stop


class MetricsFile:
    """metrics.jsonl: a line every k steps and a line an epoch. Where it can't be written, training goes on."""

    def __init__(self, path: Path):
        self.path = path
        self.told = False

    def write(self, **values: Any) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            if not self.told:
                say(f"can't write {self.path} ({(error.strerror or str(error)).lower()}); training goes on without")
            self.told = True

    def rewind(self, state: RunState) -> None:
        """Drops what an interrupted run wrote after the checkpoint from which it goes on."""
        if not self.path.is_file():
            return
        kept = []
        for text in self.path.read_text(errors="replace").splitlines():
            # Half a line, if its process was killed, or what never was one.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                line = json.loads(text)
                if line["step"] <= state.step and ("val_top1" not in line or line["epoch"] <= state.epoch):
                    kept.append(text + "\n")
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text("".join(kept))
        part.replace(self.path)


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
        self.loss = self.norm = 0.0         # of the last step
        self.seconds = 0.0                  # spent in the steps after the first
        self.timed_steps = 0
        self.bar: Any = None                # from the first step on: compiling would spoil its rate

    @property
    def total(self) -> int:
        return len(self.learning_rates)

    @property
    def images_per_second(self) -> float:
        return self.batch_size * self.timed_steps / self.seconds if self.seconds else 0.0

    def on_train_epoch_begin(self, run_context: Any) -> None:
        self.began_epoch = self.data_wait.seconds
        self.last = time.perf_counter()
        if self.bar is None:
            say("compiling the training step")

    def on_train_step_end(self, run_context: Any) -> None:
        self.loss, self.norm = (float(value.asnumpy()) for value in run_context.original_args().net_outputs)
        self.state.step += 1
        self.state.loss_sum += self.loss
        now = time.perf_counter()
        if self.bar is None:
            say(f"compiled and took the first step in {now - self.last:.1f} s")
            self.bar = progress("training", self.total, "steps", done=self.state.step)
        else:
            self.seconds += now - self.last
            self.timed_steps += 1
            self.bar.update()
        self.last = now
        if self.state.step % self.log_every == 0:
            self.log()
        if self.timed_steps == self.WARM:
            self.estimate()

    def log(self) -> None:
        self.bar.set_postfix_str(f"loss {self.loss:.3f}", refresh=False)
        self.metrics.write(step=self.state.step, epoch=self.state.epoch + 1, loss=self.loss, grad_norm=self.norm,
                           lr=float(self.learning_rates[self.state.step - 1]) / 2**self.state.rollbacks,
                           images_per_second=round(self.images_per_second, 1),
                           data_wait=round(self.data_wait.share(self.logged), 4))
        self.logged = self.data_wait.seconds

    def estimate(self) -> None:
        left = (self.total - self.state.step) * self.seconds / self.timed_steps
        say(f"{self.images_per_second:.0f} images/s on {self.device}: {self.total - self.state.step:,} steps will take "
            f"about {duration(left)}, and validation on top")

    def go_back(self, state: RunState) -> None:
        """Goes on from an earlier state."""
        self.state = state
        if self.bar:
            self.bar.n = state.step

    def close(self) -> None:
        if self.bar:
            self.bar.close()


class Diverged(Exception):
    """The run can't go on from here; the argument says why."""


class Divergence(Callback):
    """Raises Diverged where loss or gradient are no numbers, or the loss stays far above its running level.

    chance: the loss of guessing, ln(classes). Far is more than half of it, or of the level if that is higher.
    """

    PATIENCE = 3        # steps: one batch alone may be hard
    MEMORY = 0.98       # of the running level, about 50 steps

    def __init__(self, steps: Steps, *, chance: float):
        super().__init__()
        self.steps = steps
        self.chance = chance
        self.above = 0

    def on_train_step_end(self, run_context: Any) -> None:
        state, loss = self.steps.state, self.steps.loss
        if not math.isfinite(loss) or not math.isfinite(self.steps.norm):
            raise Diverged(f"the loss is {loss:.4g}, the gradients' norm {self.steps.norm:.4g}")
        level = state.loss_level or loss
        self.above = self.above + 1 if loss > level + max(level, self.chance) / 2 else 0
        if self.above >= self.PATIENCE:
            raise Diverged(f"the loss is {loss:.4g}, and was about {level:.4g} before")
        state.loss_level = self.MEMORY * level + (1 - self.MEMORY) * loss


class Saving(Callback):
    """Saves a checkpoint every so many minutes, and ends a run that is asked to stop.

    write: writes the checkpoint of the run as it is. Where it can't be written, training goes on.
    """

    def __init__(self, steps: Steps, checkpoints: Checkpoints, stop: Stop, *, write: Callable[[], None], minutes: float,
                 keep: int):
        super().__init__()
        self.steps = steps
        self.checkpoints = checkpoints
        self.stop = stop
        self.write = write
        self.interval = 60 * minutes
        self.keep = keep
        self.failed = ""            # why the last checkpoint couldn't be written
        self.seconds = 0.0          # spent
        self.last = time.perf_counter()

    def on_train_step_end(self, run_context: Any) -> None:
        self.stop.check()
        if time.perf_counter() - self.last >= self.interval:
            self.save()

    def save(self) -> None:
        began, self.failed = time.perf_counter(), ""
        try:
            self.write()
        except OSError as error:
            self.failed = (error.strerror or str(error)).lower()
            say(f"can't save step {self.steps.state.step} in {self.checkpoints.folder} ({self.failed}); "
                "training goes on")
        else:
            try:
                self.checkpoints.prune(self.keep)
            except OSError as error:
                say(f"can't remove an old checkpoint in {self.checkpoints.folder} "
                    f"({(error.strerror or str(error)).lower()}); training goes on")
        self.last = time.perf_counter()
        self.seconds += self.last - began


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 10 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
