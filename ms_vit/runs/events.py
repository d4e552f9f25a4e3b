"""events/: what TensorBoard shows of a run."""

import contextlib
import math
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ms_vit.errors import UsageError
from ms_vit.progress import warn
from ms_vit.runs.checkpoints import TrainState

EVERY = 5       # seconds after which what was written is to be seen
OF_STEPS = {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm",
            "images_per_second": "train/images_per_second", "data_wait": "train/data_wait"}
OF_EPOCHS = {"val_loss": "val/loss", "val_top1": "val/top1", "val_top5": "val/top5"}


class Events:
    """Appends to a file of events what metrics.jsonl gets. Where it can't be written, training goes on.

    The file begins when there is something to write. It is written here, in the thread that trains, not by
    tensorboardX's SummaryWriter: that has a thread for it, which a full disk would end and training then wait for.

    Raises UsageError where tensorboardX is missing.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import event_file_writer, proto, summary
        except ImportError as error:
            raise UsageError(f'events for TensorBoard need {error.name or error}; run: pip install '
                             '"ms-vit[tensorboard]"') from error
        self.folder = folder
        self.library, self.proto, self.summary = event_file_writer, proto.event_pb2, summary
        self.file: Any = None
        self.flushed = 0.0
        self.told = False

    def begin(self, state: TrainState, recipe: str, pictures: list[Image.Image]) -> None:
        """Writes what a run is made of: its recipe, as YAML, and some of its images, all of one size."""
        self.record(step=state.step, summary=self.summary.text("recipe", textwrap.indent(recipe, "    ")))
        images = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        self.record(step=state.step, summary=self.summary.image("train/images", images, dataformats="NHWC"))

    def rewind(self, state: TrainState, last: list[dict[str, Any]]) -> None:
        """Has TensorBoard forget what came after a checkpoint, or at its step; `last` are the lines that hold there."""
        start = self.proto.SessionLog(status=self.proto.SessionLog.START)
        self.record(step=state.step, session_log=start)
        for line in last:
            self.write(**line)

    def write(self, **values: Any) -> None:
        """The scalars of a line of metrics.jsonl, but for those that are no numbers."""
        for key, tag in (OF_STEPS if "loss" in values else OF_EPOCHS).items():
            value = values.get(key)
            if value is not None and math.isfinite(value):
                self.record(step=values["step"], summary=self.summary.scalar(tag, value))

    def record(self, **event: Any) -> None:
        now = time.time()
        with self.telling():
            if self.file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Its name has whole seconds, and would be another's if this run was begun twice in one.
                self.file = self.library.EventsWriter(str(self.folder / "events"), f".{time.time_ns()}")
            self.file.write_event(self.proto.Event(wall_time=now, **event))
        if now - self.flushed > EVERY:
            self.flush()

    def flush(self) -> None:
        """Has on the disk what was written."""
        self.flushed = time.time()
        with self.telling():
            if self.file is not None:
                self.file.flush()

    def close(self) -> None:
        with self.telling():
            if self.file is not None:
                self.file.close()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tells, once, that something inside can't be written."""
        try:
            yield
        except OSError as error:
            if not self.told:
                warn(f"can't write {self.folder} ({(error.strerror or str(error)).lower()}); training goes on without")
            self.told = True
