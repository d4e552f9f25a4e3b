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

from ms_vit.data.folder import IMAGE_EXTENSIONS, scan
from ms_vit.data.images import MAX_PIXELS, open_image
from ms_vit.data.threads import each
from ms_vit.errors import DataError
from ms_vit.progress import say

MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits, not compressed

# What MindSpore's Decode reads, in Pillow's names.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "PPM", "TIFF")
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # and all that begin with a small letter, which it passes over
TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "tiff_ccitt",
                     "group3", "group4")

BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")  # JPEG, PNG and TIFF, which no text begins with
OTHER_FORMATS = (".webp", ".gif", ".avif", ".heic", ".heif", ".jp2", ".tga")  # images that it doesn't read


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file, in a word or two and in a text that goes on from its name."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of reading a file: the SHA-256 of a good image, or the fault of any other file."""

    sha256: str | None
    fault: Fault | None


def inspect(folder: Path, names: Sequence[str], title: str) -> Iterator[Seen]:
    """Reads files, given by their paths below the folder, to their last pixel, with progress; in the order of `names`.

    Texts, since Paths of ImageNet would fill half a gigabyte.
    """
    with warnings.catch_warnings():  # here, since it is for all threads at once
        warnings.simplefilter("ignore")
        yield from each(lambda name: look_at(folder / name), names, title, "images")


def look_at(path: Path) -> Seen:
    """Reads a file to its last pixel."""
    if fault := outer_fault(path):
        return Seen(None, fault)
    try:
        content = path.read_bytes()
    except OSError as error:
        return Seen(None, unreadable_file(error))
    fault = inner_fault(content)
    return Seen(None if fault else hashlib.sha256(content).hexdigest(), fault)


def outer_fault(path: Path) -> Fault | None:
    """What is wrong with a file before it is opened: opening a pipe may take for ever, and a device has no end."""
    extension = path.suffix.lower()
    try:
        state = path.stat()
    except OSError as error:
        return unreadable_file(error)
    if stat.S_ISDIR(state.st_mode):
        if path.is_symlink():
            return Fault("misplaced", "is a link to a folder, which nothing follows here; put the images in its place")
        return Fault("unreadable", "is a folder that can't be opened; see to its permissions")
    if extension in OTHER_FORMATS:
        return Fault("wrong type", f"MindSpore doesn't read {extension}; convert it to .jpg or .png")
    if extension not in IMAGE_EXTENSIONS:
        return Fault("stray", "is no image; move it elsewhere")
    if not stat.S_ISREG(state.st_mode):
        return Fault("stray", "is a pipe, a socket or a device, and no image; remove it")
    if not state.st_size:
        return Fault("zero bytes", "has zero bytes; replace or remove it")
    if state.st_size > MAX_BYTES:
        return Fault("too large", f"has {state.st_size:,} bytes, too many for a photo; make it smaller or remove it")
    return None


def inner_fault(content: bytes) -> Fault | None:
    """What is wrong with the bytes of an image."""
    try:
        with open_image(io.BytesIO(content)) as image:
            if fault := foreign(image, content):
                return fault
            image.load()
    except Image.DecompressionBombError:
        return Fault("too large", f"claims more than {MAX_PIXELS:,} pixels; make it smaller or remove it")
    except UnidentifiedImageError:
        if content.startswith(BEGINNINGS):
            return damaged("its header is damaged")
        return Fault("wrong type", "is no image inside; replace or remove it")
    except Exception as error:  # a damaged image makes Pillow's many readers raise nearly anything
        return damaged(reason(error))
    return None


def foreign(image: Image.Image, content: bytes) -> Fault | None:
    """What Pillow reads and MindSpore's Decode doesn't."""
    if image.format not in FORMATS:
        return Fault("wrong type", f"is {image.format} inside, which MindSpore doesn't read; convert it")
    if image.format == "PNG":
        return png_fault(content)
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        compression = image.info["compression"]
        if not {*bits} <= {1, 8, 16} or (image.mode == "CMYK" and 16 in bits):
            return Fault("wrong type", f"is a TIFF with {bits[0]} bits a value, which MindSpore doesn't read so; "
                         "convert it")
        if compression not in TIFF_COMPRESSIONS:
            return Fault("wrong type", f"is a TIFF compressed by {compression}, which MindSpore doesn't read; "
                         "convert it")
    return None


def png_fault(content: bytes) -> Fault | None:
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
            return Fault("wrong type", f"is a PNG with a {name.decode('latin-1')} chunk, which MindSpore doesn't read; "
                         "convert it")
        at = end
    return damaged("its end is missing")


def damaged(why: str) -> Fault:
    return Fault("damaged", f"can't be read ({why}); replace or remove it")


def unreadable_file(error: OSError) -> Fault:
    return Fault("unreadable", f"can't be read ({reason(error)}); see to its permissions, or remove it")


def reason(error: Exception) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0].partition(" (")[0]
    return text[:1].lower() + text[1:]


def unreadable(folder: Path, run: Path) -> list[Path]:
    """The images below train/ and val/ that can't be read, each told; once for a run, which keeps the list.

    Raises OSError where the list can't be written, DataError where a kept one is none.
    """
    kept = run / "bad_images.json"
    if kept.is_file():
        try:
            found = {Path(path): problem for path, problem in json.loads(kept.read_bytes()).items()}
        except (ValueError, AttributeError) as error:
            raise DataError(f"{kept} is no list of images; remove it, and they are looked at again") from error
    else:
        names = [str(path.relative_to(folder))
                 for split in ("train", "val") for images in scan(folder / split).values() for path in images]
        seen = inspect(folder, names, f"looking for bad images in {folder}")
        found = {folder / name: image.fault.text for name, image in zip(names, seen, strict=True) if image.fault}
        part = kept.with_name(f".{kept.name}.part")
        part.write_text(json.dumps({str(path): problem for path, problem in found.items()}, indent=1))
        part.replace(kept)
    for path, problem in found.items():
        say(f"left out: {path} {problem}")
    say(f"images left out because they can't be read: {len(found):,}; {kept} lists them")
    return list(found)
