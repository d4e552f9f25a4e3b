"""What a network looks at, drawn over the picture that it saw."""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ms_vit.inference.recorder import Recording
from ms_vit.models.config import ViTConfig

COLOURS = matplotlib.colormaps["inferno"]       # dark to light in grey, too, and for the colour-blind
TILE = 56           # pixels of a head's map
STRIP = 20          # pixels of a line of text
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


def drawn(view: Image.Image, recording: Recording, image: int, name: str) -> Image.Image:
    """What is looked at in one image, as `infer --attention` saves it.

    The picture as the network sees it; the rollout of its attention; what spoke for the class that is called `name`;
    below that each head of each block.
    """
    rollouts = recording.rollout()[image], recording.gradient_rollout()[image]
    tiles = [(view, "as the network sees it"), *zip(
        (overlay(view, patches, recording.config) for patches in rollouts),
        ("attention rollout", f"what spoke for {name}"), strict=True)]
    width, height = view.size
    sheet = heads_sheet(view, recording, image, TILE)
    canvas = Image.new("RGB", (max(3 * width + 4, sheet.width), height + 2 * STRIP + sheet.height), "#202020")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, (tile, words) in enumerate(tiles):
        canvas.paste(tile.convert("RGB"), (column * (width + 2), 0))
        while font.getlength(words) > width - 8 and len(words) > 4:
            words = words[:-4] + "..."
        pen.text((column * (width + 2) + 4, height + STRIP / 2), words, font=font, fill="white", anchor="lm")
    pen.text((4, height + 1.5 * STRIP), "each head (row) of each block (column)", font=font, fill="white", anchor="lm")
    canvas.paste(sheet, (0, height + 2 * STRIP))
    return canvas


def heads_sheet(picture: Image.Image, recording: Recording, image: int, tile: int) -> Image.Image:
    """One image's attention, a row a head and a column a block from the first: tiles that are `tile` pixels wide."""
    blocks, _, heads, *_ = recording.attention.shape
    small = picture.resize((tile, round(tile * picture.height / picture.width)))
    sheet = Image.new("RGB", (blocks * (tile + 2) - 2, heads * (small.height + 2) - 2))
    for block in range(blocks):
        for head in range(heads):
            tiles = overlay(small, recording.head(block, head)[image], recording.config)
            sheet.paste(tiles, (block * (tile + 2), head * (small.height + 2)))
    return sheet
