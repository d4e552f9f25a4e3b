"""What training comes to; on its own, so that the command line needn't import MindSpore to name it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Training:
    """What a run came to: its folder, its optimiser steps, its speed, its best validation top-1.

    data_wait: the share of the training time, from 0 to 1, that was spent waiting for data. seconds: that the training
    took, in all the processes that it went on in. parameters: of the network. precision: of its matrix products.
    """

    run: Path
    steps: int
    images_per_second: float
    best: float
    data_wait: float
    seconds: float
    parameters: int
    precision: str
