"""The learning rate of every step: the schedules that recipes name."""

from collections.abc import Callable

import numpy as np

from ms_vit.recipe import Schedule
from ms_vit.registry import Registry

# Builds the rates [epochs * steps_per_epoch] of the highest rate, epochs, steps_per_epoch, and the recipe's section.
schedules: Registry[Callable[[float, int, int, Schedule], np.ndarray]] = Registry("schedule")


def warmup_cosine(base_lr: float, *, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0.0,
                  min_lr: float = 0.0, per_epoch: bool = False) -> np.ndarray:
    """Learning rates [epochs * steps_per_epoch], float32: warm-up, then half a cosine (Loshchilov & Hutter 2017).

    The warm-up rises from base_lr / n to base_lr in its n steps; the cosine falls from base_lr and would reach min_lr
    one step after the last. With `per_epoch` the rate changes between epochs only.
    """
    steps = np.arange(epochs * steps_per_epoch)
    if per_epoch:
        steps = steps // steps_per_epoch * steps_per_epoch
    total, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
    progress = (steps - warmup) / max(total - warmup, 1)
    cosine = min_lr + (base_lr - min_lr) * 0.5 * (1 + np.cos(np.pi * np.clip(progress, 0, 1)))
    rise = base_lr * (steps + 1) / max(warmup, 1)
    return np.where(steps < warmup, rise, cosine).astype(np.float32)


@schedules.register("cosine")
def cosine(lr: float, epochs: int, steps_per_epoch: int, settings: Schedule) -> np.ndarray:
    """A linear warm-up, then a cosine."""
    return warmup_cosine(lr, epochs=epochs, steps_per_epoch=steps_per_epoch, warmup_epochs=settings.warmup_epochs,
                         min_lr=settings.min_lr, per_epoch=settings.per_epoch)
