"""Arrays of pixels as PNG files, many and fast."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ms_vit.progress import track


def write_pngs(images: np.ndarray, labels: np.ndarray, classes: list[str], split: Path, *,
               indices: Iterable[int] | None = None) -> None:
    """Writes split/CLASS/INDEX.png for each image.

    `images` [N, H, W] grey or [N, H, W, 3] RGB, uint8; `labels` [N] are positions in `classes`. INDEX is the position
    in the source (`indices`, or 0..N-1), so that a pixel can be traced back to it.
    """
    for name in classes:
        (split / name).mkdir(parents=True, exist_ok=True)
    numbered = zip(range(len(images)) if indices is None else indices, images, labels, strict=True)
    for index, image, label in track(numbered, f"writing {split.name}/", "images", total=len(images)):
        # Level 1: at these sizes zlib's search for longer matches costs thrice the time and saves a few per cent.
        Image.fromarray(image).save(split / classes[label] / f"{index:05d}.png", compress_level=1)
