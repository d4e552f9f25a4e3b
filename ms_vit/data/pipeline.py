"""Folder -> batches: [B, C, H, W] float32 and labels [B] int32, by mindspore.dataset."""

import contextlib
import copy
import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import transforms
from PIL import Image

from ms_vit.data.decoding import for_jpegs
from ms_vit.data.folder import IMAGE_EXTENSIONS, JPEG_EXTENSIONS
from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
from ms_vit.data.memory import ImageCache, size_in_memory
from ms_vit.data.operations import draws_in_python
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.data.stores import SHARD
from ms_vit.device import cpu_count
from ms_vit.distributed import World
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say

# Batches (and images, on their way into one) that lie ready before the step asks for them. MindSpore's 16 would hold
# 16 batches: 154 MB of 16 x 3 x 224 x 224 floats, 1.2 GB of 128. Four bridge a slow file, and any more gain nothing.
READY = 4
SINGLE = World()
FLIPS = 1 << 32         # beside any epoch, so that an image's first flip and an order are drawn apart
# How its errors name an image: "The corresponding data file is: a.jpg. Decode: ...", "Failed to open file: a.jpg".
ENDINGS = "|".join(map(re.escape, (*IMAGE_EXTENSIONS, SHARD)))
NAMED = re.compile(rf"file(?: is| found)?: (.+?(?:{ENDINGS}))(?=[.,]?\s|$)", re.IGNORECASE)


class Batches:
    """Batches of every image of `split`, which holds one folder a class, named by an id or a name of `labels`.

    Training shuffles and leaves out an incomplete last batch; evaluation keeps the order and the last, smaller batch.
    Order and augmentation of an epoch follow from the seed, the epoch and the number of workers alone, to the bit.

    split: a part of a folder, or, by its path, all of it.
    batch_size: images a step, of all processes of `world` together. Each process gets its own part of each batch of
    training, so that all parts are the batch that a single process would get, and its own images of an evaluation, in
    batches of the same size, so that each image is one process's.
    keep: bytes of memory that decoded images may take in all processes. Where they fit, the first epoch keeps them for
    those after it; evaluation's batches are bitwise the same then, and training's but for what RandomCropDecodeResize
    makes of a JPEG at the very edges of its crop.
    leave_out: files that are passed over.
    repeats: how often an image comes in a row, augmented anew each time (Hoffer et al. 2020); an epoch is as long as
    ever, and sees the fewer images.
    alternate_flip: each image is mirrored in every other epoch, the first by chance (Jordan 2024, sec. 3.6).

    Raises DataError where a folder is no class of `labels`, or there are too few images for one batch, and UsageError
    where the processes can't share a batch equally.
    """

    def __init__(self, split: Split | Path, labels: Labels, preprocessing: Preprocessing, *, batch_size: int,
                 training: bool, seed: int = 0, workers: int | None = None, keep: int = 0,
                 leave_out: Collection[Path] = (), world: World = SINGLE, repeats: int = 1,
                 alternate_flip: bool = False):
        self.split = split = split if isinstance(split, Split) else Split(split)
        self.folder = split.folder
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.workers = workers or cpu_count()
        self.world = world
        self.repeats = repeats
        self.alternate_flip = alternate_flip
        if batch_size % world.size:
            raise UsageError(f"{world.size} processes can't share batches of {batch_size} images equally; set "
                             f"train.batch_size to a multiple of {world.size}")
        self.own_batch_size = batch_size // world.size
        wanted = set(images_of_split(split, labels)) - set(leave_out)
        self.store = split.store()
        self.class_index = {name: labels.index[name] for name in self.store.classes()}
        self.names = self.store.names
        self.files = [self.folder / name for name in self.names]
        self.taken = np.array([index for index, file in enumerate(self.files) if file in wanted], np.int64)
        if not len(self.taken):
            raise DataError(f"none of the images in {split} can be read; replace them")
        if training and len(self.taken) < batch_size:
            raise DataError(f"{split} has {len(self.taken)} images, fewer than one batch of {batch_size}; "
                            "set train.batch_size lower")
        if not training and len(self.taken) < world.size:
            raise DataError(f"{split} has {len(self.taken)} images, fewer than there are processes, {world.size}; "
                            "start fewer")
        self.whole = preprocessing
        self.cacheable, self.per_epoch = preprocessing.split()
        # Training's order gives a process any of the images, sooner or later; evaluation's always the same ones.
        held = self.taken.tolist() * world.size if training else self.taken.tolist()
        size = size_in_memory(self.store, held, self.cacheable.operations()) \
            if keep and self.cacheable.transforms else 0
        self.fit = 0 < size <= keep
        self.cache: ImageCache | None = None
        if self.fit and world.writes:
            say(f"{split}: {len(self):,} decoded images stay in memory, {size / 1e6:,.1f} MB")

    def __len__(self) -> int:
        """Images, of all processes."""
        return len(self.taken)

    @property
    def steps(self) -> int:
        """Batches of an epoch: in training all processes' common ones, in evaluation this process's own."""
        if self.training:
            return len(self) // self.batch_size
        return -(-len(self.world.scatter(self.taken.tolist())) // self.own_batch_size)

    @property
    def taken_names(self) -> list[str]:
        """CLASS/NAME of each image; an evaluation of all processes together goes in this order."""
        return [self.names[index] for index in self.taken]

    @property
    def fingerprint(self) -> str:
        """A hash of the images' names."""
        names = "\n".join(self.taken_names)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]

    def order(self, epoch: int) -> list[int]:
        """Which of `files` come in an epoch, one after the other, in all processes."""
        if not self.training:
            return self.taken.tolist()
        shuffled = self.taken[np.random.default_rng((self.seed, epoch)).permutation(len(self))]
        return np.repeat(shuffled, self.repeats)[:len(self)].tolist()

    def mirrored(self, order: list[int], epoch: int) -> np.ndarray:
        """Which of these images alternate_flip mirrors in an epoch, [n] bool."""
        hidden = np.array([name.rpartition("/")[2].startswith(".") for name in self.names])
        places = np.cumsum(~hidden) - 1         # in the folder without hidden files, as it is packed
        first = np.random.default_rng((self.seed, FLIPS)).integers(0, 2, len(places) - hidden.sum())
        return (first[places[order]] + epoch) % 2 == 1

    def own_order(self, epoch: int) -> list[int]:
        """Which of them are this process's."""
        order = self.order(epoch)
        if self.world.size == 1:
            return order        # with the incomplete batch, which goes only once it is made
        return self.world.slice(order, self.batch_size) if self.training else self.world.scatter(order)

    def files_of(self, epoch: int, batch: int) -> list[Path]:
        """The images of one batch, in all processes."""
        start = batch * self.batch_size
        return [self.files[index] for index in self.order(epoch)[start:start + self.batch_size]]

    def epoch(self, epoch: int = 0, *, skip: int = 0, batches: int | None = None) -> ds.Dataset:
        """A pipeline of this process's batches of one epoch, but for the first `skip`; to be gone through at once.

        batches: those alone that an epoch begins with, so many.
        What is skipped is made all the same, and dropped: random operations can't be told to draw as if it had been.
        """
        order = self.own_order(epoch)[:batches and batches * self.own_batch_size]
        # Each epoch has a seed of its own, which its random operations take when they are made, now.
        seed = self.world.seed(self.seed)
        ds.config.set_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
        ds.config.set_prefetch_size(READY)
        images = self.from_memory(order) if self.fit else self.from_store(order)
        operations = self.per_epoch.operations() if self.fit else self.from_file(self.whole)
        workers = 1 if draws_in_python(operations) else self.workers
        images = images.map(operations, "image", num_parallel_workers=workers)
        images = images.map(transforms.TypeCast(ms.int32), "label", num_parallel_workers=1)
        if self.alternate_flip:
            flips = ds.NumpySlicesDataset(self.mirrored(order, epoch), ["flip"], shuffle=False, num_parallel_workers=1)
            images = ds.zip((images, flips))
        images = images.batch(self.own_batch_size, drop_remainder=self.training, num_parallel_workers=1)
        if self.alternate_flip:
            images = images.map(mirror, ["image", "flip"], ["image"], num_parallel_workers=1)
            images = images.project(["image", "label"])
        return images.skip(skip) if skip else images

    def pictures(self, epoch: int = 0, most: int = 16) -> list[tuple[Image.Image, int]]:
        """The first images of an epoch as they are augmented, as the network sees them, and their labels."""
        apart = copy.copy(self)
        apart.fit = False       # the images in memory come in an epoch's order
        (images, labels), = numpy_batches(apart.epoch(epoch, batches=1))
        return [(self.whole.view(image), label) for image, label in zip(images[:most], labels.tolist(), strict=False)]

    def from_store(self, order: list[int]) -> ds.Dataset:
        return self.store.dataset(order, self.class_index, self.workers)

    def from_file(self, preprocessing: Preprocessing) -> list[Any]:
        """The operations that begin with a file's bytes, in the form that is fast on most of these files."""
        jpegs = sum(file.suffix.lower() in JPEG_EXTENSIONS for file in self.files)
        operations = preprocessing.operations()
        return for_jpegs(operations) if 2 * jpegs > len(self.files) else operations

    def from_memory(self, order: list[int]) -> ds.Dataset:
        if self.cache is None:
            # After this epoch's images come those that other processes have now, and this one may in a later epoch.
            later = sorted(set(self.taken.tolist()) - set(order)) if self.training else []
            once = [*dict.fromkeys(order), *later]
            decoded = self.from_store(once).map(self.from_file(self.cacheable), "image",
                                                num_parallel_workers=self.workers)
            self.cache = ImageCache(numpy_batches(decoded), once, len(self.files))
        # One thread: all that is left to do in Python is to hand an array on.
        return ds.GeneratorDataset(self.cache, ["image", "label"], sampler=ds.SubsetSampler(order),
                                   num_parallel_workers=1, python_multiprocessing=False)


def mirror(images: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """Images [B, C, H, W] of which those with `flip`, [B] bool, are mirrored."""
    return np.where(flip[:, None, None, None], images[..., ::-1], images)


def numpy_batches(pipeline: ds.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through a pipeline once."""
    return pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True)


@contextlib.contextmanager
def naming_bad_images() -> Iterator[None]:
    """Raises DataError with the file's name where MindSpore's pipeline, run inside, can't read or decode an image."""
    try:
        yield
    except RuntimeError as error:
        if not (found := NAMED.search(str(error))):
            raise
        if found[1].endswith(SHARD):
            # It names the first shard, whichever the image is in.
            raise DataError(f"an image in {Path(found[1]).parent} can't be decoded, so a shard is damaged; \"ms-vit "
                            "check\" finds the shard") from error
        raise DataError(f'{found[1]} can\'t be decoded; remove it ("ms-vit check" finds all such files)') from error


def images_of_split(split: Split, labels: Labels) -> list[Path]:
    """The image files of every class folder of `split`; each folder must be one of `labels`."""
    folder = split.folder
    if not folder.is_dir():
        raise DataError(f"{folder} is not there; a data folder holds {folder.name}/CLASS/IMAGE files")
    classes = split.images()
    known = labels.index
    unknown = [name for name in classes if name not in known]
    if unknown:
        listed = ", ".join(f'"{name}" ({len(classes[name])} images)' for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(f"{split} has classes that the model lacks: {listed}{more}. "
                        "Remove these folders or train with them in train/")
    files = [file for images in classes.values() for file in images]
    if not files:
        raise DataError(f"{split} holds no images below a class folder ({', '.join(IMAGE_EXTENSIONS)})")
    return files
