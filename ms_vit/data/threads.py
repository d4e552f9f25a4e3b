"""The same done to many files, several at a time."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ms_vit.device import cpu_count
from ms_vit.progress import track

T = TypeVar("T")
R = TypeVar("R")
TASK = 16  # items that a thread takes at once: handing one over costs as much as hashing a small image
AHEAD = 4  # tasks for each thread that wait for it or to be taken: ImageNet has more than a million items


@contextlib.contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core; at the end, or after a Ctrl-C, what none of them has begun is dropped."""
    pool = ThreadPoolExecutor(cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def parallel_map(function: Callable[[T], R], items: Sequence[T], title: str, unit: str) -> Iterator[R]:
    """function(item) for each item, in order, with progress.

    Threads, since the work (reading, hashing, decoding) lets go of the interpreter.
    """
    threads = cpu_count()
    size = min(TASK, 1 + len(items) // (TASK * threads))  # of a few items, which may be large, each has its share
    tasks = (items[start:start + size] for start in range(0, len(items), size))
    with thread_pool() as pool:
        results = in_order(pool, lambda task: [function(item) for item in task], tasks, AHEAD * threads)
        yield from track((result for task in results for result in task), title, unit, total=len(items))


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """function(item) for each item; never more than `ahead` are handed to the pool."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
