"""Which of the processes that train together this one is, and all that follows from it."""

import os
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class World:
    """The processes that train one network: `size` of them, of which this is number `rank`, from 0.

    Whoever has to do with ranks asks here. As it stands, it is the world of a single process, in which nothing is
    exchanged; Processes overrides `gather` and `reducer`. Those, and what is made of them, must be called by all
    processes alike, and each waits for all others there.
    """

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files that there are once: checkpoints, metrics, the recipe."""
        return self.rank == 0

    def slice(self, order: Sequence[int], batch_size: int) -> list[int]:
        """This process's samples of an epoch's whole batches of `batch_size`, which all processes share equally."""
        whole = np.asarray(order, np.int64)[:len(order) // batch_size * batch_size]
        return whole.reshape(-1, self.size, batch_size // self.size)[:, self.rank].reshape(-1).tolist()

    def scatter(self, order: Sequence[int]) -> list[int]:
        """This process's samples of an evaluation: each sample is some process's, whether or not they divide."""
        return list(order)[self.rank::self.size]

    def collect(self, values: np.ndarray, count: int) -> np.ndarray:
        """What came of the samples that `scatter` gave out, in the order before it: [n, ...] -> [count, ...]."""
        missing = -(-count // self.size) - len(values)
        filled = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
        return self.gather(filled).swapaxes(0, 1).reshape(-1, *values.shape[1:])[:count]

    def seed(self, seed: int) -> int:
        """A seed for what each process draws for itself; a single process's is the recipe's own."""
        return seed if self.rank == 0 else int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0])

    def gather(self, values: np.ndarray) -> np.ndarray:
        """What each process brings, by rank, to the bit: [...] -> [size, ...]."""
        return values[None]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, of counts or of losses, in float64 or int64."""
        return self.gather(values).sum(0)

    def most(self, number: int) -> int:
        """The largest number that a process brings: so they agree on a signal to stop, or on a divergence."""
        return int(self.gather(np.array(number, np.int64)).max())

    def wait(self) -> None:
        """Until all are here."""
        self.most(0)

    def neighbours(self) -> int:
        """How many of them are on this machine, this one included."""
        host = np.array(zlib.crc32(socket.gethostname().encode()), np.int64)
        return int((self.gather(host) == host).sum())

    def reducer(self, params: Sequence[Any]) -> Any:
        """A Cell that makes of each process's gradients by `params` their mean, or None where there is no other."""
        return None


class Processes(World):
    """Those that MindSpore's launcher (msrun) has started together, which it connects."""

    def gather(self, values: np.ndarray) -> np.ndarray:
        """As in World; every byte travels as a whole number in float32, which all devices have."""
        import mindspore as ms

        values = np.asarray(values)
        mine = np.frombuffer(values.tobytes(), np.uint8).astype(np.float32)
        everyones = ms.ops.AllGather()(ms.Tensor(mine)).asnumpy()
        return np.frombuffer(everyones.astype(np.uint8).tobytes(), values.dtype).reshape(self.size, *values.shape)

    def reducer(self, params: Sequence[Any]) -> Any:
        from mindspore import nn

        return nn.DistributedGradReducer(params, mean=True, degree=self.size)


def join() -> World:
    """The world that this process is of: several where msrun started it, else itself alone.

    It comes ahead of all that MindSpore does. Waits until all processes have come. The launcher's scheduler, which runs
    the same program, stays in here until they are gone.
    """
    if os.environ.get("MS_ROLE") not in ("MS_WORKER", "MS_SCHED"):
        return World()
    import mindspore as ms

    ms.communication.init()
    world = Processes(ms.communication.get_rank(), ms.communication.get_group_size())
    share_cores(world)
    return world


def share_cores(world: World) -> None:
    """Has the processes of a machine work on cores of their own, as many each, unless whoever started them did so."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    mine = zlib.crc32(f"{socket.gethostname()} {cores}".encode())
    alike = np.flatnonzero(world.gather(np.array(mine)) == mine).tolist()       # ranks
    each = len(cores) // len(alike)
    if each:
        begin = alike.index(world.rank) * each
        os.sched_setaffinity(0, cores[begin:begin + each])
