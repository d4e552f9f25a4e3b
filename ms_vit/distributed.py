"""Which of the processes that train together this one is, and all that follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class World:
    """The processes that train one network: `size` of them, of which this is number `rank`, from 0.

    Whoever has to do with ranks asks here. As it stands, it is the world of a single process, in which nothing is
    exchanged; one of several overrides `sum`, `most` and `reducer`, which must be called by all its processes alike.
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

    def seed(self, seed: int) -> int:
        """A seed for what each process draws for itself; a single process's is the recipe's own."""
        return seed if self.rank == 0 else int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0])

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, of counts or of losses, in float64 or int64."""
        return values

    def most(self, number: int) -> int:
        """The largest number that a process brings: so they agree on a signal to stop, or on a divergence."""
        return number

    def reducer(self, params: Sequence[Any]) -> Any:
        """A Cell that makes of each process's gradients by `params` their mean, or None where there is no other."""
        return None
