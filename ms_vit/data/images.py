"""One image file, read whole or refused."""

import contextlib
import warnings
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image, UnidentifiedImageError

from ms_vit import limits
from ms_vit.data.stores import Store
from ms_vit.errors import DataError

SAMPLE = 32     # images by which the size of all is judged
AtLeast: TypeAlias = int | tuple[int, int]      # pixels: of both sides, or (height, width)


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


def typical_side(store: Store) -> int:
    """The median of the shorter sides of some of these images, in pixels; 0 where none can be read."""
    sides = []
    for row in range(len(store.names))[::-(-len(store.names) // SAMPLE) or 1]:
        # Whatever is wrong is told elsewhere.
        with contextlib.suppress(Exception), store.open(row) as file, open_image(file) as image:
            sides.append(min(image.size))
    return sorted(sides)[len(sides) // 2] if sides else 0


def reduction(width: int, height: int, at_least: AtLeast | None) -> int:
    """By how much a JPEG is reduced as it is decoded: 8, 4, 2 or 1, the most that leaves `at_least` of its sides."""
    if at_least is None:
        return 1
    low, narrow = at_least if isinstance(at_least, tuple) else (at_least, at_least)
    return next((factor for factor in (8, 4, 2) if height >= factor * low and width >= factor * narrow), 1)


def picture(file: Path | BinaryIO, at_least: AtLeast | None = None) -> Image.Image:
    """The pixels of a file as RGB, whatever its mode (grey, CMYK, palette, alpha, 16 bit); a JPEG's by `reduction`.

    Raises what open_image raises.
    """
    image = open_image(file)
    factor = reduction(*image.size, at_least)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))     # nothing, where it is no JPEG
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts 16 bits off at 255; MindSpore's Decode keeps the high byte.
        image = image.point(lambda value: value / 256).convert("L")
    return image.convert("RGB")


def read_image(file: Path | BinaryIO, at_least: AtLeast | None = None, name: str = "") -> Image.Image:
    """A picture as RGB, by its file, or by an open one that is called `name`.

    Raises DataError, which names the file, where it is missing, truncated, no image, or larger than MAX_PIXELS.
    """
    name = name or str(file)
    if isinstance(file, Path) and file.exists() and not file.is_file():     # a pipe would never end
        raise DataError(f"{name} is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return picture(file, at_least)
    except FileNotFoundError as error:
        raise DataError(f"{name} is not there") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is no image") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than {limits.MAX_PIXELS:,} pixels; make it smaller or leave it "
                        "out") from error
    except Exception as error:  # a damaged image makes Pillow's many readers raise nearly anything
        raise DataError(f"{name} can't be read as an image: {error or type(error).__name__}") from error
