"""A network's call from Python, without what MindSpore does beside it."""

import contextlib
import ctypes
import sys

from mindspore import nn


class TopCell(nn.Cell):
    """A Cell to be called from Python, many times.

    In each call MindSpore (2.7 to 2.10) tells the phase to every cell below the one that is called, one by one: 2 ms
    for a ViT of 12 blocks. Only the one that is called needs to know. And what compiling took goes back to the system
    before the graph runs: 40 MB for such a ViT's training step. And where graphs are cached, compiling puts another
    stream in the place of sys.stderr, after which a notebook's cells don't end; here sys.stderr stays what it was.
    """

    @property
    def compile_phase(self) -> str:
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, phase: str) -> None:
        self._compile_phase = phase

    def compile(self, *args, **kwargs) -> None:
        graphs, stderr = len(self.compile_cache), sys.stderr
        try:
            super().compile(*args, **kwargs)
        finally:
            sys.stderr = stderr
        if len(self.compile_cache) > graphs:
            with contextlib.suppress(AttributeError):       # not every C library has it
                ctypes.CDLL(None).malloc_trim(0)
