"""What is wrong with image files, before anything is trained on them."""

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ms_vit.data.folder import IMAGE_EXTENSIONS, scan
from ms_vit.data.threads import each
from ms_vit.progress import say

FORMATS = ("JPEG", "MPO", "PNG", "BMP", "PPM", "TIFF")  # what MindSpore's Decode reads, in Pillow's names
OTHER_FORMATS = (".webp", ".gif", ".avif", ".heic", ".heif", ".jp2", ".tga")  # images that it doesn't read


@dataclass(frozen=True)
class Seen:
    """A file as it was read: `problem` is None for a good image, whose bytes have the SHA-256 `hash`."""

    path: Path
    problem: str | None
    hash: str


def inspect(paths: Sequence[Path], title: str) -> Iterator[Seen]:
    """Reads every file to its last pixel, with progress; the results come in the order of the paths."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield from each(look_at, paths, title, "images")


def look_at(path: Path) -> Seen:
    """Reads a file to its last pixel."""
    extension = path.suffix.lower()
    if extension in OTHER_FORMATS:
        return Seen(path, f"MindSpore doesn't read {extension}; convert it to .jpg or .png", "")
    if extension not in IMAGE_EXTENSIONS:
        return Seen(path, "is no image; move it elsewhere", "")
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception as error:  # a damaged image makes Pillow's many readers raise nearly anything
        return Seen(path, f"can't be read ({reason(error)}); replace or remove it", "")
    if image.format not in FORMATS:
        return Seen(path, f"is {image.format} inside, which MindSpore doesn't read; convert it", "")
    return Seen(path, None, hashlib.sha256(content).hexdigest())


def reason(error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "it claims more pixels than a photo has"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty or no image inside"
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return text[:1].lower() + text[1:]


def unreadable(folder: Path, run: Path) -> list[Path]:
    """The images below train/ and val/ that can't be read, each told; once for a run, which keeps the list.

    Raises OSError where the list can't be written.
    """
    kept = run / "bad_images.json"
    if kept.is_file():
        found = {Path(path): problem for path, problem in json.loads(kept.read_text()).items()}
    else:
        paths = [path for split in ("train", "val") for images in scan(folder / split).values() for path in images]
        seen = inspect(paths, f"looking for bad images in {folder}")
        found = {image.path: image.problem for image in seen if image.problem}
        part = kept.with_name(f".{kept.name}.part")
        part.write_text(json.dumps({str(path): problem for path, problem in found.items()}, indent=1))
        part.replace(kept)
    for path, problem in found.items():
        say(f"left out: {path} {problem}")
    say(f"{len(found):,} images are left out because they can't be read; {kept} lists them")
    return list(found)
