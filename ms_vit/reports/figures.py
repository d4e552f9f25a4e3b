"""Figures of runs, each by matplotlib: curves, confusion, reliability, speed, and what the first layers learnt."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ms_vit.data.corruptions import CORRUPTIONS, STRENGTHS
from ms_vit.inference.robustness import Robustness
from ms_vit.models.config import ViTConfig
from ms_vit.reports.calibration import BINS, calibration
from ms_vit.reports.reading import Line, Story
from ms_vit.reports.style import COLOURS, panels, save, thinned

MOST_MARKED = 30        # points of a line that are marked one by one
MOST_COUNTS = 16        # classes whose counts are written into the confusion
MOST_NAMES = 40         # classes whose names stand at its sides
MOST_POSITIONS = 14     # rows and columns of positions that are compared
FILTERS = (4, 7)        # rows and columns, as in the paper's figure 7


# --- curves

def plot(axes: Axes, lines: Sequence[Line], x: str, y: str, scale: float = 1.0, **style: Any) -> None:
    told = [line for line in lines if line.get(y) is not None]
    if not told:        # a line of nothing would stand in the legend
        return
    if len(told) > MOST_MARKED:
        style.pop("marker", None)
    axes.plot(thinned([line[x] for line in told]), thinned([scale * line[y] for line in told]), **style)


def draw_loss(axes: Axes, stories: Sequence[Story]) -> None:
    """Of one run its batches, too; of several only epochs, training dashed."""
    axes.set(title="Loss", xlabel="step", ylabel="cross-entropy")
    if len(stories) == 1:
        (story,) = stories
        plot(axes, story.steps, "step", "loss", lw=0.6, alpha=0.5, label="training, batch")
        plot(axes, story.epochs, "step", "train_loss", marker="o", label="training, epoch")
        plot(axes, story.epochs, "step", "val_loss", marker="s", label="validation")
    else:
        for colour, story in zip(cycle(COLOURS), stories, strict=False):
            plot(axes, story.epochs, "step", "train_loss", color=colour, ls="--", lw=1)
            plot(axes, story.epochs, "step", "val_loss", color=colour, marker="s", label=story.name)
    legend(axes)


def draw_accuracy(axes: Axes, stories: Sequence[Story]) -> None:
    axes.set(title="Accuracy on validation", xlabel="epoch", ylabel="%")
    if len(stories) == 1:
        (story,) = stories
        plot(axes, story.epochs, "epoch", "val_top1", 100, marker="o", label="validation, top-1")
        plot(axes, story.epochs, "epoch", "val_top5", 100, marker="s", label="validation, top-5")
        plot(axes, story.epochs, "epoch", "train_top1", 100, marker="^", label="training, top-1")
        if story.best:
            axes.set_title(f"Best validation top-1 {100 * story.best['val_top1']:.1f} %, epoch {story.best['epoch']}")
    else:
        for story in stories:
            plot(axes, story.epochs, "epoch", "val_top1", 100, marker="o", label=story.name)
    legend(axes, "lower right")


def draw_rate(axes: Axes, stories: Sequence[Story]) -> None:
    axes.set(title="Learning rate", xlabel="step")
    for story in stories:
        plot(axes, story.steps, "step", "lr", label=story.name)
    if not any(story.steps for story in stories):
        axes.text(0.5, 0.5, "fewer steps than train.log_every", ha="center", transform=axes.transAxes)
    if len(stories) > 1:
        legend(axes)


def draw_speed(axes: Axes, stories: Sequence[Story]) -> None:
    axes.set(title="Training speed", xlabel="step", ylabel="images/s")
    for story in stories:
        plot(axes, story.steps, "step", "images_per_second", label=story.name)
    axes.set_ylim(0, None)
    if len(stories) > 1:
        legend(axes)


def draw_waiting(axes: Axes, stories: Sequence[Story]) -> None:
    axes.set(title="Waiting for data", xlabel="step", ylabel="% of the time")
    for story in stories:
        plot(axes, story.steps, "step", "data_wait", 100, label=story.name)
    axes.set_ylim(0, None)
    if len(stories) > 1:
        legend(axes)


def legend(axes: Axes, place: str = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize="small", frameon=False)


CURVES = {"loss": draw_loss, "accuracy": draw_accuracy, "learning rate": draw_rate}
PACE = {"training speed": draw_speed, "waiting for data": draw_waiting}


def draw_curves(story: Story, out: Path) -> None:
    """curves.png: loss, accuracy and learning rate."""
    figure, axes = panels(len(CURVES))
    for draw, place in zip(CURVES.values(), axes, strict=True):
        draw(place, [story])
    figure.suptitle(story.title)
    save(figure, out)


# --- answers

def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """A class's images by what they were taken for, in percent: counts [true, predicted] of the classes of `names`."""
    classes = len(names)
    side = min(3.4 + 0.28 * classes, 7.5)
    figure, (axes,) = panels(width=side + 0.6, height=side)
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(100 * counts / counts.sum(1, keepdims=True))
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("% of the true class")
    axes.set(xlabel="taken for", ylabel="is")
    axes.grid(False)
    if classes <= MOST_NAMES:
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
        axes.tick_params(labelsize="small" if classes <= MOST_COUNTS else "x-small")
    if classes <= MOST_COUNTS:
        for row, column in np.argwhere(counts):
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize="x-small",
                      color="#ffffff" if shares[row, column] < 60 else "#111111")
    return figure


def reliability(stories: Sequence[Story]) -> Figure:
    """Top-1 against how sure the network was, and how often it was that sure."""
    figure, (above, below) = panels(rows=2, height=2.4, width=4.8, sharex=True, height_ratios=(3, 1))
    above.plot([0, 100], [0, 100], color=COLOURS[6], lw=0.8, ls=":", label="if all came true")
    for story in stories:
        if story.answers is None:
            continue
        found = calibration(story.answers)
        told = found.images > 0
        above.plot(100 * found.confidence[told], 100 * found.top1[told], marker="o",
                   label=f"{story.name}, ECE {100 * found.error:.1f} %")
        shares = 100 * found.images / found.images.sum()
        below.step(100 * np.arange(BINS + 1) / BINS, np.append(shares, shares[-1]), where="post")
    above.set(ylabel="right, %", xlim=(0, 100), ylim=(0, 102))
    below.set(xlabel="probability of the first answer, %", ylabel="images, %", ylim=(0, None))
    legend(above, "upper left")
    return figure


def draw_robustness(robustness: Robustness, top1: float, out: Path, title: str) -> None:
    """corrupt.png: top-1 against strength; top1 of the images as they are, from 0 to 1, stands at strength 0."""
    kinds = list(dict.fromkeys(CORRUPTIONS[name].kind for name in robustness.top1))
    figure, columns = panels(len(kinds), width=3.6, height=3.8, sharey=True)
    for kind, axes in zip(kinds, columns, strict=True):
        for name, values in robustness.top1.items():
            if CORRUPTIONS[name].kind == kind:
                axes.plot((0, *STRENGTHS), [100 * value for value in (top1, *values)], marker="o",
                          label=f"{name} ({100 * robustness.means[name]:.1f})")
        axes.set(title=kind, xlabel="strength", xticks=(0, *STRENGTHS), ylim=(0, 102))
        legend(axes, "lower left")
    columns[0].set_ylabel("top-1, %")
    figure.suptitle(f"{title}: top-1 {100 * top1:.1f} %, corrupted {100 * robustness.mean:.1f} %")
    save(figure, out)


# --- the first layers

def patch_grid(view: Image.Image, config: ViTConfig) -> Figure:
    """An image as the network sees it, cut into its patches, with their number."""
    figure, (axes,) = panels(width=4, height=4)
    axes.imshow(np.asarray(view), cmap="gray")
    height, width = config.height_and_width
    for x in range(config.patch_size, width, config.patch_size):
        axes.axvline(x - 0.5, color="#ffffff", lw=0.8)
    for y in range(config.patch_size, height, config.patch_size):
        axes.axhline(y - 0.5, color="#ffffff", lw=0.8)
    axes.set(title=f"{config.patches} patches, {config.grid[0]} x {config.grid[1]}",
             xlabel=f"{width} x {height} pixels", xticks=[], yticks=[])
    axes.grid(False)
    return figure


def position_similarity(positions: np.ndarray, config: ViTConfig) -> Figure:
    """How alike positions are: [N, D] of the patches; for each patch a map of its cosine with all others.

    As figure 7 of Dosovitskiy et al. 2020; of large grids every so many rows and columns.
    """
    rows, columns = config.grid
    unit = positions / np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-12)
    chosen = [np.linspace(0, size - 1, min(size, MOST_POSITIONS)).round().astype(int) for size in (rows, columns)]
    unit = unit.reshape(rows, columns, -1)[np.ix_(*chosen)]
    rows, columns = unit.shape[:2]
    alike = np.einsum("ijd,kld->ijkl", unit, unit)
    sheet = np.full((rows * (rows + 1) - 1, columns * (columns + 1) - 1), np.nan)
    for row in range(rows):
        for column in range(columns):
            sheet[row * (rows + 1):row * (rows + 1) + rows,
                  column * (columns + 1):column * (columns + 1) + columns] = alike[row, column]
    figure, (axes,) = panels(width=5, height=4.4)
    shown = axes.imshow(sheet, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(shown, ax=axes, shrink=0.8).set_label("cosine")
    axes.set(xlabel="column of the patch", ylabel="row of the patch", xticks=[], yticks=[])
    axes.grid(False)
    return figure


def first_filters(weight: np.ndarray) -> Figure:
    """What the first layer looks for: weight [D, C, P, P]; of C = 3 in colour.

    Of patches the principal components of their filters, as figure 7 of Dosovitskiy et al. 2020; of a stem's 3 x 3
    convolution the filters themselves.
    """
    if weight.shape[-1] > 3:
        flat = weight.reshape(len(weight), -1)
        _, _, found = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
        weight = found.reshape(-1, *weight.shape[1:])
    count = min(len(weight), FILTERS[0] * FILTERS[1])
    figure, tiles = panels(FILTERS[1], rows=-(-count // FILTERS[1]), width=0.8, height=0.8)
    for axes in tiles:
        axes.set_axis_off()
    for filter, axes in zip(weight[:count], tiles, strict=False):
        low, high = filter.min(), filter.max()
        tile = ((filter - low) / ((high - low) or 1)).transpose(1, 2, 0)
        axes.imshow(tile if len(filter) == 3 else tile.mean(-1), cmap="gray", interpolation="nearest")
    return figure
