"""Pictures with their answers drawn on them, and a page of them all."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont

from ms_vit.reports.templating import render
from ms_vit.writing import write_whole

GALLERY = "gallery.html"
LISTING = Path("gallery/pictures.js")   # what the page lists, beside the thumbnails

SMALLEST = 192      # pixels: below it a label can't be read, so tiny pictures are enlarged
LARGEST = 1024
TILE = 160          # pixels of a thumbnail


def fit(picture: Image.Image) -> Image.Image:
    """A copy of a picture as RGB, tiny ones enlarged, huge ones reduced; of what was made here, just a copy."""
    factor = max(1.0, SMALLEST / min(picture.size)) if min(picture.size) < SMALLEST else 1.0
    factor = min(factor, LARGEST / max(picture.size)) if max(picture.size) * factor > LARGEST else factor
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    # Enlarged pixels stay squares, so that one sees what the network saw.
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)


def annotate(picture: Image.Image, name: str, probability: float) -> Image.Image:
    """A copy of a picture, made to fit, with "name (93.1 %)" in a strip below it."""
    picture = fit(picture)
    text = f"{name} ({100 * probability:.1f} %)"
    points = max(14, picture.width // 16)
    while ImageFont.load_default(points).getlength(text) > picture.width - 12 and points > 9:
        points -= 1
    font, height = ImageFont.load_default(points), round(points * 1.7)
    canvas = Image.new("RGB", (picture.width, picture.height + height), "#202020")
    canvas.paste(picture, (0, 0))
    ImageDraw.Draw(canvas).text((6, picture.height + height / 2), text, font=font, fill="white", anchor="lm")
    return canvas


@dataclass(frozen=True)
class Drawing:
    """A picture with its answers, the first of which is drawn on it, and where all of that is saved.

    answers: index of the class and probability, the most probable first. attention: what is looked at in it, as a
    picture of its own, and the place for that.
    """

    place: Path
    thumbnail: Path
    picture: Image.Image
    name: str
    answers: list[tuple[int, float]]
    attention: tuple[Path, Image.Image] | None = None

    def save(self) -> "Drawing":
        """Returns the same without the pictures, which may be large."""
        for place in (self.place, self.thumbnail):
            place.parent.mkdir(parents=True, exist_ok=True)
        annotate(self.picture, self.name, self.answers[0][1]).save(self.place)
        small = self.picture.convert("RGB")
        small.thumbnail((TILE, TILE))
        small.save(self.thumbnail, quality=80)
        if self.attention:
            self.attention[1].save(self.attention[0], quality=85)
        gone = Image.new("1", (1, 1))
        return replace(self, picture=gone, attention=(self.attention[0], gone) if self.attention else None)


def write_gallery(drawn: Sequence[Drawing], names: Sequence[str], out: Path) -> None:
    """gallery.html: all that was drawn, page by page, with filters; names: of the classes.

    What it lists lies in a file beside it, as a browser opens no other from the disk but pictures and scripts.
    """
    told = sorted({index for drawing in drawn for index, _ in drawing.answers})
    number = {index: place for place, index in enumerate(told)}
    entries = [[relative(drawing.place, out), relative(drawing.thumbnail, out),
                relative(drawing.attention[0], out) if drawing.attention else None,
                [[number[index], round(probability, 4)] for index, probability in drawing.answers]]
               for drawing in drawn]
    listing = out / LISTING
    listing.parent.mkdir(exist_ok=True)
    write_whole(listing, f"const CLASSES = {json.dumps([names[index] for index in told])};\n"
                         f"const PICTURES = {json.dumps(entries)};\n")
    write_whole(out / GALLERY, render("gallery.html", listing=LISTING.as_posix(), count=len(drawn)))


def relative(file: Path, folder: Path) -> str:
    """A file's address for a page in `folder`."""
    return quote(os.fsencode(file.relative_to(folder)))


class Places:
    """Hands out places for pictures, each once, but none of `taken`."""

    def __init__(self, *taken: Path) -> None:
        self.taken = set(taken)
        self.numbers: dict[Path, int] = {}      # the last that was given to a name: many cameras call all alike

    def free(self, place: Path) -> Path:
        """`place`, as PNG where it isn't JPEG, and numbered from 2 where another picture of this run has it."""
        if place.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            place = place.with_name(place.name + ".png")
        found, number = place, self.numbers.get(place, 1)
        while found in self.taken:
            number += 1
            found = place.with_name(f"{place.stem}-{number}{place.suffix}")
        self.numbers[place] = number
        self.taken.add(found)
        return found

