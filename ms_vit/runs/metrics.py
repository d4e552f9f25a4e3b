"""metrics.jsonl: what a run came to, a line every so many steps, a line an epoch, and one at the end."""

import contextlib
import json
from pathlib import Path
from typing import Any

from ms_vit.progress import warn
from ms_vit.runs.checkpoints import TrainState
from ms_vit.runs.events import Events
from ms_vit.writing import write_whole

METRICS = "metrics.jsonl"


class MetricsFile:
    """Appends lines, of which `events` hears, too. Where it can't be written, training goes on."""

    def __init__(self, path: Path, events: Events | None = None):
        self.path = path
        self.events = events
        self.told = False

    def write(self, **values: Any) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            if not self.told:
                warn(f"can't write {self.path} ({(error.strerror or str(error)).lower()}); training goes on without")
            self.told = True
        if self.events:
            self.events.write(**values)

    def has(self, key: str) -> bool:
        """Whether a line of it has this key."""
        return self.path.is_file() and f'"{key}":' in self.path.read_text(errors="replace")

    def rewind(self, state: TrainState) -> None:
        """Drops what an interrupted run wrote after the checkpoint from which it goes on, and its final score."""
        kept, last = [], []
        for text in self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []:
            # Half a line, if its process was killed, or what never was one.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                line = json.loads(text)
                if line["step"] <= state.step and "final_top1" not in line and \
                        ("val_top1" not in line or line["epoch"] <= state.epoch):
                    kept.append(text + "\n")
                    last += [line] if line["step"] == state.step else []
        if self.path.is_file():
            write_whole(self.path, "".join(kept))
        if self.events:
            self.events.rewind(state, last)

    def flush(self) -> None:
        """Has on the disk what `events` got, as it must be ahead of a checkpoint: a killed run goes on from that."""
        if self.events:
            self.events.flush()

    def close(self) -> None:
        if self.events:
            self.events.close()


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:
    """The lines of a metrics.jsonl: those of steps, those of epochs, and the last one's, where it is there.

    Half a line, which a killed process leaves, is passed over.
    """
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return ([line for line in lines if "loss" in line], [line for line in lines if "val_top1" in line],
            next((line for line in lines if "final_top1" in line), None))
