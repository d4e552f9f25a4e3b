"""One image file, read whole or refused."""

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ms_vit import limits
from ms_vit.errors import DataError

SAMPLE = 32     # images by which the size of all is judged


def open_image(file: Path | BinaryIO) -> Image.Image:
    """An image in any of Pillow's formats but EPS, its pixels not decoded yet.

    Raises Image.DecompressionBombError for more than MAX_PIXELS, and whatever Pillow raises for damaged files.
    """
    image: Image.Image = Image.open(file)
    if image.width * image.height > limits.MAX_PIXELS:  # where the program around us has lifted Pillow's bound
        raise Image.DecompressionBombError
    if image.format == "EPS":
        raise UnidentifiedImageError("EPS is a program, which Pillow would have run by another")
    return image


def typical_side(files: Sequence[Path]) -> int:
    """The median of the shorter sides of some of these images, in pixels; 0 where none can be read."""
    sides = []
    for file in files[::-(-len(files) // SAMPLE) or 1]:
        with contextlib.suppress(Exception), open_image(file) as image:     # whatever is wrong is told elsewhere
            sides.append(min(image.size))
    return sorted(sides)[len(sides) // 2] if sides else 0


def read_image(path: Path) -> Image.Image:
    """The pixels of a file as RGB, whatever its mode (grey, CMYK, palette, alpha, 16 bit).

    Raises DataError, which names the file, where it is missing, truncated, no image, or larger than MAX_PIXELS.
    """
    if path.exists() and not path.is_file():        # a pipe would never end
        raise DataError(f"{path} is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(path)
            if image.mode.startswith("I;16"):
                # Pillow's own conversion cuts 16 bits off at 255; MindSpore's Decode keeps the high byte.
                image = image.point(lambda value: value / 256).convert("L")
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} has more than {limits.MAX_PIXELS:,} pixels; make it smaller or leave it "
                        "out") from error
    except Exception as error:  # a damaged image makes Pillow's many readers raise nearly anything
        raise DataError(f"{path} can't be read as an image: {error or type(error).__name__}") from error
