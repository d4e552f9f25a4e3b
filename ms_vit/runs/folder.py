"""A run's folder: one process at a time, one recipe."""

import contextlib
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import ms_vit
from ms_vit.distributed import World
from ms_vit.errors import UsageError
from ms_vit.progress import warn
from ms_vit.recipe import Recipe
from ms_vit.writing import write_whole

try:
    import fcntl
except ImportError:     # Windows
    fcntl = None  # type: ignore[assignment]

GRACE = 2       # seconds: a launcher kills all processes once one has failed, and the one that writes shall go first

# What may differ when a run goes on; epochs only upward. All but the last two leave every number as it is.
FREE = {"train.log_every", "train.on_divergence", "checkpoint.every_epochs", "checkpoint.every_minutes",
        "checkpoint.keep", "data.root", "data.workers", "train.epochs"}


@contextlib.contextmanager
def locked(run: Path, world: World) -> Iterator[None]:
    """Makes the run folder where there is none, and keeps other processes out; the lock goes with this process.

    Of several processes that train together, the one that writes makes it and holds the lock. A folder that is made
    here and in which nothing comes to lie goes again. Raises UsageError where a run is under way.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()] if world.writes else []
    if world.writes:
        run.mkdir(parents=True, exist_ok=True)
    lock = run / ".lock"
    with contextlib.ExitStack() as stack:
        if fcntl is not None and world.writes:
            file = stack.enter_context(lock.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"another process is training in {run}; wait for it, or give another --run") from error
            except OSError as error:        # a file system without locks
                warn(f"{run} can't be locked ({(error.strerror or str(error)).lower()}); let only one process use it")
        try:
            yield
        except BaseException:
            if not world.writes:
                time.sleep(GRACE)
            raise
        finally:
            if made and [entry.name for entry in run.iterdir()] == [lock.name]:
                lock.unlink()
            with contextlib.suppress(OSError):      # the first that isn't empty
                for folder in made:
                    folder.rmdir()


def changes(run: Path, recipe: Recipe) -> list[str]:
    """What is another now than when the run was last trained, in words: "train.epochs was 3, is 4".

    Raises UsageError with the keys that make it another run.
    """
    file = run / "recipe.yaml"
    if not file.is_file():
        return []
    old = Recipe.load(file)
    free = FREE if recipe.train.epochs > old.train.epochs else FREE - {"train.epochs"}
    before, now = old.as_dict(), recipe.as_dict()
    changed = {f"{section}.{key}": f"{section}.{key} was {before[section][key]}, is {value}"
               for section in now for key, value in now[section].items() if before[section][key] != value}
    refused = [told for key, told in changed.items() if key not in free]
    if refused:
        raise UsageError(f"{run} was trained with another recipe ({'; '.join(refused)}); "
                         "give another --run, or remove that folder")
    return list(changed.values())


def write_recipe(run: Path, recipe: Recipe) -> None:
    write_whole(run / "recipe.yaml", f"# {versions()}\n{recipe.to_yaml()}")


def versions() -> str:
    """What a run is made with."""
    source = Path(__file__).parents[2]
    git = ["git", "-C", str(source), "describe", "--always", "--dirty"]
    found = subprocess.run(git, capture_output=True, text=True) if (source / ".git").exists() else None
    revision = f" (git {found.stdout.strip()})" if found and found.returncode == 0 else ""
    others = (f"{package} {importlib.metadata.version(package)}" for package in ("mindspore", "numpy"))
    return f"ms-vit {ms_vit.__version__}{revision}, {', '.join(others)}, Python {platform.python_version()}"
