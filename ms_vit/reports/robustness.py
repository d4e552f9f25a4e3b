"""corrupt.png: top-1 under corruption against its strength, from an evaluation."""

from pathlib import Path

from matplotlib.figure import Figure

from ms_vit.data.corruptions import CORRUPTIONS, STRENGTHS
from ms_vit.inference.robustness import Robustness


def draw_robustness(robustness: Robustness, top1: float, out: Path, title: str) -> None:
    """top1: of the images as they are, from 0 to 1, which stands at strength 0."""
    kinds = list(dict.fromkeys(CORRUPTIONS[name].kind for name in robustness.top1))
    figure = Figure(figsize=(3.4 * len(kinds) + 0.6, 3.8), layout="constrained")     # no pyplot: nodes have no screen
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], strict=True):
        for name, values in robustness.top1.items():
            if CORRUPTIONS[name].kind == kind:
                axes.plot((0, *STRENGTHS), [100 * value for value in (top1, *values)], marker=".",
                          label=f"{name} ({100 * robustness.means[name]:.1f})")
        axes.set(title=kind, xlabel="strength", xticks=(0, *STRENGTHS), ylim=(0, 102))
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("top-1, %")
    figure.suptitle(f"{title}: top-1 {100 * top1:.1f} %, corrupted {100 * robustness.mean:.1f} %")
    figure.savefig(out, dpi=110)
