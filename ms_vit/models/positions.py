"""Positions of tokens: learned, or fixed by sines and cosines."""

import numpy as np
from mindspore import Parameter, Tensor
from mindspore.common.initializer import TruncatedNormal, initializer

from ms_vit.models.config import ViTConfig

LONGEST = 10_000        # wavelength, over 2 pi (Vaswani et al. 2017, sec. 3.5)


def position_embeddings(config: ViTConfig) -> Parameter | None:
    """What is added to the tokens, [1, positions, D]; None where a network has no positions."""
    if config.pos_embed == "none":
        return None
    if config.pos_embed == "sincos":
        return Parameter(Tensor(sincos_positions(config)), requires_grad=False)
    return Parameter(initializer(TruncatedNormal(0.02), (1, config.positions, config.dim)))


def sincos_positions(config: ViTConfig) -> np.ndarray:
    """Fixed embeddings of rows and columns, [1, positions, D] float32, as MoCo v3 and MAE have them.

    Half of the D numbers tell the column, half the row, each as sines and then cosines of D / 4 frequencies (Chen et
    al. 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", app. A). Tokens that are no patch's
    come first, and have zeros.
    """
    quarter = config.dim // 4
    frequencies = LONGEST ** -(np.arange(quarter) / quarter)
    row, column = np.divmod(np.arange(config.patches), config.grid[1])
    waves = [wave(np.outer(at, frequencies)) for at in (column, row) for wave in (np.sin, np.cos)]
    extra = np.zeros((config.positions - config.patches, config.dim))
    return np.concatenate([extra, np.concatenate(waves, 1)])[None].astype(np.float32)
