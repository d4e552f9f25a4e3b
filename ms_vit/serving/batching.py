"""Pictures that come together go through the network together."""

import asyncio
import contextlib
import io
import threading
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ms_vit import limits
from ms_vit.data.threads import thread_pool
from ms_vit.device import cpu_count
from ms_vit.errors import DataError
from ms_vit.inference.predictor import Predictor

# Pillow reads thirty formats more, whose readers few programs use: no place for a stranger's bytes.
TYPES = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM")
GATHER_SECONDS = 0.005      # that a batch waits for pictures which are just being decoded


class UnknownType(DataError):
    """A picture is of none of TYPES."""


Then = Callable[[np.ndarray, np.ndarray], str]      # a prepared picture and its logits -> something more


class Batches:
    """Logits for pictures that come one by one, from many sides: `await batches(file, name)`, inside of `running()`.

    Each picture is decoded in a thread of a pool, and waits there for its batch; the network runs in one thread, a
    batch after the other. A batch is what has been decoded while the one before it ran, up to predictor.batch_size; one
    that isn't full waits a moment for those that are being decoded, so that a picture which is alone waits for nobody.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.answered = 0
        self.decoding = 0
        self.ready: deque[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = deque()
        self.changed = asyncio.Event()
        self.room = asyncio.Semaphore(2 * predictor.batch_size + cpu_count())       # for decoded pictures in memory
        self.large = threading.Lock()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers are given inside; what is under way at the end is no longer."""
        with thread_pool() as self.decoders, ThreadPoolExecutor(1) as self.network:
            await asyncio.get_running_loop().run_in_executor(self.network, self.warm_up)
            task = asyncio.create_task(self.run())
            try:
                yield
            finally:
                task.cancel()

    def warm_up(self) -> None:
        """What the first batch would have to wait for: graphs are compiled for one picture, and for many."""
        blank = self.predictor.prepare(Image.new("RGB", (64, 64)))
        for count in (1, self.predictor.batch_size):
            self.predictor.logits(np.stack([blank] * count))

    async def __call__(self, file: BinaryIO, name: str, then: Then | None = None) -> tuple[np.ndarray, str | None]:
        """A picture's logits, [num_classes], and what `then`, in the network's thread, makes of it.

        Raises UnknownType, or DataError, which calls the picture by its name.
        """
        loop = asyncio.get_running_loop()
        async with self.room:
            self.decoding += 1
            try:
                prepared = await loop.run_in_executor(self.decoders, self.prepare, file, name)
            finally:
                self.decoding -= 1
                self.changed.set()
            answer: asyncio.Future[np.ndarray] = loop.create_future()
            self.ready.append((prepared, answer))
            logits = await answer
            return logits, await loop.run_in_executor(self.network, then, prepared, logits) if then else None

    def prepare(self, file: BinaryIO, name: str) -> np.ndarray:
        """A picture as the network wants it, [C, H, W] float32. Raises as __call__."""
        content = io.BytesIO(file.read())
        with self.large if pixels(content, name) > limits.LARGE_PIXELS else contextlib.nullcontext():
            return self.predictor.prepare(self.predictor.read(content, name))

    async def run(self) -> None:
        """A batch after the other, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self.gather()
            batch = [self.ready.popleft() for _ in range(min(len(self.ready), self.predictor.batch_size))]
            rows: Sequence[np.ndarray | Exception]
            try:
                images = np.stack([prepared for prepared, _ in batch])
                rows = list(await loop.run_in_executor(self.network, self.predictor.logits, images))
            except Exception as error:      # of an engine, for want of memory: the next batch may well be answered
                rows = [error] * len(batch)
            for (_, answer), row in zip(batch, rows, strict=True):
                if answer.cancelled():      # its request was given up
                    continue
                if isinstance(row, Exception):
                    answer.set_exception(row)
                else:
                    answer.set_result(row)
                    self.answered += 1

    async def gather(self) -> None:
        """Returns once there is a batch: a full one, or what there is and nothing else in time."""
        loop = asyncio.get_running_loop()
        while not self.ready:
            self.changed.clear()
            await self.changed.wait()
        end = loop.time() + GATHER_SECONDS
        while self.decoding and len(self.ready) < self.predictor.batch_size and loop.time() < end:
            self.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait(), end - loop.time())


def pixels(file: BinaryIO, name: str) -> int:
    """How many a picture claims to have; 0 where it is damaged, which its reader tells. Raises UnknownType."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=TYPES)
    except UnidentifiedImageError as error:
        raise UnknownType(f"{name} is of none of these types: {', '.join(TYPES)}") from error
    except Exception:       # a bomb, too
        return 0
    finally:
        file.seek(0)
    return image.width * image.height
