"""How a model wants its images: a list of operations, and the values that their names stand for."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ms_vit.data.images import AtLeast
from ms_vit.data.operations import PIXELS, Operation, bound, parse
from ms_vit.errors import UsageError


@dataclass(kw_only=True, frozen=True)
class Preprocessing:
    """How a model wants its images: operations, with the values that their names stand for.

    transforms: the operations' texts; see operations.py. image_size in pixels, of both sides or (height, width);
    resize_size is image_size / crop_pct; mean and std of the channels, three or one, from 0 to 1. The defaults are
    those of most models for ImageNet.
    """

    transforms: list[str] = field(default_factory=lambda: [
        "Decode()",
        "Resize(resize_size)",
        "CenterCrop(image_size)",
        "Normalize(mean, std)",
        "HWC2CHW()",
    ])
    image_size: int | Sequence[int]
    crop_pct: float = 0.875
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])

    def for_channels(self, channels: int) -> "Preprocessing":
        """The same for a model of so many: of one, with Grayscale ahead of Normalize, unless it is there.

        Mean and std of three numbers become their luma: exact for the mean, and for the std of images that are grey.
        """
        if channels != 1:
            return self
        texts = list(self.transforms)
        if not any(re.search(r"\bGrayscale\(", text) for text in texts):
            after = (at for at, text in enumerate(texts) if text.startswith(("Normalize", "HWC2CHW", "ToTensor")))
            texts.insert(next(after, len(texts)), "Grayscale()")
        return replace(self, mean=luma(self.mean), std=luma(self.std), transforms=texts)

    def check(self) -> None:
        """Raises UsageError where these operations don't make an image for the model of a picture."""
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            values = getattr(self, name)
            if len(values) not in (1, 3) or not all(low < value < math.inf for value in values):
                raise UsageError(f"{name} must be three numbers{' above 0' if name == 'std' else ''}, or one for grey "
                                 f"images, not {values}")
        if len(self.mean) != len(self.std):
            raise UsageError(f"mean and std are of other channels: {self.mean} and {self.std}")
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"crop_pct must be above 0 and at most 1, not {self.crop_pct}")
        if not self.transforms:
            raise UsageError("there are no transforms")
        made: Any = encoded(Image.new("RGB", (64, 48)))
        for text, operation in zip(self.transforms, self.operations(), strict=True):
            try:
                made = operation(made)
            except Exception as error:      # those that are written in Python raise nearly anything
                raise UsageError(f'"{text}" fails: {(str(error).splitlines() or [""])[0]}') from error
        shape = (len(self.mean), *self.sides)
        if not isinstance(made, np.ndarray) or made.shape != shape or made.dtype != np.float32:
            found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise UsageError(f"the transforms make {found} of a picture, not float32 {shape}")

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the model's images, in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return height, width

    @property
    def names(self) -> dict[str, Any]:
        """The values of operations.NAMES."""
        resized = tuple(int(side / self.crop_pct) for side in self.sides)
        one = isinstance(self.image_size, int)
        # Decoded images hold 0..255, and MindSpore's Normalize takes its mean and std on that scale.
        return {"image_size": self.image_size if one else self.sides, "resize_size": resized[0] if one else resized,
                "mean": [255 * value for value in self.mean], "std": [255 * value for value in self.std]}

    @cached_property
    def parsed(self) -> tuple[Operation, ...]:
        """The operations. Raises UsageError where one of the texts is none."""
        return tuple(map(parse, self.transforms))

    @property
    def at_least(self) -> AtLeast | None:
        """What a JPEG's sides may be reduced to as it is decoded, in pixels; None where it is decoded whole."""
        first = self.parsed[0]
        given = first.given().get("at_least") if first.name == "Decode" else None
        return bound(given, self.names)

    def operations(self) -> list[Any]:
        """What is done to an image, built: file bytes [n] uint8 -> [C, H, W] float32. Raises UsageError."""
        names = self.names
        return [operation.build(names) for operation in self.parsed]

    def split(self) -> tuple["Preprocessing", "Preprocessing"]:
        """What is done once, file bytes [n] -> pixels [H, W, C] uint8, and what is done to these pixels each time.

        Nothing is done once where these pixels alone would not do for the rest. Raises UsageError where one of the
        transforms is no operation.
        """
        self.operations()
        operations = list(self.parsed)
        first = operations[0]
        if first.name == "RandomCropDecodeResize":
            # It decodes no more than its crop. From all the pixels this one cuts the same place, by the same draws.
            operations[:1] = [Operation("Decode"), replace(first, name="RandomResizedCrop")]
        count = next((at for at, each in enumerate(operations) if each.name not in PIXELS), len(operations))
        if decodes_to_pillow(first) and not {each.name for each in operations[count:]} <= {"Normalize", "HWC2CHW"}:
            count = 0       # more operations want Pillow's picture, and pixels are no longer one
        texts = [str(each) for each in operations]
        return replace(self, transforms=texts[:count]), replace(self, transforms=texts[count:])

    def view(self, ready: np.ndarray) -> Image.Image:
        """The picture that a network sees: its input [C, H, W] float32, no longer normalised, as RGB or grey."""
        normalize = next((each.given() for each in self.parsed if each.name == "Normalize"), None)
        if normalize:
            mean, std = (np.reshape(bound(normalize[key], self.names), (-1, 1, 1)) for key in ("mean", "std"))
            pixels = ready * std + mean
        else:
            low, high = ready.min(), ready.max()
            pixels = 255 * (ready - low) / ((high - low) or 1)
        pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def apply(self, operations: list[Any], image: Image.Image) -> np.ndarray:
        """What `operations`, these, make of a picture that is decoded already, by `at_least`: [C, H, W] float32."""
        first = self.parsed[0]
        made: Any
        if first.name == "Decode":
            made, operations = image if decodes_to_pillow(first) else np.asarray(image), operations[1:]
        else:       # it wants a file
            made = encoded(image)
        for operation in operations:
            made = operation(made)
        return made


def luma(values: list[float]) -> list[float]:
    """One number for red's, green's and blue's, weighted as Grayscale weighs them (ITU-R BT.601)."""
    if len(values) != 3:
        return values
    return [round(sum(weight * value for weight, value in zip((0.299, 0.587, 0.114), values, strict=True)), 6)]


def decodes_to_pillow(operation: Operation) -> bool:
    """Whether an operation makes Pillow's picture of a file, on which those after it run by Pillow, too."""
    return operation.name == "Decode" and bool(operation.given().get("to_pil"))


def encoded(image: Image.Image) -> np.ndarray:
    """The bytes of a file with these pixels, [n] uint8."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)
