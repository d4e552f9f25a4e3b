"""What a network looks at, drawn over the picture that it saw."""

import matplotlib
import numpy as np
from PIL import Image

from ms_vit.models.config import ViTConfig

COLOURS = matplotlib.colormaps["inferno"]       # dark to light in grey, too, and for the colour-blind
STRENGTH = 0.75     # of the colours where the network looks most


def overlay(picture: Image.Image, patches: np.ndarray, config: ViTConfig) -> Image.Image:
    """A picture with how much of each patch is looked at, [rows, columns], in colours over it: RGB of the same size.

    picture: the whole image that the network of `config` saw, in any size. The patch looked at most is the brightest;
    what is looked at least is the picture in grey.
    """
    height, width = config.height_and_width
    low, high = float(patches.min()), float(patches.max())
    share = ((patches - low) / ((high - low) or 1.0)).astype(np.float32)
    # Patches may reach over the image's right and lower edges, where it was filled up.
    shown = (0, 0, width / config.patch_size, height / config.patch_size)
    share = np.asarray(Image.fromarray(share).resize(picture.size, Image.Resampling.BICUBIC, box=shown))
    share = np.clip(share, 0, 1)[..., None]
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32)
    colours = 255 * COLOURS(share[..., 0])[..., :3].astype(np.float32)
    alpha = STRENGTH * np.sqrt(share)
    return Image.fromarray(np.uint8(np.round((1 - alpha) * grey + alpha * colours)))
