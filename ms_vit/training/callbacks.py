"""What is measured around the steps of Model.train: how fast they are, and what of the time is waited for data."""

import time
from typing import Any

from mindspore.train import Callback

from ms_vit.progress import duration, progress, say


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


class Throughput(Callback):
    """Shows progress, and says early how long the run will take.

    total: steps of the run, of which `done` are behind it. On a device that takes several steps on its own, a "step" of
    Model.train is all of these.
    """

    WARM = 5  # steps until the speed is steady: the first compiles the graph

    def __init__(self, total: int, done: int, batch_size: int, device: str):
        super().__init__()
        self.total = total
        self.done = done
        self.batch_size = batch_size
        self.device = device
        self.seconds = 0.0                  # spent in the steps after the first
        self.timed = 0                      # steps
        self.bar: Any = None                # from the first step on: compiling would spoil its rate
        self.estimated = False

    @property
    def images_per_second(self) -> float:
        return self.batch_size * self.timed / self.seconds if self.seconds else 0.0

    def on_train_epoch_begin(self, run_context: Any) -> None:
        self.last = time.perf_counter()
        if self.bar is None:
            say("compiling the training step")

    def taken(self, steps: int) -> None:
        """Counts the steps that Model.train has just taken."""
        now = time.perf_counter()
        self.done += steps
        if self.bar is None:
            say(f"compiled and took the first step in {now - self.last:.1f} s")
            self.bar = progress("training", self.total, "steps", done=self.done)
        else:
            self.seconds += now - self.last
            self.timed += steps
            self.bar.update(steps)
        self.last = now
        if self.timed >= self.WARM and not self.estimated:
            self.estimated = True
            left = (self.total - self.done) * self.seconds / self.timed
            say(f"{self.images_per_second:.0f} images/s on {self.device}: {self.total - self.done:,} steps will take "
                f"about {duration(left)}, and validation on top")

    def show(self, loss: float) -> None:
        self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

    def go_back(self, step: int) -> None:
        """Goes on from an earlier step."""
        self.done = step
        if self.bar:
            self.bar.n = step

    def close(self) -> None:
        if self.bar:
            self.bar.close()
