"""What is exported: a network, its arguments and weights, and its preprocessing in other libraries' words."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mindspore.dataset.vision import Inter

from ms_vit.data.operations import bound
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import UsageError
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.weights.files import METADATA_KEY, ModelSpec

INTERPOLATIONS = {Inter.BILINEAR: "bilinear", Inter.BICUBIC: "bicubic", Inter.PILCUBIC: "bicubic"}
CROPPED = ["Decode", "Resize", "CenterCrop", "Normalize", "HWC2CHW"]


@dataclass(frozen=True)
class Source:
    """A network and what goes with it."""

    net: ViT
    spec: ModelSpec

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The weights, float32, under timm's names."""
        return {parameter.name: parameter.asnumpy() for parameter in self.net.get_parameters()}

    @property
    def config(self) -> ViTConfig:
        return self.spec.config

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an input, in pixels."""
        return self.config.channels, *self.config.height_and_width

    @property
    def padded(self) -> bool:
        """Whether the images' sides are no multiples of the patch's."""
        return any(side % self.config.patch_size for side in self.image_shape[1:])

    def to_config(self) -> dict[str, Any]:
        """The spec as an entry for another library's config.json, where its own keys can't say everything."""
        return {METADATA_KEY: asdict(self.spec)}


def refuse(library: str, features: dict[str, bool]) -> None:
    """Raises UsageError with the first of `features`, which it lacks, that this one has."""
    for feature, has in features.items():
        if has:
            raise UsageError(f"{library}'s ViT has no {feature}, which this one has; "
                             "--format onnx and --format safetensors take every ViT")


@dataclass(frozen=True)
class Pictures:
    """Resize, then crop to the model's size, as other libraries describe it.

    resize: what a picture is resized to, (height, width), or by one number the shorter side, in pixels.
    crop_pct: the crop's share of that, so that int(size / crop_pct) is the side. interpolation: bilinear or bicubic.
    """

    resize: int | tuple[int, int]
    crop_pct: float
    interpolation: str


def pictures(preprocessing: Preprocessing) -> Pictures | None:
    """A preprocessing in other libraries' words; None where it is more than decode, resize, crop (square), normalise.

    Pictures come out the same, but for a crop whose margin is odd: torchvision rounds its place otherwise, by a pixel.
    """
    steps = {operation.name: operation for operation in preprocessing.parsed}
    size, names = preprocessing.image_size, preprocessing.names
    listed = [operation.name for operation in preprocessing.parsed]
    if listed not in (CROPPED, [name for name in CROPPED if name != "CenterCrop"]) or not isinstance(size, int):
        return None
    if preprocessing.at_least is not None:
        return None
    given = steps["Resize"].given()
    resized = bound(given["size"], names)
    resize = (resized[0], resized[1]) if isinstance(resized, (list, tuple)) else int(resized)
    crop = bound(steps["CenterCrop"].given()["size"], names) if "CenterCrop" in steps else resize
    interpolation = INTERPOLATIONS.get(given.get("interpolation", Inter.BILINEAR))
    if interpolation is None or (crop != size if "CenterCrop" in steps else crop != (size, size)):
        return None
    side = resize[0] if isinstance(resize, tuple) else resize
    shares = (preprocessing.crop_pct, size / side, math.nextafter(size / side, 0))
    return Pictures(resize, next(share for share in shares if int(size / share) == side), interpolation)
