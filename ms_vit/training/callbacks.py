"""What is measured around the steps of Model.train: how fast they are, and what of the time is waited for data."""

import math
import time
from typing import Any

from mindspore.train import Callback

from ms_vit.progress import Display, duration, say


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
    """Shows how far the run is and how it goes, and says early how long it will take.

    done: steps of the run that are behind it. steps: of an epoch; validation: batches that are scored after each of the
    `epochs`. On a device that takes several steps on its own, a "step" of Model.train is all of these.
    """

    WARM = 5        # steps until the speed is steady: the first compiles the graph
    LATELY = 30     # seconds that what is called recent reaches back, about

    def __init__(self, done: int, *, steps: int, epochs: int, validation: int, batch_size: int, device: str):
        super().__init__()
        self.done = done
        self.steps = steps
        self.epochs = epochs
        self.total = epochs * steps
        self.validation = validation
        self.batch_size = batch_size
        self.device = device
        self.seconds = 0.0                  # spent in the steps after the first
        self.timed = 0                      # steps
        self.recent_steps = self.recent_seconds = 0.0       # the same; what is long ago counts for little
        self.ended = 0.0                    # when the last epoch's last step was taken; 0 while there is none
        self.between = 0.0                  # seconds from there to the next epoch: validation, and saving
        self.display: Display | None = None         # from the first step on
        self.logged = "", ""                # of the last logged step: the words around the speed
        self.estimated = False

    @property
    def images_per_second(self) -> float:
        """Of all steps but the first."""
        return self.batch_size * self.timed / self.seconds if self.seconds else 0.0

    @property
    def recently(self) -> float:
        """Images per second of the last steps."""
        return self.batch_size * self.recent_steps / self.recent_seconds if self.recent_seconds else 0.0

    def on_train_begin(self, run_context: Any) -> None:
        if self.ended:
            self.between = time.perf_counter() - self.ended

    def on_train_epoch_begin(self, run_context: Any) -> None:
        self.last = time.perf_counter()
        if self.display is None:
            say("compiling the training step")

    def taken(self, steps: int) -> None:
        """Counts the steps that Model.train has just taken."""
        now = time.perf_counter()
        took = now - self.last
        self.done += steps
        if self.display is None:
            say(f"compiled and took the first step in {took:.1f} s")
            self.display = Display("training", self.total, self.done, self.far(), self.how())
        else:
            self.seconds += took
            self.timed += steps
            faded = math.exp(-took / self.LATELY)
            self.recent_steps = faded * self.recent_steps + steps
            self.recent_seconds = faded * self.recent_seconds + took
            self.display.show(self.done, self.far(), self.how())
        self.last = now
        self.ended = 0.0 if self.done % self.steps else now
        if self.timed >= self.WARM and not self.estimated:
            self.estimated = True
            left = (self.total - self.done) * self.seconds / self.timed
            say(f"{self.images_per_second:.0f} images/s on {self.device}: {self.total - self.done:,} steps will take "
                f"about {duration(left)}, and validation on top")

    def log(self, loss: float, lr: float, waited: float) -> None:
        """Takes what there is to show of a logged step; `waited` is the share of the time that data was waited for."""
        self.logged = f"loss {loss:.3f}, lr {lr:.2g}, ", f", {100 * waited:.0f} % of the time waiting for data"

    def far(self) -> str:
        """How far the run is, in words."""
        ended = (self.done - 1) // self.steps       # epochs, but for the validation of the last
        text = f"epoch {ended + 1} of {self.epochs}, step {self.done:,} of {self.total:,}"
        if not self.recent_seconds:
            return text
        step = self.recent_seconds / self.recent_steps
        # Until it was seen: scoring goes forward only, and a step back as well, which is twice the work.
        between = self.between or self.validation * step / 3
        return f"{text}, {duration((self.total - self.done) * step + (self.epochs - ended) * between)} left"

    def how(self) -> str:
        """How it goes, in words."""
        before, after = self.logged
        return f"{before}{self.recently:,.0f} images/s{after}"

    def go_back(self, step: int) -> None:
        """Goes on from an earlier step."""
        self.done, self.ended = step, 0.0

    def close(self) -> None:
        if self.display:
            self.display.close()
