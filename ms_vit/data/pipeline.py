"""Folder -> batches: [B, 3, H, W] float32 and labels [B] int32, by mindspore.dataset."""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import transforms

from ms_vit.data.folder import IMAGE_EXTENSIONS, scan
from ms_vit.data.labels import Labels
from ms_vit.data.memory import Kept, size_in_memory
from ms_vit.data.transforms import Preprocessing
from ms_vit.device import cpu_count
from ms_vit.errors import DataError
from ms_vit.progress import say

# Batches (and images, on their way into one) that lie ready before the step asks for them. MindSpore's 16 would hold
# 16 batches: 154 MB of 16 x 3 x 224 x 224 floats, 1.2 GB of 128. Four bridge a slow file, and any more gain nothing.
READY = 4


def folder_pipeline(split: Path, labels: Labels, preprocessing: Preprocessing, *, batch_size: int, training: bool,
                    seed: int = 0, workers: int | None = None, keep: int = 0) -> ds.Dataset:
    """Batches of every image below `split`, which holds one folder a class, named by an id or a name of `labels`.

    Training shuffles and leaves out an incomplete last batch; evaluation keeps the order and the last, smaller batch.
    The same seed and the same number of workers give bitwise the same batches.

    keep: bytes of memory that decoded images may take. Where they fit, the first epoch keeps them for those after it;
    evaluation's batches are bitwise the same then, and training's but for what RandomCropDecodeResize makes of a JPEG
    at the very edges of its crop.

    Raises DataError where a folder is no class of `labels`, or there are too few images for one batch.
    """
    files = images_below(split, labels)
    count = len(files)
    if training and count < batch_size:
        raise DataError(f"{split} has {count} images, fewer than one batch of {batch_size}; set train.batch_size lower")
    workers = workers or cpu_count()
    ds.config.set_seed(seed)
    ds.config.set_prefetch_size(READY)

    def files_by(sampler: ds.Sampler) -> ds.Dataset:
        return ds.ImageFolderDataset(str(split), sampler=sampler, num_parallel_workers=workers,
                                     extensions=list(extensions()), class_indexing=labels.index)

    order = Order(count, seed if training else None)
    once, each = preprocessing.split()
    size = size_in_memory(files, once.operations()) if keep and once.transforms else 0
    if 0 < size <= keep:
        say(f"{split}: {count:,} decoded images stay in memory, {size / 1e6:,.1f} MB")
        first = order.indices(order.epoch)
        decoded = files_by(ds.SubsetSampler(first)).map(once.operations(), "image", num_parallel_workers=workers)
        # One thread: all that is left to do in Python is to hand an array on.
        images = ds.GeneratorDataset(Kept(numpy_batches(decoded), first), ["image", "label"], sampler=order,
                                     num_parallel_workers=1, python_multiprocessing=False)
        preprocessing = each
    else:
        images = files_by(order)
    images = images.map(preprocessing.operations(), "image", num_parallel_workers=workers)
    images = images.map(transforms.TypeCast(ms.int32), "label", num_parallel_workers=1)
    return images.batch(batch_size, drop_remainder=training, num_parallel_workers=1)


class Order(ds.Sampler):
    """Every one of `count` images once an epoch: with a seed in an order that follows from it and the epoch alone.

    Each iterator of mindspore.dataset goes through a copy of it, from `epoch` on.
    """

    def __init__(self, count: int, seed: int | None, epoch: int = 0):
        super().__init__(count)
        self.count = count
        self.seed = seed
        self.epoch = epoch

    def indices(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(self.count))
        return np.random.default_rng((self.seed, epoch)).permutation(self.count).tolist()

    def __iter__(self) -> Iterator[int]:
        indices = self.indices(self.epoch)
        self.epoch += 1
        return iter(indices)


def numpy_batches(pipeline: ds.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through a pipeline once."""
    iterator = pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True)
    interruptible()
    return iterator


@contextlib.contextmanager
def naming_bad_images() -> Iterator[None]:
    """Raises DataError with the file's name where MindSpore's pipeline, run inside, can't decode an image."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"corresponding data file is: (.+?)\. \w+:", str(error))
        if not found:
            raise
        raise DataError(f'{found[1]} can\'t be decoded; remove it ("ms-vit check" finds all such files)') from error


def interruptible() -> None:
    """Gives signals back to Python: each new iterator of mindspore.dataset has its own handlers kill the process."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.getsignal(number))


def extensions() -> list[str]:
    """Endings that MindSpore is to take, in both the cases that cameras write."""
    return [*IMAGE_EXTENSIONS, *(ending.upper() for ending in IMAGE_EXTENSIONS)]


def images_below(split: Path, labels: Labels) -> list[Path]:
    """The image files of every class folder of `split`; each folder must be one of `labels`."""
    if not split.is_dir():
        raise DataError(f"{split} is not there; a data folder holds {split.name}/CLASS/IMAGE files")
    classes = scan(split)
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
