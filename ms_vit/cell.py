"""A network's call without a walk through all its cells."""

from mindspore import nn


class TopCell(nn.Cell):
    """A Cell to be called from Python, many times.

    In each call MindSpore (2.7 to 2.10) tells the phase to every cell below the one that is called, one by one: 2 ms
    for a ViT of 12 blocks. Only the one that is called needs to know.
    """

    @property
    def compile_phase(self) -> str:
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, phase: str) -> None:
        self._compile_phase = phase
