"""Pictures with their answers drawn on them."""

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SMALLEST = 192      # pixels: below it a label can't be read, so tiny pictures are enlarged
LARGEST = 1024
TILE = 160
MOST_TILES = 100


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
    """A picture, the answer to draw on it, and where the two are saved."""

    place: Path
    picture: Image.Image
    name: str
    probability: float

    def save(self) -> Path:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        annotate(self.picture, self.name, self.probability).save(self.place)
        return self.place


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


def contact_sheet(pictures: list[Path], out: Path) -> None:
    """One picture of the first hundred, side by side."""
    shown = pictures[:MOST_TILES]
    columns = min(len(shown), max(1, math.ceil(math.sqrt(len(shown) * 1.5))))
    rows = math.ceil(len(shown) / columns)
    sheet = Image.new("RGB", (columns * (TILE + 8) + 8, rows * (TILE + 8) + 8), "white")
    for index, path in enumerate(shown):
        with Image.open(path) as picture:
            picture.thumbnail((TILE, TILE))
            x = 8 + index % columns * (TILE + 8) + (TILE - picture.width) // 2
            y = 8 + index // columns * (TILE + 8) + (TILE - picture.height) // 2
            sheet.paste(picture, (x, y))
    sheet.save(out)
