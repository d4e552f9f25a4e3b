"""Decoded images in memory: how many fit, and the source that keeps them."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_vit.data.stores import Store
from ms_vit.errors import DataError

SHARE = 4       # a folder's images may take one part in four of the memory: training and validation are half of it
SAMPLE = 32     # images that are decoded to judge the size of all


class ImageCache:
    """Images that are made once and then kept: a source for GeneratorDataset, kept[i] -> (image, label).

    made: gives the images' rows, in `order` (indices below `count`). It is asked for the next one whenever an image is
    wanted that isn't there yet; so it works ahead of a first epoch in that order, and any other order gets its images,
    too, only with a wait for those before them.
    """

    def __init__(self, made: Iterator[tuple[np.ndarray, np.ndarray]], order: Sequence[int], count: int):
        self.coming = zip(order, made, strict=True)
        self.rows: list[tuple[np.ndarray, np.ndarray] | None] = [None] * count
        self.lock = threading.Lock()        # two pipelines on their way through may want the same image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        with self.lock:
            while (row := self.rows[index]) is None:
                at, made = next(self.coming)
                self.rows[at] = made
        return row


def size_in_memory(store: Store, rows: Sequence[int], operations: list[Any]) -> int:
    """Bytes that the pixels of all these rows take after `operations`, judged by some of them, evenly spread.

    Raises DataError where one of these can't be decoded.
    """
    sample = rows[::-(-len(rows) // SAMPLE)]
    total = 0
    for row in sample:
        try:
            with store.open(row) as file:
                pixels: Any = np.frombuffer(file.read(), np.uint8)
            for operation in operations:
                pixels = operation(pixels)
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise DataError(f"{store.folder / store.names[row]} can't be decoded; \"ms-vit check\" finds all such "
                            "files") from error
        total += np.asarray(pixels).nbytes
    return total * len(rows) // len(sample)


def memory_share(root: Path = Path("/")) -> int:
    """Bytes that the decoded images of one folder may take.

    A share of all the memory that this process may use: the machine's, or less where its control group (container)
    says so. Not of what happens to be free: the same command is to make the same choice each time.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):       # version 2 of control groups, or version 1
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            mount = root / "sys/fs/cgroup" / controllers
            place = mount / group.lstrip("/")
            for folder in (place, *place.parents):      # a group has no more than those around it
                file = folder / name
                if folder.is_relative_to(mount) and file.is_file() and (text := file.read_text().strip()).isdigit():
                    limits.append(int(text))
    return min(limits) // SHARE
