"""The learning rate of every step: the schedules that recipes name."""

from collections.abc import Callable

import numpy as np

from ms_vit.recipe import Schedule
from ms_vit.registry import Registry

# Builds the rates [epochs * steps_per_epoch] of the highest rate, epochs, steps_per_epoch, and the recipe's section.
schedules: Registry[Callable[[float, int, int, Schedule], np.ndarray]] = Registry("schedule")


def warmed_up(base_lr: float, epochs: int, steps_per_epoch: int, settings: Schedule,
              after: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Learning rates [epochs * steps_per_epoch], float32: a linear warm-up, and what comes after it.

    The warm-up rises from base_lr / n to base_lr in its n steps. `after` makes rates of the share of what follows it
    that is over, from 0 to below 1, and of the epochs since the run's begin; both [steps]. With `per_epoch` the rate
    changes between epochs only.
    """
    steps = np.arange(epochs * steps_per_epoch)
    if settings.per_epoch:
        steps = steps // steps_per_epoch * steps_per_epoch
    total, warmup = epochs * steps_per_epoch, round(settings.warmup_epochs * steps_per_epoch)
    progress = np.clip((steps - warmup) / max(total - warmup, 1), 0, 1)
    rise = base_lr * (steps + 1) / max(warmup, 1)
    return np.where(steps < warmup, rise, after(progress, steps / steps_per_epoch)).astype(np.float32)


@schedules.register("cosine")
def cosine(lr: float, epochs: int, steps_per_epoch: int, settings: Schedule) -> np.ndarray:
    """Half a cosine (Loshchilov & Hutter 2017) from lr, which would reach min_lr one step after the last."""
    def after(progress: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        return settings.min_lr + (lr - settings.min_lr) * 0.5 * (1 + np.cos(np.pi * progress))
    return warmed_up(lr, epochs, steps_per_epoch, settings, after)


@schedules.register("linear")
def linear(lr: float, epochs: int, steps_per_epoch: int, settings: Schedule) -> np.ndarray:
    """A straight line from lr, which would reach min_lr one step after the last."""
    def after(progress: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        return lr + (settings.min_lr - lr) * progress
    return warmed_up(lr, epochs, steps_per_epoch, settings, after)


@schedules.register("step")
def step(lr: float, epochs: int, steps_per_epoch: int, settings: Schedule) -> np.ndarray:
    """lr times gamma to the power of the milestones, in epochs, that are over; never below min_lr."""
    def after(progress: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        over = np.searchsorted(np.sort(settings.milestones), epoch + 1e-9, side="right")    # 0.1 * 30 is below 3
        return np.maximum(lr * settings.gamma ** over, settings.min_lr)
    return warmed_up(lr, epochs, steps_per_epoch, settings, after)


@schedules.register("constant")
def constant(lr: float, epochs: int, steps_per_epoch: int, settings: Schedule) -> np.ndarray:
    """lr, always."""
    def after(progress: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        return np.full_like(progress, lr)
    return warmed_up(lr, epochs, steps_per_epoch, settings, after)
