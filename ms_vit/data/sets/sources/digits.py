"""Format digits: scikit-learn's own copy of the UCI handwritten digits, so that a first try needs no network."""

from pathlib import Path

import numpy as np
from PIL import Image

from ms_vit.data.sets.cards import Card
from ms_vit.data.sets.sources.pngs import write_pngs

SEED = 0
INFER_PER_CLASS = 2
VAL_SHARE = 0.2


def lay_out(files: list[Path], out: Path, card: Card) -> None:
    """Writes out/train, out/val (a fifth of each class) and out/infer (two images of each class); each image once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 17 grey levels spread over 0..255: each keeps a value of its own, so nothing is lost.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [N, 8, 8]
    train, val, infer = split(digits.target)
    for name, chosen in (("train", train), ("val", val)):
        write_pngs(images[chosen], digits.target[chosen], card.class_ids, out / name, indices=chosen)
    (out / "infer").mkdir(parents=True)
    for index in infer:
        Image.fromarray(images[index]).save(out / "infer" / f"digit_{index:04d}.png")


def split(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions for train, val and infer, the same on every machine and in like shares of each class."""
    random = np.random.RandomState(SEED)  # its sequence is frozen for good, unlike default_rng's
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(targets):
        shuffled = random.permutation(np.flatnonzero(targets == label))
        held = INFER_PER_CLASS + round(VAL_SHARE * len(shuffled))
        for part, chosen in zip(parts, np.split(shuffled, [INFER_PER_CLASS, held]), strict=True):
            part.append(chosen)
    infer, val, train = (np.sort(np.concatenate(part)) for part in parts)
    return train, val, infer
