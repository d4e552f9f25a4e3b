"""curves.png: loss, accuracy and learning rate of a run, from its metrics.jsonl."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ms_vit.runs.metrics import read_metrics


def draw_curves(metrics: Path, out: Path, title: str) -> None:
    steps, epochs = read_metrics(metrics)
    figure = Figure(figsize=(13, 4), layout="constrained")    # no pyplot: nodes have no screen
    loss, accuracy, rate = figure.subplots(1, 3)

    def plot(axes: Any, lines: list[dict[str, Any]], x: str, y: str, scale: float = 1.0, **style: Any) -> None:
        axes.plot([line[x] for line in lines], [scale * line[y] for line in lines], **style)

    plot(loss, steps, "step", "loss", lw=0.6, alpha=0.4, label="train, batch")
    plot(loss, epochs, "step", "train_loss", marker=".", label="train, epoch")
    plot(loss, epochs, "step", "val_loss", marker=".", label="validation")
    loss.set(title="loss", xlabel="step")
    loss.legend(frameon=False)

    plot(accuracy, epochs, "epoch", "val_top1", 100, marker=".", label="validation, top-1")
    plot(accuracy, epochs, "epoch", "val_top5", 100, marker=".", label="validation, top-5")
    if told := [line for line in epochs if "train_top1" in line]:       # not where images are mixed
        plot(accuracy, told, "epoch", "train_top1", 100, marker=".", label="train, top-1")
    best = max(epochs, key=lambda line: line["val_top1"])
    accuracy.set(title=f"best validation top-1 {100 * best['val_top1']:.1f} % (epoch {best['epoch']})", xlabel="epoch",
                 ylabel="%")
    accuracy.legend(frameon=False, loc="lower right")

    plot(rate, steps, "step", "lr", color="tab:gray")
    rate.set(title="learning rate", xlabel="step")

    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(out, dpi=110)
