"""Folder -> batches: [B, 3, H, W] float32 and labels [B] int32, by mindspore.dataset."""

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
from ms_vit.data.transforms import Preprocessing
from ms_vit.device import cpu_count
from ms_vit.errors import DataError


def folder_pipeline(split: Path, labels: Labels, preprocessing: Preprocessing, *, batch_size: int, training: bool,
                    seed: int = 0, workers: int | None = None) -> ds.Dataset:
    """Batches of every image below `split`, which holds one folder a class, named by an id or a name of `labels`.

    Training shuffles and leaves out an incomplete last batch; evaluation keeps the order and the last, smaller batch.
    The same seed and the same number of workers give bitwise the same batches.

    Raises DataError where a folder is no class of `labels`, or there are too few images for one batch.
    """
    count = count_images(split, labels)
    if training and count < batch_size:
        raise DataError(f"{split} has {count} images, fewer than one batch of {batch_size}; set train.batch_size lower")
    workers = workers or cpu_count()
    ds.config.set_seed(seed)
    images = ds.ImageFolderDataset(str(split), shuffle=training, num_parallel_workers=workers,
                                   extensions=list(extensions()),
                                   class_indexing=labels.index)
    images = images.map(preprocessing.operations(), "image", num_parallel_workers=workers)
    images = images.map(transforms.TypeCast(ms.int32), "label", num_parallel_workers=1)
    return images.batch(batch_size, drop_remainder=training, num_parallel_workers=1)


def numpy_batches(pipeline: ds.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through a pipeline once."""
    iterator = pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True)
    interruptible()
    return iterator


def interruptible() -> None:
    """Gives signals back to Python: each new iterator of mindspore.dataset has its own handlers kill the process."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.getsignal(number))


def extensions() -> list[str]:
    """Endings that MindSpore is to take, in both the cases that cameras write."""
    return [*IMAGE_EXTENSIONS, *(ending.upper() for ending in IMAGE_EXTENSIONS)]


def count_images(split: Path, labels: Labels) -> int:
    """Images below `split`; every class folder must be one of `labels`."""
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
    count = sum(map(len, classes.values()))
    if not count:
        raise DataError(f"{split} holds no images below a class folder ({', '.join(IMAGE_EXTENSIONS)})")
    return count
