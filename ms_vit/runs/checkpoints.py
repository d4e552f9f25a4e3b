"""A run's checkpoints: RUN/checkpoints/STEP/{model,optimizer,ema}.safetensors, state.json, manifest.json.

A checkpoint is written beside its place, flushed to disk and renamed. It counts only with its manifest, the SHA-256 of
each file. LAST and BEST hold a step's name and are replaced atomically. ema.safetensors lies there where the run keeps
a moving average of its weights; then that is what is validated, and what other verbs take.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mindspore import Parameter

from ms_vit.errors import DataError
from ms_vit.progress import warn
from ms_vit.weights.files import ModelSpec, read_arrays, save_parameters, set_parameters
from ms_vit.writing import flush, write_whole

MODEL, AVERAGE, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.safetensors"
STATE, MANIFEST = "state.json", "manifest.json"
StateDicts = dict[str, dict[str, Parameter]]     # a checkpoint's parameters, by file and name


@dataclass
class TrainState:
    """How far a run is, and what its next steps depend on besides parameters.

    step: optimiser steps done. epoch: epochs done, validation included. workers: threads that read images, by whose
    number the random draws of augmentation are shared out. precision: of matrix products. images: a hash of their
    names. overflows: steps that were left out, since their gradients overflowed float16. rollbacks: to an earlier
    checkpoint, each with half the learning rate. seconds: of training so far, in whatever processes: validation, saving
    and compiling included, what an interruption undid not.
    """

    step: int = 0
    epoch: int = 0
    best_top1: float = -1.0
    best_step: int = 0
    workers: int = 0
    precision: str = ""
    images: str = ""
    loss_sum: float = 0.0       # of the epoch under way
    top1_sum: float = 0.0       # of its steps that have a top-1, of which there are
    top1_steps: int = 0
    loss_level: float = 0.0     # its running mean, see Divergence of training/
    overflows: int = 0
    rollbacks: int = 0
    seconds: float = field(default=0.0, compare=False)


class Checkpoints:
    """The checkpoints below one run folder."""

    def __init__(self, run: Path):
        self.run = run
        self.folder = run / "checkpoints"

    def save(self, state_dicts: StateDicts, spec: ModelSpec, state: TrainState, about: dict[str, Any]) -> None:
        """Writes the checkpoint of `state.step` and points LAST, and BEST where it is the best, to it.

        state_dicts: parameters by the file they go into, with MODEL and OPTIMIZER among them, maybe AVERAGE. about:
        what state.json tells besides. Raises OSError where it can't be written; those that are there stay as they are.
        """
        name = f"{state.step:08d}"
        part, old = self.folder / f".{name}.part", self.folder / f".{name}.old"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for file, parameters in state_dicts.items():
                save_parameters(part / file, parameters, None if file == OPTIMIZER else spec)
            (part / STATE).write_text(json.dumps(asdict(state) | about, indent=1))
            manifest = {path.name: sha256(path) for path in sorted(part.iterdir())}
            (part / MANIFEST).write_text(json.dumps(manifest, indent=1))
            for path in part.iterdir():
                flush(path)
            if (self.folder / name).exists():       # saved once before the epoch's end was dealt with
                (self.folder / name).rename(old)
            part.rename(self.folder / name)
            flush(self.folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self.point("LAST", name)
        if state.best_step == state.step:
            self.point("BEST", name)

    def point(self, pointer: str, name: str) -> None:
        write_whole(self.folder / pointer, name + "\n")

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` checkpoints and the best; tells where one can't be removed."""
        best = self.pointed("BEST")
        try:
            for folder in self.steps()[keep:]:
                if folder != best:
                    (folder / MANIFEST).unlink(missing_ok=True)     # from now on it is none, however far this gets
                    shutil.rmtree(folder)
        except OSError as error:
            warn(f"can't remove an old checkpoint in {self.folder} ({(error.strerror or str(error)).lower()}); "
                 "training goes on")

    def tidy(self) -> None:
        """Removes what a killed process left half-written; only for who holds the run's lock."""
        for left in self.folder.glob(".*.old"):
            whole = self.folder / left.name[1:].removesuffix(".old")
            if not whole.exists():
                left.rename(whole)
        for left in (*self.folder.glob(".*.old"), *self.folder.glob(".*.part")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def steps(self) -> list[Path]:
        """Checkpoint folders, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if path.name.isdigit()), reverse=True)

    def pointed(self, pointer: str) -> Path | None:
        """The folder that LAST or BEST names, where both are there."""
        file = self.folder / pointer
        name = file.read_text(errors="replace").strip() if file.is_file() else ""
        folder = self.folder / name
        return folder if name.isdigit() and folder.is_dir() else None

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are as its manifest says; tells of those that are not."""
        for folder in self.steps():
            if damage := damage_of(folder):
                warn(f"{damage}; leaving it out")
            else:
                return folder
        return None

    def restore(self, folder: Path, state_dicts: StateDicts) -> None:
        """Sets parameters to a checkpoint's; `state_dicts` as for `save`."""
        for file, parameters in state_dicts.items():
            set_parameters(parameters, read_arrays(folder / file), folder / file)


def read_state(folder: Path) -> TrainState:
    """The state of the run at a checkpoint. Raises DataError where state.json is none."""
    try:
        read = json.loads((folder / STATE).read_bytes())
        values = {each.name: read.get(each.name, each.default) for each in fields(TrainState)}
        if any(type(values[each.name]) is not type(each.default) for each in fields(TrainState)):
            raise ValueError
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / STATE} is no state of a run; remove {folder}, and the same command goes on from "
                        "the checkpoint before it") from error
    return TrainState(**values)


def model_file(checkpoint: Path) -> Path:
    """The weights of a run folder (the best, else the newest), of one of its checkpoints, or the file itself.

    Where a checkpoint has averaged weights, those.
    """
    if checkpoint.is_file() or (checkpoint / "config.json").is_file():     # the latter is a hub's folder
        return checkpoint
    if (checkpoint / MODEL).is_file():
        folder: Path | None = checkpoint
    else:
        checkpoints = Checkpoints(checkpoint)
        folder = checkpoints.pointed("BEST") or checkpoints.newest()
    if folder is None:
        reason = "holds no checkpoint" if checkpoint.is_dir() else "is not there"
        raise DataError(f"{checkpoint} {reason}; give a run folder, one of its checkpoints, or a weight file")
    if damage := damage_of(folder):
        raise DataError(f"{damage}; give another checkpoint of the run")
    return folder / (AVERAGE if (folder / AVERAGE).is_file() else MODEL)


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if not {MODEL, OPTIMIZER, STATE} <= manifest.keys() <= {MODEL, AVERAGE, OPTIMIZER, STATE}:
            return f"{folder / MANIFEST} doesn't tell of a checkpoint's files"
        for name, digest in manifest.items():
            if sha256(folder / name) != digest:
                return f"{folder / name} differs from its manifest"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        missing = getattr(error, "filename", None) or folder / MANIFEST
        return f"{missing} is missing or damaged"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
