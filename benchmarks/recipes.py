"""What recipes come to: python -m benchmarks.recipes --help.

A run is `ms-vit train` as users type it and then, once, `ms-vit eval` on the test images: of the best checkpoint where
others chose it (a held-out part of train/, or val/ beside test/), else of the last, which nothing chose. A finished run
is kept in a folder, NAME-SEED, and isn't done again; one that was stopped goes on: the same command does what is left.
"""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import RESULTS, machine, percent
from ms_vit import cli, schema
from ms_vit.data.layout import find_layout
from ms_vit.errors import DataError, UsageError, UserError
from ms_vit.progress import say
from ms_vit.recipe import Recipe, recipe_file
from ms_vit.train import arguments, flatten, whole

METRICS, RECIPE, EVAL, RECORD = "metrics.jsonl", "recipe.yaml", "eval.json", "record.json"
ROUNDING = 0.001        # of the images: may be named otherwise in other batches


@dataclass(frozen=True)
class Record:
    """A finished run: record.json, beside its metrics.jsonl, recipe.yaml and eval.json.

    options: of `ms-vit train` besides the recipe. split: the folder of the test images, below the data's. checkpoint:
    LAST or BEST. seconds: of the training, in all its parts where it was interrupted. machine: before the last of
    these, with versions; see report.machine.
    """

    recipe: str
    seed: int
    options: str
    split: str
    checkpoint: str
    precision: str
    parameters: int
    seconds: float
    machine: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run to do: `words` are those of `ms-vit train`, `recipe` what they come to; the rest as in Record."""

    name: str
    seed: int
    words: list[str]
    recipe: Recipe
    split: str
    checkpoint: str

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.seed}"


@dataclass
class Finished:
    """Runs that were done now and those that failed; the results are in `out`."""

    out: Path
    new: int
    failed: int

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0


def recipes(recipes: str, *, seeds: int = 3, root: Path = Path("data"), weights: Path | None = None,
            options: str = "", corrupt: bool = False, work: Path = Path("runs/recipes"),
            out: Path = RESULTS) -> Finished:
    """Train recipes with several seeds, score each run on the test images, and keep what they came to.

    Args:
        recipes: which, by commas - names of published ones, or .yaml files.
        seeds: how many, from 0 on.
        root: the folder that the data sets were downloaded to.
        weights: the file that those recipes start from which need one.
        options: further ones of `ms-vit train`, in one word - "--options=--train.epochs 1".
        corrupt: score the test images under every corruption of `ms-vit eval --corrupt`, too; runs that are done aren't
            trained again for that, as long as their run folders are there.
        work: folder of the run folders, and of what training says (NAME-SEED.log).
        out: folder of the results.
    """
    cli.at_least_one(seeds=seeds)
    # Whatever is wrong with one of them is told before the first has taken its hours.
    jobs = [job(name, seed, root, weights, split(options))
            for seed, name in itertools.product(range(seeds), recipes.split(","))]
    missing = [each for each in jobs if not is_done(each, out / each.folder, corrupt=corrupt)]
    new = failed = 0
    for each in missing:
        try:
            told = do(each, options, work / each.folder, out / each.folder, corrupt=corrupt)
        except UserError as error:
            failed += 1
            say(f"{each}: {error}")
        except KeyboardInterrupt:
            say(f"{each}: stopped; the same command goes on with it")
            raise
        else:
            new += 1
            say(f"{each}: {told}")
    if not missing:
        say(f"{out} has all of it")
    return Finished(out, new, failed)


# --- what there is to do

def job(name: str, seed: int, root: Path, weights: Path | None, options: Sequence[str]) -> Job:
    """Raises UserError where there is no such recipe, or where it has not what it needs."""
    words = ["--recipe", name, "--data.root", str(root), *options, "--train.seed", str(seed)]
    if starts_from_weights(recipe_file(name)):
        if weights is None or not weights.exists():
            raise UsageError(f"the recipe {name} starts from weights; give them by --weights"
                             + (f", there is no {weights}" if weights else ""))
        words += ["--weights", str(weights)]
    recipe, title = asked(words), Path(name).stem
    return Job(title, seed, words, recipe, *test_of(recipe))


def split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise UsageError(f"--options can't be split into words ({error}); mend its quotes") from error


def starts_from_weights(file: Path) -> bool:
    """Whether the command in a recipe's header gives it some."""
    return bool(re.search(r"^#.*ms-vit train .*--weights ", file.read_text(encoding="utf-8"), re.MULTILINE))


def asked(words: Sequence[str]) -> Recipe:
    """The recipe that `ms-vit train` makes of these words."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog="ms-vit train", exit_on_error=False, allow_abbrev=False)
    arguments(parser)
    try:
        given = parser.parse_args(whole(words), defaults=False).as_dict()
    except ArgumentError as error:
        raise UsageError(f"{schema.explain(error)}; {cli.remedy(error, parser)}") from error
    if "run" in given:
        raise UsageError("--run can't be among --options; give --work")
    return Recipe.load(given.pop("recipe"), flatten(given))


def test_of(recipe: Recipe) -> tuple[str, str]:
    """The folder of the test images below the data's, and which checkpoint they had no part in choosing.

    Raises DataError where the data have none.
    """
    data = recipe.data.folder
    if not data.is_dir():
        raise DataError(f'no folder {recipe.data.root / recipe.data.name}; run "ms-vit download {recipe.data.name} '
                        f'--root {recipe.data.root}"')
    layout, test = find_layout(data, recipe.data.holdout), data / "test"
    if test.is_dir() and layout.val.folder != test:
        return test.name, "BEST"
    if layout.final:
        return layout.final.folder.name, "BEST"
    if layout.val.part == "all":
        return layout.val.folder.name, "LAST"
    raise DataError(f"{data} has nothing to test on besides what chooses the best epoch; put test images into "
                    f"{test}/CLASS/")


def is_done(job: Job, folder: Path, *, corrupt: bool) -> bool:
    """Whether a result is there, with scores under corruption where these are asked for.

    Raises UsageError where what is there is another recipe's.
    """
    if not folder.exists():
        return False
    before, now = published(Recipe.load(folder / RECIPE)), published(job.recipe)
    changed = [f"{section}.{key} was {before[section][key]}, is {value}" for section in now
               for key, value in now[section].items() if before[section][key] != value]
    if changed:
        raise UsageError(f"{folder} is of another recipe ({'; '.join(changed)}); remove it, and it is done anew")
    return not corrupt or "corrupted" in json.loads((folder / EVAL).read_text())


# --- doing it

def do(job: Job, options: str, run: Path, folder: Path, *, corrupt: bool) -> str:
    """Trains in `run`, or goes on there, scores, and keeps the result in `folder`; tells of it.

    Raises DataError where a command fails, or the two looks at the same images differ.
    """
    here, recipe = machine(), job.recipe
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_name(f"{run.name}.log")
    trained = verb(["train", *job.words, "--run", str(run)], log)
    precision = "bfloat16" if trained["precision"] == "bfloat16" else "float32"
    checkpoint = run / "checkpoints" / (run / "checkpoints" / job.checkpoint).read_text().strip()
    scored = verb(["eval", str(checkpoint), "--data", str(recipe.data.folder), "--split", job.split, "--batch-size",
                   str(recipe.train.batch_size), "--precision", precision, "--out", str(run / EVAL),
                   *(["--corrupt", "all"] if corrupt else [])], log)
    agree(run, job, scored)
    record = Record(recipe=job.name, seed=job.seed, options=shlex.join(map(placeless, split(options))),
                    split=job.split, checkpoint=job.checkpoint, precision=trained["precision"],
                    parameters=trained["parameters"], seconds=trained["seconds"], machine=here)
    keep(run, folder, recipe, record)
    return (f"top-1 {percent([scored['top1']])} %, top-5 {percent([scored['top5']])} % of the {scored['images']:,} "
            f"images of {job.split}/, trained in {record.seconds / 60:.1f} min ({record.precision}); {folder}")


def agree(run: Path, job: Job, scored: dict[str, Any]) -> None:
    """Raises DataError where training's own last look at the test images differs from `ms-vit eval`'s.

    Training has looked at them, too: after its last epoch, or at its best one in the end; not at a test/ beside val/.
    """
    lines, key = [json.loads(line) for line in (run / METRICS).read_text().splitlines()], "final_top1"
    looks = [line for line in lines if key in line and Path(line["final"]).name == job.split]
    if job.checkpoint == "LAST":
        key = "val_top1"
        looks = [line for line in lines if key in line][-1:]
    images = scored["images"]
    for look in looks:
        if abs(look[key] - scored["top1"]) * images > max(1, ROUNDING * images) + 0.5:
            raise DataError(f"{run / METRICS} has {key} {look[key]}, and ms-vit eval finds {scored['top1']} on the "
                            f"same {images:,} images; one of the two is wrong")


def keep(run: Path, folder: Path, recipe: Recipe, record: Record) -> None:
    """Copies what is published of a run, whole or not at all, without the names of places on this machine."""
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    evaluation = json.loads((run / EVAL).read_text())
    evaluation["checkpoint"] = Path(evaluation["checkpoint"]).relative_to(run).as_posix()
    evaluation["data"] = recipe.data.folder.name
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with (part / METRICS).open("w") as file:
            for line in lines:
                if "final" in line:
                    line["final"] = "/".join(Path(line["final"]).parts[-2:])
                file.write(json.dumps(line) + "\n")
        text = yaml.safe_dump(published(recipe), sort_keys=False, width=120)
        (part / RECIPE).write_text(f"# {record.machine['driver']}\n{text}", encoding="utf-8")
        (part / EVAL).write_text(json.dumps(evaluation, indent=1))
        (part / RECORD).write_text(json.dumps(asdict(record), indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def published(recipe: Recipe) -> dict[str, Any]:
    """A recipe's values by section, with names for what lies somewhere on this machine."""
    values = recipe.as_dict()
    values["data"] |= {"name": recipe.data.folder.name, "root": "data"}
    return {section: {key: placeless(value) if isinstance(value, str) else value for key, value in keys.items()}
            for section, keys in values.items()}


def placeless(word: str) -> str:
    """A path's last name, also in KEY=PATH; any other word as it is."""
    key, equals, value = word.rpartition("=")
    return key + equals + (Path(value).name if value.startswith(("/", "~", "./", "../")) else value)


def verb(words: Sequence[str], log: Path) -> dict[str, Any]:
    """What `ms-vit WORDS --json` prints, run as a process of its own; what it tells is appended to `log`.

    Ctrl-C is handed to it, once, and waited for: training saves its last step. A second one ends it at once.

    Raises DataError, with its last line, where it fails.
    """
    with log.open("a", encoding="utf-8") as lines:
        # In a session of its own, or a terminal would send Ctrl-C to both, and the second ends it at once.
        process = subprocess.Popen([sys.executable, "-m", "ms_vit", *words, "--json"], stdout=subprocess.PIPE,
                                   stderr=lines, text=True, start_new_session=True)
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt:
            process.terminate()             # jobs in the background may ignore SIGINT
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
                process.wait()
                raise
            raise
    if process.returncode:
        told = (log.read_text(encoding="utf-8").strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(f"ms-vit {shlex.join(words)} ended with {process.returncode}: {told}")
    return json.loads(printed.splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    return cli.run(recipes, argv, prog="python -m benchmarks.recipes")


if __name__ == "__main__":
    sys.exit(main())
