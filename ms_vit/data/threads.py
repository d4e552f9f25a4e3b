"""The same done to many files, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ms_vit.progress import track

T = TypeVar("T")
R = TypeVar("R")
BATCH = 1024  # a pool keeps a future for each item it was given, and ImageNet has more than a million


def each(function: Callable[[T], R], items: Sequence[T], title: str, unit: str) -> Iterator[R]:
    """function(item) for each item, in order, with progress.

    Threads, since the work (reading, hashing, decoding) lets go of the interpreter.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        batches = (pool.map(function, items[start:start + BATCH]) for start in range(0, len(items), BATCH))
        yield from track((result for batch in batches for result in batch), title, unit, total=len(items))
