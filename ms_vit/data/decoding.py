"""A file's bytes -> its pixels, and these -> grey.

JPEGs are decoded by simplejpeg (libjpeg-turbo), where MindSpore's Decode takes half again as long.

Pixels are the same to the bit. What is unusual, CMYK or a file that simplejpeg complains of, is left to MindSpore and
Pillow, and so comes out, or is refused, as by these.
"""

import io
from collections.abc import Iterable
from typing import Any

import mindspore.dataset.vision as vision
import numpy as np
import simplejpeg
from mindspore.dataset.transforms.py_transforms_util import Implementation
from PIL import Image

from ms_vit import limits
from ms_vit.data.images import AtLeast, picture, reduction


class Decode:
    """File bytes [n] uint8 -> pixels [H, W, 3] uint8, reduced where `at_least` allows (images.reduction)."""

    random = False      # as MindSpore asks a callable

    def __init__(self, at_least: AtLeast | None = None):
        self.at_least = at_least

    def __call__(self, content: np.ndarray) -> np.ndarray:
        content = content.view(np.uint8)        # MindRecord gives one text of n bytes
        pixels = jpeg_pixels(content, self.at_least)
        if pixels is None:
            pixels = (vision.Decode()(content) if self.at_least is None
                      else np.asarray(picture(io.BytesIO(content.tobytes()), self.at_least)))
        return pixels


class DecodeToPillow:
    """File bytes [n] uint8 -> Pillow's picture, reduced where `at_least` allows; what follows runs by Pillow, too."""

    random = False
    implementation = Implementation.PY

    def __init__(self, at_least: AtLeast):
        self.at_least = at_least

    def __call__(self, content: np.ndarray) -> Image.Image:
        return picture(io.BytesIO(content.tobytes()), self.at_least)


class Grayscale:
    """Pixels [H, W, 3] uint8, or Pillow's picture -> [H, W, channels] uint8, by Pillow's weights (BT.601)."""

    random = False

    def __init__(self, channels: int = 1):
        self.channels = channels

    def __call__(self, pixels: np.ndarray | Image.Image) -> np.ndarray:
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        return np.repeat(np.asarray(picture.convert("L"))[..., None], self.channels, 2)


def jpeg_pixels(content: np.ndarray, at_least: AtLeast | None = None) -> np.ndarray | None:
    """Pixels [H, W, 3] of a JPEG in grey or YCbCr; None for all else, and for what isn't quite as it should be."""
    if content[:2].tobytes() != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > limits.MAX_PIXELS:
            return None
        factor = reduction(width, height, at_least)
        return simplejpeg.decode_jpeg(content, min_height=-(-height // factor), min_width=-(-width // factor),
                                      min_factor=factor)
    except ValueError:      # also of what other readers pass over
        return None


def for_jpegs(operations: Iterable[Any]) -> list[Any]:
    """The same operations in the form that is fast on JPEGs; on other files, MindSpore's own is."""
    return [Decode() if isinstance(each, vision.Decode) and each.implementation == Implementation.C else each
            for each in operations]
