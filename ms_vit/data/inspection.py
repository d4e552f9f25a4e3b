"""What is wrong with image files, before anything is trained on them."""

import hashlib
import io
import json
import stat
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ms_vit import limits
from ms_vit.data.folder import IMAGE_EXTENSIONS
from ms_vit.data.images import open_image
from ms_vit.data.threads import parallel_map
from ms_vit.distributed import World
from ms_vit.errors import DataError
from ms_vit.progress import say, warn
from ms_vit.writing import write_whole

# What MindSpore's Decode reads, in Pillow's names.
BAD_IMAGES = "bad_images.json"      # of a run: what it leaves out, and why
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "PPM", "TIFF")
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # and all that begin with a small letter, which it passes over
TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "tiff_ccitt",
                     "group3", "group4")

BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")  # JPEG, PNG and TIFF, which no text begins with
OTHER_FORMATS = (".webp", ".gif", ".avif", ".heic", ".heif", ".jp2", ".tga")  # images that it doesn't read


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with a file, in a word or two and in a text that goes on from its name."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What came of reading a file: the SHA-256 of a good image, or the defect of any other file."""

    sha256: str | None
    defect: Defect | None


def inspect(folder: Path, names: Sequence[str], title: str) -> Iterator[Inspection]:
    """Reads files, given by their paths below the folder, to their last pixel, with progress; in the order of `names`.

    Texts, since Paths of ImageNet would fill half a gigabyte.
    """
    with warnings.catch_warnings():  # here, since it is for all threads at once
        warnings.simplefilter("ignore")
        yield from parallel_map(lambda name: look_at(folder / name), names, title, "images")


def look_at(path: Path) -> Inspection:
    """Reads a file to its last pixel."""
    if defect := outer_defect(path):
        return Inspection(None, defect)
    try:
        content = path.read_bytes()
    except OSError as error:
        return Inspection(None, unreadable_file(error))
    defect = inner_defect(content)
    return Inspection(None if defect else hashlib.sha256(content).hexdigest(), defect)


def outer_defect(path: Path) -> Defect | None:
    """What is wrong with a file before it is opened: opening a pipe may take for ever, and a device has no end."""
    extension = path.suffix.lower()
    try:
        state = path.stat()
    except OSError as error:
        return unreadable_file(error)
    if stat.S_ISDIR(state.st_mode):
        if path.is_symlink():
            return Defect("misplaced", "is a link to a folder, which nothing follows here; put the images in its place")
        return Defect("unreadable", "is a folder that can't be opened; see to its permissions")
    if extension in OTHER_FORMATS:
        return Defect("wrong type", f"MindSpore doesn't read {extension}; convert it to .jpg or .png")
    if extension not in IMAGE_EXTENSIONS:
        return Defect("stray", "is no image; move it elsewhere")
    if not stat.S_ISREG(state.st_mode):
        return Defect("stray", "is a pipe, a socket or a device, and no image; remove it")
    if not state.st_size:
        return Defect("zero bytes", "has zero bytes; replace or remove it")
    if state.st_size > limits.MAX_IMAGE_BYTES:
        return Defect("too large", f"has {state.st_size:,} bytes, too many for a photo; make it smaller or remove it")
    return None


def inner_defect(content: bytes) -> Defect | None:
    """What is wrong with the bytes of an image."""
    try:
        with open_image(io.BytesIO(content)) as image:
            if defect := unsupported(image, content):
                return defect
            image.load()
    except Image.DecompressionBombError:
        return Defect("too large", f"claims more than {limits.MAX_PIXELS:,} pixels; make it smaller or remove it")
    except UnidentifiedImageError:
        if content.startswith(BEGINNINGS):
            return damaged("its header is damaged")
        return Defect("wrong type", "is no image inside; replace or remove it")
    except Exception as error:  # a damaged image makes Pillow's many readers raise nearly anything
        return damaged(reason(error))
    return None


def unsupported(image: Image.Image, content: bytes) -> Defect | None:
    """What Pillow reads and MindSpore's Decode doesn't."""
    if image.format not in FORMATS:
        return Defect("wrong type", f"is {image.format} inside, which MindSpore doesn't read; convert it")
    if image.format == "PNG":
        return png_defect(content)
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        compression = image.info["compression"]
        if not {*bits} <= {1, 8, 16} or (image.mode == "CMYK" and 16 in bits):
            return Defect("wrong type", f"is a TIFF with {bits[0]} bits a value, which MindSpore doesn't read so; "
                         "convert it")
        if compression not in TIFF_COMPRESSIONS:
            return Defect("wrong type", f"is a TIFF compressed by {compression}, which MindSpore doesn't read; "
                         "convert it")
    return None


def png_defect(content: bytes) -> Defect | None:
    """Pillow passes over chunks (PNG specification, sec. 5) that are missing, have another checksum, or are unknown."""
    view = memoryview(content)
    at = 8
    while (end := at + 12 + int.from_bytes(view[at:at + 4], "big")) <= len(content):
        name = content[at + 4:at + 8]
        if zlib.crc32(view[at + 4:end - 4]) != int.from_bytes(view[end - 4:end], "big"):
            return damaged("a checksum is wrong")
        if name == b"IEND":
            return None
        if name[:1].isupper() and name not in PNG_CHUNKS:
            return Defect("wrong type", f"is a PNG with a {name.decode('latin-1')} chunk, which MindSpore doesn't "
                          "read; convert it")
        at = end
    return damaged("its end is missing")


def damaged(why: str) -> Defect:
    return Defect("damaged", f"can't be read ({why}); replace or remove it")


def unreadable_file(error: OSError) -> Defect:
    return Defect("unreadable", f"can't be read ({reason(error)}); see to its permissions, or remove it")


def reason(error: Exception) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0].partition(" (")[0]
    return text[:1].lower() + text[1:]


def left_out(run: Path) -> dict[Path, str] | None:
    """The images that a run leaves out, with what is wrong with each; None where it wasn't looked for such.

    Raises DataError where the list is none.
    """
    kept = run / BAD_IMAGES
    if not kept.is_file():
        return None
    try:
        return {Path(path): problem for path, problem in json.loads(kept.read_bytes()).items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{kept} is no list of images; remove it, and they are looked at again") from error


def unreadable(folder: Path, run: Path, files: Sequence[Path], world: World) -> list[Path]:
    """Which of the images `files`, all below `folder`, can't be read, each told; once for a run, which keeps the list.

    Raises OSError where the list can't be written, DataError where a kept one is none.
    """
    kept, known = run / BAD_IMAGES, left_out(run)
    if known is not None:
        found = known
    else:
        names = [str(path.relative_to(folder)) for path in files]
        inspections = inspect(folder, names, f"looking for bad images in {folder}")
        found = {folder / name: image.defect.text
                 for name, image in zip(names, inspections, strict=True) if image.defect}
        if world.writes:
            write_whole(kept, json.dumps({str(path): problem for path, problem in found.items()}, indent=1))
    for path, problem in found.items():
        warn(f"left out: {path} {problem}")
    tell = warn if found else say
    tell(f"images left out because they can't be read: {len(found):,}; {kept} lists them")
    return list(found)
