"""One image file, read whole or refused."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ms_vit.errors import DataError

MAX_PIXELS = 178_956_970  # twice Pillow's bound: a picture of half a gigabyte is an accident or an attack
# Pillow reads more, some of it by other programs: Ghostscript runs what a PostScript file tells it to.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")


def read_image(path: Path) -> Image.Image:
    """The pixels of a file as RGB, whatever its mode (grey, CMYK, palette, alpha, 16 bit).

    Raises DataError, which names the file, where it is missing, truncated, no image, or larger than MAX_PIXELS.
    """
    if path.exists() and not path.is_file():        # a pipe would never end
        raise DataError(f"{path} is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{path} has {image.width} x {image.height} pixels, too many; leave it out")
        if image.mode.startswith("I;16"):
            # Pillow's own conversion cuts 16 bits off at 255; MindSpore's Decode keeps the high byte.
            image = image.point(lambda value: value / 256).convert("L")
        return image.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image") from error
    except DataError:
        raise
    except Exception as error:  # a damaged image makes Pillow's many readers raise nearly anything
        raise DataError(f"{path} can't be read as an image: {error or type(error).__name__}") from error
