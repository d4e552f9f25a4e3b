"""A run's checkpoints: RUN/checkpoints/STEP/{model,optimizer}.safetensors, state.json, manifest.json.

A checkpoint is written beside its place, flushed to disk and renamed. It counts only with its manifest, the SHA-256 of
each file. LAST and BEST hold a step's name and are replaced atomically.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from mindspore import Parameter

from ms_vit.errors import DataError
from ms_vit.models.vit import ViT
from ms_vit.models.weights import ModelSpec, read_arrays, save_parameters, set_parameters
from ms_vit.progress import say

MODEL = "model.safetensors"


@dataclass
class RunState:
    """How far a run is: optimiser steps and epochs done, and its best validation so far."""

    step: int = 0
    epoch: int = 0
    best_top1: float = -1.0
    best_step: int = 0


class Checkpoints:
    """The checkpoints below one run folder."""

    def __init__(self, run: Path):
        self.folder = run / "checkpoints"

    def save(self, net: ViT, spec: ModelSpec, optimizer: list[Parameter], state: RunState) -> None:
        """Writes the checkpoint of `state.step` and points LAST, and BEST where it is the best, to it."""
        name = f"{state.step:08d}"
        part = self.folder / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            save_parameters(part / MODEL, list(net.get_parameters()), spec)
            save_parameters(part / "optimizer.safetensors", optimizer)
            (part / "state.json").write_text(json.dumps(asdict(state), indent=1))
            manifest = {file.name: sha256(file) for file in sorted(part.iterdir())}
            (part / "manifest.json").write_text(json.dumps(manifest, indent=1))
            for file in part.iterdir():
                flush(file)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            part.rename(self.folder / name)
            flush(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self.point("LAST", name)
        if state.best_step == state.step:
            self.point("BEST", name)

    def point(self, pointer: str, name: str) -> None:
        part = self.folder / f".{pointer}.part"
        part.write_text(name + "\n")
        flush(part)
        part.replace(self.folder / pointer)

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` checkpoints and the best."""
        best = self.pointed("BEST")
        for folder in self.steps()[keep:]:
            if folder != best:
                shutil.rmtree(folder)

    def steps(self) -> list[Path]:
        """Checkpoint folders, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if path.name.isdigit()), reverse=True)

    def pointed(self, pointer: str) -> Path | None:
        """The folder that LAST or BEST names, where both are there."""
        file = self.folder / pointer
        folder = self.folder / file.read_text().strip() if file.is_file() else None
        return folder if folder and folder.is_dir() else None

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are as its manifest says; tells of those that are not."""
        for folder in self.steps():
            if fault := fault_of(folder):
                say(f"{fault}; leaving it out")
            else:
                return folder
        return None

    def restore(self, folder: Path, net: ViT, optimizer: list[Parameter]) -> RunState:
        """Sets network and optimiser to a checkpoint's; returns the state of the run."""
        for name, parameters in ((MODEL, list(net.get_parameters())), ("optimizer.safetensors", optimizer)):
            set_parameters(parameters, read_arrays(folder / name), folder / name)
        return RunState(**json.loads((folder / "state.json").read_text()))


def model_file(checkpoint: Path) -> Path:
    """The weights of a run folder (the best, else the newest), of one of its checkpoints, or the file itself."""
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
    if fault := fault_of(folder):
        raise DataError(f"{fault}; give another checkpoint of the run")
    return folder / MODEL


def run_folder(weights: Path) -> Path:
    """Where results about a weight file go: its run folder, or, for a file from elsewhere, the folder it lies in."""
    checkpoints = weights.parent.parent
    return checkpoints.parent if checkpoints.name == "checkpoints" else weights.parent


def fault_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, digest in manifest.items():
            if sha256(folder / name) != digest:
                return f"{folder / name} differs from its manifest"
    except (OSError, ValueError, AttributeError) as error:
        missing = getattr(error, "filename", None) or folder / "manifest.json"
        return f"{missing} is missing or damaged"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def flush(path: Path) -> None:
    """Has a file's, or a folder's, content on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
