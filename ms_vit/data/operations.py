"""What is done to an image, written as calls of mindspore.dataset.vision: "RandomHorizontalFlip(0.5)".

A recipe lists such texts, a run prints them, a checkpoint carries them. They are read, never evaluated: a call of one
of that module's operations with literals, and with the names that `Preprocessing.names` gives.
"""

import ast
import difflib
import inspect
import io
import math
from dataclasses import dataclass, field, replace
from typing import Any

import mindspore.dataset.vision as vision
import numpy as np
from PIL import Image

from ms_vit import limits
from ms_vit.errors import UsageError

PIXELS = ("Decode", "Resize", "CenterCrop", "Crop", "Pad", "PadToSize")     # give [H, W, 3] uint8, the same each time


@dataclass(kw_only=True, frozen=True)
class Preprocessing:
    """How a model wants its images: operations, with the values that their names stand for.

    image_size in pixels; resize_size is image_size / crop_pct; mean and std of the channels, from 0 to 1. The defaults
    are those of most models for ImageNet.
    """

    transforms: list[str] = field(default_factory=lambda: [
        "Decode()",
        "Resize(resize_size)",
        "CenterCrop(image_size)",
        "Normalize(mean, std)",
        "HWC2CHW()",
    ])
    image_size: int
    crop_pct: float = 0.875
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])

    def check(self) -> None:
        """Raises UsageError where these operations don't make an image for the model of a picture."""
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            values = getattr(self, name)
            if len(values) != 3 or not all(low < value < math.inf for value in values):
                raise UsageError(f"{name} must be three numbers{' above 0' if name == 'std' else ''}, not {values}")
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"crop_pct must be above 0 and at most 1, not {self.crop_pct}")
        if not self.transforms:
            raise UsageError("there are no transforms")
        file = io.BytesIO()
        Image.new("RGB", (64, 48)).save(file, "PNG")
        made: Any = np.frombuffer(file.getvalue(), np.uint8)
        for text, each in zip(self.transforms, self.operations(), strict=True):
            try:
                made = each(made)
            except (RuntimeError, TypeError, ValueError, OSError) as error:
                raise UsageError(f'"{text}" fails: {(str(error).splitlines() or [""])[0]}') from error
        shape = (3, self.image_size, self.image_size)
        if not isinstance(made, np.ndarray) or made.shape != shape or made.dtype != np.float32:
            found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise UsageError(f"the transforms make {found} of a picture, not float32 {shape}")

    @property
    def names(self) -> dict[str, Any]:
        # Decoded images hold 0..255, and MindSpore's Normalize takes its mean and std on that scale.
        return {"image_size": self.image_size, "resize_size": int(self.image_size / self.crop_pct),
                "mean": [255 * value for value in self.mean], "std": [255 * value for value in self.std]}

    def operations(self) -> list[Any]:
        """The operations of mindspore.dataset.vision: file bytes [n] uint8 -> [3, H, W] float32."""
        return [operation(text, self.names) for text in self.transforms]

    def split(self) -> tuple["Preprocessing", "Preprocessing"]:
        """What is done once, file bytes [n] -> pixels [H, W, 3] uint8, and what is done to these pixels each time.

        Nothing is done once where these pixels alone would not do for the rest. Raises UsageError where one of the
        transforms is no operation.
        """
        self.operations()
        texts = list(self.transforms)
        if texts[0].startswith("RandomCropDecodeResize("):
            # It decodes no more than its crop. From all the pixels this one cuts the same place, by the same draws.
            texts[:1] = ["Decode()", texts[0].replace("RandomCropDecodeResize", "RandomResizedCrop")]
        names = [text.partition("(")[0] for text in texts]
        count = next((at for at, name in enumerate(names) if name not in PIXELS), len(names))
        if texts[0] == "Decode(to_pil=True)" and not set(names[count:]) <= {"Normalize", "HWC2CHW"}:
            count = 0       # more operations want Pillow's picture, and pixels are no longer one
        once, each = texts[:count], texts[count:]
        return replace(self, transforms=once), replace(self, transforms=each)

    def apply(self, operations: list[Any], image: Image.Image) -> np.ndarray:
        """What `operations`, these, make of a picture that is decoded already: [3, H, W] float32."""
        pixels: Any = image if self.transforms[0] == "Decode(to_pil=True)" else np.asarray(image)
        for each in operations[1:]:
            pixels = each(pixels)
        return pixels


def operation(text: str, names: dict[str, Any]) -> Any:
    """One operation from its text, e.g. "Resize(resize_size, Inter.BICUBIC)"."""
    try:
        if len(text) > limits.MAX_CALL_TEXT:
            raise ValueError
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:     # what ast.parse raises
        text = text if len(text) <= limits.MAX_CALL_TEXT else f"{text[:40]}..."
        raise UsageError(f'the transform "{text}" is no call, as "RandomHorizontalFlip(0.5)" is') from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise UsageError(f'the transform "{text}" is no call, as "RandomHorizontalFlip(0.5)" is')
    try:
        arguments = [literal(node, names) for node in call.args]
        keywords = {word.arg: literal(word.value, names) for word in call.keywords if word.arg}
        return vision_class(call.func.id)(*arguments, **keywords)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f'the transform "{text}" can\'t be: {reason}') from error


def vision_class(name: str) -> Any:
    found = getattr(vision, name, None)
    if not inspect.isclass(found) or not hasattr(found, "parse"):
        near = difflib.get_close_matches(name, [n for n in dir(vision) if n[:1].isupper()], n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise UsageError(f'mindspore.dataset.vision has no operation "{name}"{hint}')
    return found


def literal(node: ast.expr, names: dict[str, Any]) -> Any:
    """A number, text, list or tuple of them, one of `names`, or a member of Inter or Border."""
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise UsageError(f'unknown name "{node.id}" in a transform; there are {", ".join(names)}')
        if isinstance(value := names[node.id], int) and value > limits.MAX_CALL_NUMBER:
            raise UsageError(f"{node.id} is {value:,}; {limits.MAX_CALL_NUMBER:,} is the most "
                             "(crop_pct decides resize_size)")
        return value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [literal(item, names) for item in node.elts]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("Inter", "Border"):
        return getattr(vision, node.value.id)[node.attr]
    value = ast.literal_eval(node)
    if isinstance(value, (int, float)) and not abs(value) <= limits.MAX_CALL_NUMBER:
        raise ValueError(f"{value} is too large a number; {limits.MAX_CALL_NUMBER:,} is the most")
    return value
