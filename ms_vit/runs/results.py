"""Where a verb's results about a weight file go: known, and tried, before the work begins."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ms_vit.errors import DataError
from ms_vit.recipe import Recipe
from ms_vit.runs.checkpoints import MANIFEST


def run_of(weights: Path) -> Path | None:
    """The run folder that a weight file is a checkpoint's of; None for weights from elsewhere."""
    if (weights.parent / MANIFEST).is_file():
        for path in (weights, Path(os.path.abspath(weights))):      # within a run, "model.safetensors" will do for one
            if (checkpoints := path.parent.parent).name == "checkpoints":
                return checkpoints.parent
    return None


def holdout_of(weights: Path) -> float | None:
    """The share that the run of these weights holds out of its training images; None where there is no such."""
    run = run_of(weights)
    return Recipe.load(run / "recipe.yaml").data.holdout if run and (run / "recipe.yaml").is_file() else None


def results_folder(weights: Path) -> Path:
    """The run folder of a weight file; for weights from elsewhere, runs/NAME below where we are.

    NAME is the file's name without its ending, or the name of a hub's folder. The folder that such weights lie in is
    not ours: it may be shared, or for reading only.
    """
    absolute = Path(os.path.abspath(weights))
    return run_of(weights) or Path("runs", absolute.name if weights.is_dir() else absolute.stem)


@contextlib.contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Makes the folder for a file that is to be written inside; folders made here go again if nothing comes of it.

    Raises DataError at once where the file can't be written. One that is there stays as it is.
    """
    made: list[Path] = []
    try:
        try:
            made += [folder for folder in file.parents if not folder.exists()]
            for folder in reversed(made):
                folder.mkdir(exist_ok=True)
            try_to_write(file)
        except OSError as error:
            raise DataError(f"can't write {file} ({(error.strerror or str(error)).lower()}); give another place with "
                            "--out") from error
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):      # it isn't empty
                folder.rmdir()


def try_to_write(file: Path) -> None:
    """Raises OSError where a file can't be opened for writing. Asking for permissions would not tell all reasons."""
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not file.exists():
        file.open("xb").close()
        file.unlink()
    elif file.is_file():        # opening a pipe would wait for its reader
        file.open("ab").close()
