"""Our data pipelines beside PyTorch's, on this machine: python -m benchmarks.data --help.

A folder of synthetic photos is made, and gone through from start to end by each contender in turns:

    files            ours, decoding every image in every pass, as for a set that doesn't fit in memory
    memory           ours in every epoch after the first of a set that fits
    packed           ours from shards that ms-vit pack made, decoding every image in every pass
    pillow           ours with Pillow's resampling, as for other libraries' weights: the pixels that torchvision makes
    torch            torch.utils.data.DataLoader over torchvision's ImageFolder (Pillow), with a process for each core
    files reduced, pillow reduced, torch reduced
                     the same, of JPEGs that are decoded at 1/2, 1/4 or 1/8 of their size: Decode(at_least=...) of ours,
                     Pillow's draft of torchvision's

Batches are those that training and evaluation get: [B, 3, H, W] float32, normalised, with the default operations.
"""

import datetime
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.contenders import cores
from benchmarks.jobs import chosen
from benchmarks.report import RESULTS, machine, markdown, save, text
from ms_vit import cli
from ms_vit.progress import track

PACKAGES = ("mindspore", "torch", "torchvision", "pillow", "simplejpeg")
REDUCED = " reduced"
MODES = ("training", "evaluation")
CLASSES = 10


@dataclass(frozen=True)
class Job:
    """What is gone through: images of `width` x `height` in a file format of Pillow's, as batches at `image_size`."""

    title: str
    format: str
    width: int
    height: int
    image_size: int
    images: int
    contenders: tuple[str, ...]
    quality: int = 90       # of JPEGs
    batch: int = 32

    def at_least(self, mode: str) -> int:
        """What the sides of a reduced image keep, in pixels: in training, a crop of a quarter of it is the model's."""
        return 2 * self.image_size if mode == "training" else int(self.image_size / 0.875)

    def running(self, mode: str) -> list[str]:
        """The contenders of a mode: training crops before it resizes, and there Pillow has no part in it."""
        return [who for who in self.contenders if mode == "evaluation" or not who.startswith("pillow")]


JOBS = {
    "photos": Job("JPEG 500x375 -> 224", "JPEG", 500, 375, 224, 640, ("files", "memory", "pillow", "torch")),
    # As large as a camera's files for their pixels, a third of a byte for each.
    "large": Job("JPEG 2000x1500 -> 224", "JPEG", 2000, 1500, 224, 64,
                 ("files", "pillow", "torch", "files reduced", "pillow reduced", "torch reduced"), quality=75),
    "small": Job("PNG 32x32 -> 32", "PNG", 32, 32, 32, 6400, ("files", "memory", "torch")),
    "shards-photos": Job("JPEG 500x375 -> 224", "JPEG", 500, 375, 224, 1400, ("files", "packed", "torch")),
    "shards-small": Job("PNG 32x32 -> 32", "PNG", 32, 32, 32, 50_000, ("files", "packed", "torch"), batch=128),
}


@dataclass
class Row:
    """A contender's speed in one job and mode: a sample a pass, images/s."""

    job: str
    mode: str
    contender: str
    speeds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.speeds)


def photo(job: Job, seed: int) -> Image.Image:
    """Noise with the spectrum of natural images (amplitude 1/f; Field 1987), in colours that go together."""
    noise = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(job.height)[:, None], np.fft.rfftfreq(job.width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(noise.normal(size=(3, job.height, job.width))) / frequency
    light, red, blue = np.fft.irfft2(spectrum, s=(job.height, job.width))
    pixels = np.stack([light + 0.3 * red, light - 0.15 * red - 0.05 * blue, light + 0.3 * blue], axis=-1)
    return Image.fromarray(np.clip(128 + 55 * pixels / pixels.std(), 0, 255).astype(np.uint8))


def make_folder(job: Job, split: Path) -> None:
    for number in track(range(job.images), f"making {job.title.partition(' ->')[0]}", "images"):
        folder = split / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        options = {"quality": job.quality} if job.format == "JPEG" else {}
        photo(job, number).save(folder / f"{number:05d}.{job.format.lower()}", job.format, **options)


# --- contenders, each in a process of its own: a function that gives the folder's batches, from start to end

def operations(job: Job, mode: str, contender: str) -> list[str]:
    """What ours does to an image."""
    from ms_vit.data.preprocessing import Preprocessing
    from ms_vit.recipe import Augment
    from ms_vit.weights.formats.pretrained import BILINEAR

    if mode == "training":
        texts = Augment().train
    else:
        texts = BILINEAR if contender.startswith("pillow") else Preprocessing(image_size=job.image_size).transforms
    if not contender.endswith(REDUCED):
        return texts
    decode = "Decode(to_pil=True, " if "to_pil" in texts[0] else "Decode("
    return [f"{decode}at_least={job.at_least(mode)})", *texts[1:]]


def ours(contender: str, job: Job, mode: str, split: Path) -> Callable[[], Iterable[Any]]:
    from ms_vit.data.labels import Labels
    from ms_vit.data.pipeline import Batches, numpy_batches
    from ms_vit.data.preprocessing import Preprocessing
    from ms_vit.pack import pack

    if contender == "packed":
        split = pack(split, split.with_name(f"{split.name}-packed-{mode}")).folder
    ids = [f"class{number}" for number in range(CLASSES)]
    preprocessing = Preprocessing(image_size=job.image_size, transforms=operations(job, mode, contender))
    batches = Batches(split, Labels(ids, ids), preprocessing, batch_size=job.batch, training=mode == "training",
                      keep=2**40 if contender == "memory" else 0)
    return lambda: numpy_batches(batches.epoch())


def torchs(contender: str, job: Job, mode: str, split: Path) -> Callable[[], Iterable[Any]]:
    from benchmarks import torch_cpu  # noqa: F401
    from ms_vit.data.images import picture

    # isort: split
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    crop = ([transforms.RandomResizedCrop(job.image_size), transforms.RandomHorizontalFlip()] if mode == "training"
            else [transforms.Resize(int(job.image_size / 0.875)), transforms.CenterCrop(job.image_size)])
    operations = transforms.Compose([*crop, transforms.ToTensor(),
                                     transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    reduced = {"loader": lambda path: picture(Path(path), job.at_least(mode))} if contender.endswith(REDUCED) else {}
    images = datasets.ImageFolder(str(split), operations, **reduced)
    loader = DataLoader(images, batch_size=job.batch, num_workers=cores(),
                        shuffle=mode == "training", drop_last=mode == "training", persistent_workers=True)
    return lambda: loader


def serve(contender: str, job: Job, mode: str, split: Path) -> None:
    """Goes through the folder for each line of stdin, and answers with the images/s; a first pass is a warm-up."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)       # whatever a library prints is no answer
    batches = (torchs if contender.startswith("torch") else ours)(contender, job, mode, split)

    def go() -> int:
        return sum(len(labels) for _, labels in batches())

    go()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        images = go()
        print(images / (time.perf_counter() - began), file=answers, flush=True)


# --- the driver

class Worker:
    """A contender's process. Use it in a `with`, which ends it."""

    def __init__(self, contender: str, job: Job, mode: str, split: Path):
        command = [sys.executable, "-m", "benchmarks.data", "--serve", contender, json.dumps(asdict(job)), mode,
                   str(split)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks.data: a contender ended with {self.process.wait()}; its message is above")
        return line

    def speed(self) -> float:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.answer())

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()      # closes its stdin, which ends it


def measure(name: str, mode: str, split: Path, rounds: int) -> Iterator[Row]:
    """The contenders in turns, in an order drawn anew each round, so that whatever else the machine does hits all."""
    with ExitStack() as stack:
        contenders = JOBS[name].running(mode)
        workers = {who: stack.enter_context(Worker(who, JOBS[name], mode, split)) for who in contenders}
        rows = {who: Row(name, mode, who) for who in contenders}
        for _ in track(range(rounds), f"{name}, {mode}", "rounds"):
            for who in random.sample(contenders, len(contenders)):
                rows[who].speeds.append(workers[who].speed())
    yield from rows.values()


def table(rows: list[Row]) -> list[list[str]]:
    lines = [["job", "mode", "contender", "images/s", "min - max", "x torch"]]
    for row in rows:
        rival = "torch reduced" if row.contender.endswith(REDUCED) else "torch"
        torch = next(other.median for other in rows if (other.job, other.mode, other.contender)
                     == (row.job, row.mode, rival))
        lines.append([JOBS[row.job].title, row.mode, row.contender, f"{row.median:,.0f}",
                      f"{min(row.speeds):,.0f} - {max(row.speeds):,.0f}", f"{row.median / torch:.2f}"])
    return lines


@dataclass
class Pipelines:
    """Its two files are out/name.json and .md."""

    out: Path
    name: str


def data(jobs: str = "photos,large,small", rounds: int = 9, out: Path = RESULTS, name: str | None = None) -> Pipelines:
    """Go through folders of synthetic images with our pipelines and PyTorch's, and print a table.

    Args:
        jobs: which folders, by commas - photos, large, small, shards-photos, shards-small.
        rounds: passes of each contender.
        out: folder of the results.
        name: of the results' files (default: data-DATE).
    """
    names = chosen(jobs, JOBS, "job")
    rows: list[Row] = []
    folders: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for job in names:
            make_folder(JOBS[job], split := Path(temporary, job))
            size = statistics.mean(file.stat().st_size for file in split.rglob("*.*"))
            folders.append(f"{JOBS[job].images:,} {JOBS[job].title.partition(' ->')[0]} of {size / 1000:.0f} kB in "
                           f"batches of {JOBS[job].batch}")
        here = machine()
        for job in names:
            for mode in MODES:
                rows += measure(job, mode, Path(temporary, job), rounds)
    lines = table(rows)
    print(text(lines))
    name = name or f"data-{datetime.date.today()}"
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    record = {"command": f"python -m benchmarks.data --jobs {jobs} --rounds {rounds}", "machine": here,
              "versions": versions, "folders": folders, "rows": [asdict(row) for row in rows]}
    save(out, name, record, f"{versions}; {'; '.join(folders)}; medians of {rounds} passes\n\n{markdown(lines)}")
    return Pipelines(out, name)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--serve"]:
        contender, job, mode, split = argv[1:]
        serve(contender, Job(**json.loads(job)), mode, Path(split))
        return 0
    return cli.run(data, argv, prog="python -m benchmarks.data")


if __name__ == "__main__":
    sys.exit(main())
