"""When a run can't go on: loss or gradient are no numbers, or the loss stays far above its running level."""

import math

from ms_vit.runs.checkpoints import TrainState


class Diverged(Exception):
    """The run can't go on from here; the argument says why."""


class Divergence:
    """Judges a run step by step. chance: the loss of guessing.

    Far is more than half of it above the running level, or more than half of that if it is higher.
    """

    PATIENCE = 3        # steps: one batch alone may be hard
    OVERFLOWS = 24      # steps one after the other: then the loss's scale has long been 1
    MEMORY = 0.98       # of the running level, about 50 steps

    def __init__(self, chance: float):
        self.chance = chance
        self.above = self.overflows = 0

    def judge(self, state: TrainState, loss: float, norm: float | None) -> None:
        """Raises Diverged where the step with this loss and norm of the gradients is one too many.

        norm: None for a step that was left out, since its gradients overflowed float16.
        """
        self.overflows = self.overflows + 1 if norm is None else 0
        if self.overflows >= self.OVERFLOWS:
            raise Diverged(f"the gradients of {self.overflows} steps in a row overflowed float16")
        if not math.isfinite(loss) or not math.isfinite(norm or 0):
            raise Diverged(f"the loss is {loss:.4g}, the gradients' norm {norm or math.inf:.4g}")
        level = state.loss_level or loss
        self.above = self.above + 1 if loss > level + max(level, self.chance) / 2 else 0
        if self.above >= self.PATIENCE:
            raise Diverged(f"the loss is {loss:.4g}, and was about {level:.4g} before")
        state.loss_level = self.MEMORY * level + (1 - self.MEMORY) * loss
