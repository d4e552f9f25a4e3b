"""How figures look: one style, as files and within a page, whose colours they then follow from light to dark."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito 2008, "Color Universal Design": told apart by the colour-blind, too. Without yellow, lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
INK = "#1a1a1a"
STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS), "axes.edgecolor": INK, "axes.labelcolor": INK,
    "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium",
    "figure.facecolor": "white", "font.size": 10, "grid.alpha": 0.2, "grid.color": INK,
    "lines.markersize": 4, "savefig.dpi": 110, "svg.fonttype": "none", "text.color": INK, "xtick.color": INK,
    "ytick.color": INK,
}
MOST_POINTS = 500       # of a line: more are not seen, and make a page heavy


def panels(columns: int = 1, *, width: float = 4.4, height: float = 3.6, rows: int = 1,
           **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, row by row; sizes in inches, of each. No pyplot: nodes have no screen."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def thinned(values: Any) -> np.ndarray:
    """At most MOST_POINTS of these, evenly, the last among them."""
    values = np.asarray(values)
    if len(values) <= MOST_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]


def save(figure: Figure, out: Path, **options: Any) -> None:
    """Writes a figure as PNG, whatever the file is called; `options` are savefig's."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="png", **options)


def svg(figure: Figure, name: str) -> str:
    """A figure for a page: texts and colours are the page's (--ink, --c1 to --c7), ids begin by `name`."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]+;?", "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    for number, colour in enumerate(COLOURS, 1):
        text = text.replace(colour, f"var(--c{number})")
    text = text.replace(INK, "var(--ink)")
    # The page gives its name; and it shrinks with the page.
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false" '
                  r'xmlns:xlink="http://www.w3.org/1999/xlink">', text, count=1).strip()


def data_uri(picture: Image.Image) -> str:
    """A picture within a page: JPEG, or PNG where it is small."""
    file = io.BytesIO()
    small = picture.width * picture.height <= 64 * 64
    picture.save(file, "PNG" if small else "JPEG", **{} if small else {"quality": 82})
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
