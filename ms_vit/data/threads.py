"""The same done to many files, several at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ms_vit.device import cpu_count
from ms_vit.progress import track

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 1024  # items that wait for a thread or to be taken: ImageNet has more than a million


def each(function: Callable[[T], R], items: Sequence[T], title: str, unit: str) -> Iterator[R]:
    """function(item) for each item, in order, with progress.

    Threads, since the work (reading, hashing, decoding) lets go of the interpreter.
    """
    pool = ThreadPoolExecutor(cpu_count())
    try:
        yield from track(in_order(pool, function, items), title, unit, total=len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # after a Ctrl-C nobody wants what is still to be done


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
