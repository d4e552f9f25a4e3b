"""The 15 corruptions of ImageNet-C (Hendrycks & Dietterich 2019, sec. 3 and app. A), each at 5 strengths.

Written anew from what the paper says, on NumPy, SciPy and Pillow: pixels are near the published sets' and not theirs,
so figures compare with each other rather than with published ones. Three differ on purpose: glass_blur moves all pixels
at once, elastic_transform's fields are interpolated from coarse ones, and frost is grown (the paper's photos of frost
aren't ours to ship).

What destroys a photo destroys a small image sooner. So each has its amounts for a side of 32 pixels (near CIFAR-10-C's)
and of 224 (near ImageNet-C's), both as remembered and unchecked; between the two they are interpolated, and lengths in
pixels grow on with larger images.
"""

import io
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from ms_vit.errors import UsageError

STRENGTHS = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224      # pixels
GREY = np.array([0.299, 0.587, 0.114], np.float32)      # of red, green, blue (ITU-R BT.601)
ICE = np.array([0.88, 0.95, 1.0], np.float32)
Draws = np.random.Generator


@dataclass(frozen=True)
class Corruption:
    """One way in which pictures are bad; called with pixels [H, W, 3] uint8 it gives such.

    kind: noise, blur, weather or digital. small, large: what `function` takes at each strength, for either side.
    lengths: how many of these, the first ones, are in pixels.
    """

    name: str
    kind: str
    small: Sequence[Sequence[float]]
    large: Sequence[Sequence[float]]
    lengths: int
    function: Callable[..., np.ndarray]

    def __call__(self, pixels: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
        image = pixels.astype(np.float32) / 255
        made = self.function(image, draws, *self.amounts(strength, min(pixels.shape[:2])))
        return (np.clip(made, 0, 1) * 255).round().astype(np.uint8)

    def amounts(self, strength: int, side: int) -> list[float]:
        """What `function` takes, for an image of this side in pixels."""
        share = min(max(math.log(side / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
        amounts = [low ** (1 - share) * high**share
                   for low, high in zip(self.small[strength - 1], self.large[strength - 1], strict=True)]
        return [amount * max(1.0, side / LARGE) if at < self.lengths else amount for at, amount in enumerate(amounts)]


CORRUPTIONS: dict[str, Corruption] = {}


def corruption(kind: str, small: Sequence[Sequence[float]], large: Sequence[Sequence[float]],
               lengths: int = 0) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Registers a function of an image [H, W, 3] float32 from 0 to 1, of draws, and of amounts."""
    def entry(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        name = function.__name__
        CORRUPTIONS[name] = Corruption(name, kind, small, large, lengths, function)
        return function
    return entry


def chosen(names: str) -> list[Corruption]:
    """Corruptions by "all", or by their names with commas between them. Raises UsageError where there is no such."""
    if names == "all":
        return list(CORRUPTIONS.values())
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in wanted:
        if name not in CORRUPTIONS:
            raise UsageError(f'no corruption "{name}"; give all, or some of {",".join(CORRUPTIONS)}')
    return [CORRUPTIONS[name] for name in wanted]


def draws_of(name: str, strength: int, number: int) -> Draws:
    """What a corruption draws for the image with this number: the same ones each time."""
    return np.random.default_rng((zlib.crc32(name.encode()), strength, number))


# --- noise


@corruption("noise", [(0.04,), (0.06,), (0.08,), (0.09,), (0.10,)], [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)])
def gaussian_noise(image: np.ndarray, draws: Draws, deviation: float) -> np.ndarray:
    return image + deviation * draws.standard_normal(image.shape, np.float32)


@corruption("noise", [(500,), (250,), (100,), (75,), (50,)], [(60,), (25,), (12,), (5,), (3,)])
def shot_noise(image: np.ndarray, draws: Draws, photons: float) -> np.ndarray:
    """Of a sensor that catches so many photons where an image is white."""
    return draws.poisson(image * photons) / photons


@corruption("noise", [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)], [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)])
def impulse_noise(image: np.ndarray, draws: Draws, share: float) -> np.ndarray:
    """Salt and pepper, in each channel on its own."""
    drawn = draws.random(image.shape, np.float32)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, image))


# --- blur


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """An image seen through a kernel of odd sides, mirrored at its edges."""
    from scipy.signal import fftconvolve  # half a second, which each verb's start would take

    high, wide = (side // 2 for side in kernel.shape)
    padded = np.pad(image, ((high, high), (wide, wide), (0, 0)), "symmetric")
    return fftconvolve(padded, (kernel / kernel.sum())[:, :, None].astype(np.float32), "valid", axes=(0, 1))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3)


@corruption("blur", [(0.7,), (0.8,), (0.9,), (1.2,), (1.6,)], [(3,), (4,), (6,), (8,), (10,)], lengths=1)
def defocus_blur(image: np.ndarray, draws: Draws, radius: float) -> np.ndarray:
    """A point becomes a disc."""
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    return filtered(image, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


@corruption("blur", [(0.3, 0.6, 1), (0.35, 0.65, 1), (0.4, 0.7, 1), (0.4, 0.65, 2), (0.45, 0.7, 2)],
            [(0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)], lengths=2)
def glass_blur(image: np.ndarray, draws: Draws, sigma: float, reach: float, times: float) -> np.ndarray:
    """Each pixel comes from somewhere nearby, several times over; smooth before and after."""
    image, (height, width) = blurred(image, sigma), image.shape[:2]
    y, x = np.mgrid[:height, :width]
    for _ in range(round(times)):
        down, right = draws.uniform(-reach, reach, (2, height, width)).round().astype(int)
        image = image[np.clip(y + down, 0, height - 1), np.clip(x + right, 0, width - 1)]
    return blurred(image, sigma)


def streak(radius: float, sigma: float, angle: float) -> np.ndarray:
    """A kernel that draws a point out to one side, `radius` pixels far, ever fainter. The angle is in degrees."""
    reach = math.ceil(radius)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    steps = np.linspace(0, radius, 4 * reach + 1)
    x, y = (reach + steps * turn(math.radians(angle)) for turn in (math.cos, math.sin))
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for down in (0, 1):         # each step's weight goes to the four pixels around it
        for right in (0, 1):
            part = (1 - abs(y - top - down)) * (1 - abs(x - left - right))
            np.add.at(kernel, (np.minimum(top + down, 2 * reach), np.minimum(left + right, 2 * reach)), weights * part)
    return kernel


@corruption("blur", [(3, 1), (3, 1.5), (3, 2), (4, 2), (4.5, 2.5)], [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
            lengths=2)
def motion_blur(image: np.ndarray, draws: Draws, radius: float, sigma: float) -> np.ndarray:
    return filtered(image, streak(radius, sigma, draws.uniform(-45, 45)))


@corruption("blur", [(1.06,), (1.11,), (1.16,), (1.21,), (1.26,)], [(1.11,), (1.16,), (1.21,), (1.26,), (1.31,)])
def zoom_blur(image: np.ndarray, draws: Draws, most: float) -> np.ndarray:
    """The mean of an image that comes nearer and nearer."""
    height, width = image.shape[:2]
    picture = Image.fromarray((255 * image).round().astype(np.uint8))
    total = np.zeros_like(image)
    zooms = np.linspace(1, most, 11)
    for zoom in zooms:
        x, y = (side * (1 - 1 / zoom) / 2 for side in (width, height))
        total += np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, (x, y, width - x, height - y)))
    return total / (255 * len(zooms))


# --- weather


def smooth(draws: Draws, cells: int, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise [H, W] that varies over so many cells a side."""
    noise = Image.fromarray(draws.standard_normal((cells + 1, cells + 1), np.float32))
    height, width = shape
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC, (0.5, 0.5, cells + 0.5, cells + 0.5)))


def plasma(draws: Draws, shape: tuple[int, ...], decay: float) -> np.ndarray:
    """Clouds [H, W] from 0 to 1: noise of ever finer cells, each `decay` times as faint as the one before."""
    octaves = max(1, math.ceil(math.log2(max(shape))))
    clouds = np.sum([smooth(draws, 2**octave, shape) / decay**octave for octave in range(1, octaves + 1)], axis=0)
    return (clouds - clouds.min()) / np.ptp(clouds)


@corruption("weather",
            [(3, 1.5, 1.00, 0.10, 0.2, 0.60, 0.95), (3, 2.0, 1.00, 0.10, 0.2, 0.50, 0.90),
             (3, 2.0, 1.75, 0.15, 0.3, 0.55, 0.90), (4, 2.5, 2.25, 0.25, 0.3, 0.60, 0.85),
             (4, 4.0, 1.25, 0.30, 0.3, 0.65, 0.80)],
            [(10, 4, 3.0, 0.10, 0.3, 0.50, 0.80), (12, 4, 2.0, 0.20, 0.3, 0.50, 0.70),
             (12, 8, 4.0, 0.55, 0.3, 0.90, 0.70), (12, 8, 4.5, 0.55, 0.3, 0.85, 0.65),
             (12, 12, 2.5, 0.55, 0.3, 0.85, 0.55)], lengths=3)
def snow(image: np.ndarray, draws: Draws, radius: float, sigma: float, size: float, mean: float, deviation: float,
         threshold: float, keep: float) -> np.ndarray:
    """Flakes (noise above a threshold) that fall slantwise, before a picture that has paled."""
    height, width = image.shape[:2]
    few = Image.fromarray((mean + deviation * draws.standard_normal(
        (math.ceil(height / size), math.ceil(width / size)))).astype(np.float32))
    layer = np.asarray(few.resize((width, height), Image.Resampling.BILINEAR))
    layer = np.where(layer < threshold, 0, np.minimum(layer, 1))[:, :, None]
    layer = filtered(layer, streak(radius, sigma, draws.uniform(45, 135)))
    grey = (image @ GREY)[:, :, None]
    pale = keep * image + (1 - keep) * np.maximum(image, 1.5 * grey + 0.5)
    return pale + layer + layer[::-1, ::-1]


@corruption("weather", [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
            [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)])
def frost(image: np.ndarray, draws: Draws, keep: float, amount: float) -> np.ndarray:
    """Ice on a pane: crystals' ridges, where clouds of noise cross their middle, in patches, and bluish."""
    shape = image.shape[:2]
    ridges = np.sum([(1 - np.minimum(abs(smooth(draws, cells, shape)) * 2, 1)) ** 2 / share
                     for cells, share in ((5, 1.0), (11, 1.5), (23, 2.0))], axis=0)
    patches = np.clip(2.5 * plasma(draws, shape, 2.0) - 0.6, 0.15, 1)
    ice = np.clip(0.35 * patches + 0.6 * ridges * patches, 0, 1)
    return keep * image + amount * ice[:, :, None] * ICE


@corruption("weather", [(0.2, 9), (0.5, 9), (0.75, 6.25), (1, 4), (1.5, 3)],
            [(1.5, 4), (2, 4), (2.5, 2.9), (2.5, 2.25), (3, 2)])
def fog(image: np.ndarray, draws: Draws, amount: float, decay: float) -> np.ndarray:
    lightest = image.max()
    clouds = plasma(draws, image.shape[:2], decay)[:, :, None]
    return (image + amount * clouds) * lightest / max(lightest + amount, 1e-6)


@corruption("weather", [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)], [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)])
def brightness(image: np.ndarray, draws: Draws, amount: float) -> np.ndarray:
    """More of HSV's value, by hue and saturation as before."""
    value = image.max(2, keepdims=True)
    lit = np.minimum(value + amount, 1)
    return np.where(value > 0, image * (lit / np.maximum(value, 1e-6)), lit)


# --- digital


@corruption("digital", [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)], [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)])
def contrast(image: np.ndarray, draws: Draws, share: float) -> np.ndarray:
    mean = image.mean((0, 1))
    return mean + share * (image - mean)


@corruption("digital", [(0.005, 0.2, 0.06), (0.010, 0.10, 0.06), (0.012, 0.06, 0.05), (0.02, 0.045, 0.04),
                        (0.03, 0.04, 0.03)],
            [(0.002, 0.3, 0.08), (0.012, 0.08, 0.10), (0.004, 0.011, 0.02), (0.007, 0.011, 0.02), (0.012, 0.011, 0.02)])
def elastic_transform(image: np.ndarray, draws: Draws, amount: float, sigma: float, skew: float) -> np.ndarray:
    """Pixels displaced by a smooth field, of cells of 2 sigma, and by an affine map; all as shares of the side."""
    shape = image.shape[:2]
    size = np.array(shape).reshape(2, 1, 1)
    place = np.mgrid[:shape[0], :shape[1]] - (size - 1) / 2
    bent = np.einsum("ij,jhw->ihw", np.eye(2) + draws.uniform(-skew, skew, (2, 2)), place)
    bent += draws.uniform(-skew, skew, (2, 1, 1)) * size / 2 + (size - 1) / 2
    cells = max(1, round(1 / (2 * sigma)))
    bent += amount * size * np.stack([smooth(draws, cells, shape) for _ in shape])
    return np.stack([ndimage.map_coordinates(image[:, :, channel], bent, order=1, mode="reflect")
                     for channel in range(3)], 2)


@corruption("digital", [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)], [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)])
def pixelate(image: np.ndarray, draws: Draws, share: float) -> np.ndarray:
    height, width = image.shape[:2]
    picture = Image.fromarray((255 * image).round().astype(np.uint8))
    few = picture.resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.asarray(few.resize((width, height), Image.Resampling.NEAREST)) / 255


@corruption("digital", [(80,), (65,), (58,), (50,), (40,)], [(25,), (18,), (15,), (10,), (7,)])
def jpeg_compression(image: np.ndarray, draws: Draws, quality: float) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray((255 * image).round().astype(np.uint8)).save(file, "JPEG", quality=round(quality))
    return np.asarray(Image.open(file)) / 255
