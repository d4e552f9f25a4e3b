"""A network's call from Python, without what MindSpore does beside it."""

import contextlib
import ctypes
import sys

from mindspore import nn


class TopCell(nn.Cell):
    """A Cell to be called from Python, many times.

    In each call MindSpore (2.7 to 2.10) tells the phase to every cell below the one that is called, one by one: 2 ms
    for a ViT of 12 blocks. Only the one that is called needs to know. And what compiling took goes back to the system
    before the graph runs: 40 MB for such a ViT's training step. And where graphs are cached, an `import sys` in the
    program that was started has compiling bring back what `sys` held as Python began, its streams and hooks: a
    notebook's cells would no longer end, or show what they come to. Here `sys` stays what it was.
    """

    @property
    def compile_phase(self) -> str:
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, phase: str) -> None:
        self._compile_phase = phase

    def compile(self, *args, **kwargs) -> None:
        graphs, before = len(self.compile_cache), dict(vars(sys))
        try:
            super().compile(*args, **kwargs)
        finally:
            vars(sys).update(before)
        if len(self.compile_cache) > graphs:
            with contextlib.suppress(AttributeError):       # not every C library has it
                ctypes.CDLL(None).malloc_trim(0)
