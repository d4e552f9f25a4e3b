"""What is done to an image, written as calls: "RandomHorizontalFlip(0.5)", "RandomApply([RandomRotation(10)], 0.3)".

A recipe lists such texts, a run prints them, a checkpoint carries them. They are parsed, never evaluated: a call of an
operation of mindspore.dataset.vision, or of one that is registered here, with literals, with members of that module's
enums, with other calls, and with the names that NAMES lists, whose values are known once a network is.

What papers name, as a recipe writes it (before Normalize, but for the last):

    RandAugment             RandAugment(2, 9)
    TrivialAugment          TrivialAugmentWide()
    colour jitter           RandomColorAdjust((0.7, 1.3), (0.7, 1.3), (0.7, 1.3))
    3-Augment of DeiT III   RandomChoice([RandomColor((0, 0)), Solarize((128, 255)), RandomChoice([GaussianBlur(3, 0.5),
                            GaussianBlur(5, 1.0), GaussianBlur(9, 2.0)])])      and colour jitter
    shift, reflected        RandomCrop(image_size, 4, padding_mode=Border.REFLECT)
    rotation, zoom          RandomRotationZoom(7.2, 0.2)
    corruption              RandomCorruption(0.5)
    random erasing          RandomErasing(0.25)     after HWC2CHW

A model of one channel (model.channels: 1) sees images as Grayscale() makes them, which comes before Normalize where a
recipe doesn't place it. Behind it there can be whatever takes pixels [H, W, 1]: nothing on colours, no RandAugment, no
RandomRotationZoom, no RandomCorruption.
"""

import ast
import difflib
import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import permutations
from typing import Any, NoReturn

import mindspore.dataset.vision as vision
import numpy as np
from mindspore.dataset import transforms
from mindspore.dataset.transforms.py_transforms_util import Implementation
from PIL import Image

from ms_vit import limits
from ms_vit.data.corruptions import STRENGTHS, chosen
from ms_vit.data.decoding import Decode, DecodeToPillow, Grayscale
from ms_vit.data.images import AtLeast
from ms_vit.errors import UsageError
from ms_vit.registry import Registry

NAMES = ("image_size", "resize_size", "mean", "std")    # what Preprocessing.names gives the values of
# Give [H, W, 3] or [H, W, 1] uint8, the same each time.
PIXELS = ("Decode", "Resize", "CenterCrop", "Crop", "Pad", "PadToSize", "Grayscale")
MAX_ORDERED = 5         # operations that RandomOrder takes: their orders are listed

ENUMS: dict[str, type[Enum]] = {name: each for name, each in vars(vision).items()
                                if inspect.isclass(each) and issubclass(each, Enum)}
MINDSPORES: dict[str, Callable[..., Any]] = {
    **{name: each for name, each in vars(vision).items()
       if inspect.isclass(each) and each.__module__ == "mindspore.dataset.vision.transforms"},
    **{name: getattr(transforms, name) for name in ("Compose", "RandomApply", "RandomChoice")}}
# Those of our own, and of other packages (registry.py): builders of a callable, which makes an image of an image.
#     @operations.register("Invert")
#     def invert(share: float) -> Callable[[np.ndarray], np.ndarray]: ...
OURS: Registry[Callable[..., Any]] = Registry("operation")
register = OURS.register


@dataclass(frozen=True)
class Name:
    """A value that is known once a network is: one of NAMES."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Operation:
    """A call, parsed; str gives its text.

    An argument is a number, a text, True, False, None, a member of an enum, a Name, an Operation, or a list or tuple of
    such.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [*map(written, self.arguments), *(f"{key}={written(value)}" for key, value in self.keywords.items())]
        return f"{self.name}({', '.join(words)})"

    def given(self) -> dict[str, Any]:
        """The arguments by their parameters' names. Raises UsageError where the operation has no such."""
        try:
            return inspect.signature(builder(self.name)).bind_partial(*self.arguments, **self.keywords).arguments
        except TypeError as error:
            refuse(self, error)

    def build(self, names: Mapping[str, Any]) -> Any:
        """What does it to an image, with the values of `names` for NAMES. Raises UsageError where there is no such."""
        try:
            arguments = [bound(value, names) for value in self.arguments]
            keywords = {key: bound(value, names) for key, value in self.keywords.items()}
            return builder(self.name)(*arguments, **keywords)
        except UsageError:
            raise
        except Exception as error:      # a builder, ours or a user's, may raise anything
            refuse(self, error)


def refuse(operation: Operation | str, error: Exception) -> NoReturn:
    raise UsageError(f'the transform "{operation}" can\'t be: {(str(error).splitlines() or [""])[0]}') from error


def builder(name: str) -> Callable[..., Any]:
    """What makes an operation of its arguments. Raises UsageError, with the name that comes nearest, for no such."""
    found = OURS.entries.get(name) or MINDSPORES.get(name) or OURS.find(name)
    if found is None:
        near = difflib.get_close_matches(name, [*OURS, *MINDSPORES], n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise UsageError(f'mindspore.dataset.vision has no operation "{name}"{hint}')
    return found


# --- text -> Operation


def parse(text: str) -> Operation:
    """An operation from its text. Raises UsageError where it is none."""
    try:
        if len(text) > limits.MAX_CALL_TEXT:
            raise ValueError
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:     # what ast.parse raises
        text = text if len(text) <= limits.MAX_CALL_TEXT else f"{text[:40]}..."
        raise UsageError(f'the transform "{text}" is no call, as "RandomHorizontalFlip(0.5)" is') from error
    if not is_call(node):
        raise UsageError(f'the transform "{text}" is no call, as "RandomHorizontalFlip(0.5)" is')
    try:
        return call(node, 1)
    except (TypeError, ValueError, RecursionError) as error:        # ast.literal_eval's, too
        refuse(text, error)


def is_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def call(node: Any, depth: int) -> Operation:
    if depth > limits.MAX_CALL_DEPTH:
        raise ValueError(f"its calls lie deeper in one another than {limits.MAX_CALL_DEPTH}")
    arguments = tuple(argument(each, depth) for each in node.args)
    if not all(word.arg for word in node.keywords):
        raise ValueError("** gives no arguments here")
    keywords = {word.arg: argument(word.value, depth) for word in node.keywords}
    builder(node.func.id)
    return Operation(node.func.id, arguments, keywords)


def argument(node: ast.expr, depth: int) -> Any:
    if isinstance(node, ast.Name):
        if node.id not in NAMES:
            raise UsageError(f'unknown name "{node.id}" in a transform; there are {", ".join(NAMES)}')
        return Name(node.id)
    if isinstance(node, ast.List):
        return [argument(item, depth) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(argument(item, depth) for item in node.elts)
    if is_call(node):
        try:
            return call(node, depth + 1)
        except UsageError as error:     # to be told with the text that it is within
            raise ValueError(str(error)) from error
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ENUMS:
        return member(ENUMS[node.value.id], node.attr)
    value = ast.literal_eval(node)
    if isinstance(value, (int, float)) and not abs(value) <= limits.MAX_CALL_NUMBER:
        raise ValueError(f"{value} is too large a number; {limits.MAX_CALL_NUMBER:,} is the most")
    if not isinstance(value, (int, float, str, type(None))):
        raise ValueError(f"{value} is no number, text, list or call")
    return value


def member(enum: type[Enum], name: str) -> Enum:
    if name not in enum.__members__:
        raise ValueError(f"{enum.__name__} has no {name}; there are {', '.join(enum.__members__)}")
    return enum[name]


# --- Operation -> text, and -> what does it


def written(value: Any) -> str:
    """An argument as text that is parsed into the same."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
    return str(value) if isinstance(value, (Name, Operation)) else repr(value)


def bound(value: Any, names: Mapping[str, Any]) -> Any:
    """An argument with the values of `names` in it, and built operations."""
    if isinstance(value, Name):
        return measure(value.name, names[value.name])
    if isinstance(value, (list, tuple)):
        return type(value)(bound(item, names) for item in value)
    return value.build(names) if isinstance(value, Operation) else value


def measure(name: str, value: Any) -> Any:
    """The value of a name. Raises UsageError for a side that takes all memory."""
    for side in value if isinstance(value, tuple) else (value,):
        if isinstance(side, int) and side > limits.MAX_CALL_NUMBER:
            raise UsageError(f"{name} is {side:,}; {limits.MAX_CALL_NUMBER:,} is the most "
                             "(crop_pct decides resize_size)")
    return value


def draws_in_python(built: Iterable[Any]) -> bool:
    """Whether built operations, one after the other, take random numbers from Python's one source of them.

    Several threads would take them in another order each time; one alone draws the same ones from the same seed.
    """
    every = list(with_inner(built))
    drawing = [each for each in every
               if getattr(each, "random", True) is not False and type(each).__name__ not in (*PIXELS, "Compose")]
    # An operation that MindSpore has twice runs in Python where one before it does, or gives it Pillow's picture.
    return (any(getattr(each, "implementation", Implementation.PY) == Implementation.PY for each in every
                if not isinstance(each, (Decode, Grayscale)))
            and any(getattr(each, "implementation", Implementation.PY) != Implementation.C for each in drawing))


def with_inner(built: Iterable[Any]) -> Iterator[Any]:
    for each in built:
        yield each
        inner = getattr(each, "transforms", None)
        yield from with_inner(inner if isinstance(inner, list) else ())


# --- our own

@register("Decode")
def decode(to_pil: bool = False, at_least: AtLeast | None = None) -> Any:
    """MindSpore's, and with `at_least` one that reduces large JPEGs as it decodes them.

    at_least: pixels. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's scaled DCT, Pillow's `draft`), the
    smallest whose sides are at least so long; any other file whole.
    """
    if at_least is None:
        return MINDSPORES["Decode"](to_pil)
    sides = at_least if isinstance(at_least, tuple) else (at_least,)
    if not len(sides) <= 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise ValueError(f"at_least is a number of pixels from 1, or (height, width), not {at_least}")
    return DecodeToPillow(at_least) if to_pil else Decode(at_least)


@register("Grayscale")
def grayscale(num_output_channels: int = 1) -> Grayscale:
    """One channel of three, or three that are alike; MindSpore's own takes Pillow's pictures alone."""
    if num_output_channels not in (1, 3):
        raise ValueError(f"num_output_channels is 1 or 3, not {num_output_channels}")
    return Grayscale(num_output_channels)


@register("RandomOrder")
def random_order(transforms: list[Any]) -> Any:
    """One of all the orders of a few operations, each as probable as the others.

    MindSpore's own is written in Python, where its operations draw the same numbers for every image.
    """
    if not 1 <= len(transforms) <= MAX_ORDERED:
        raise ValueError(f"it takes 1 to {MAX_ORDERED} operations, not {len(transforms)}")
    return MINDSPORES["RandomChoice"]([MINDSPORES["Compose"](list(order)) for order in permutations(transforms)])


@register("RandomRotationZoom")
def random_rotation_zoom(degrees: float, zoom: float) -> Callable[[np.ndarray], np.ndarray]:
    """Turns an image about its middle, up to so many degrees either way, and zooms its height and its width apart.

    As Keras' RandomRotation(degrees / 360) and RandomZoom(zoom, zoom), which mirror what lies outside, but with one
    interpolation for both. zoom: 0.2 shows from 0.8 to 1.2 of either side.
    """
    if not 0 <= zoom < 1:
        raise ValueError(f"zoom is from 0 to below 1, not {zoom}")

    def rotate_and_zoom(pixels: np.ndarray) -> np.ndarray:
        pixels = in_colours(pixels)
        angle = math.radians(random.uniform(-degrees, degrees))
        return rotated_zoomed(pixels, angle, 1 + random.uniform(-zoom, zoom), 1 + random.uniform(-zoom, zoom))
    return rotate_and_zoom


def in_colours(pixels: Any) -> np.ndarray:
    """The same, or Pillow's picture as pixels [H, W, 3]. Raises ValueError where they have other channels."""
    pixels = np.asarray(pixels)
    if pixels.shape[2:] != (3,):
        raise ValueError("it takes three channels, so it comes before Grayscale()")
    return pixels


def rotated_zoomed(pixels: np.ndarray, angle: float, high: float, wide: float) -> np.ndarray:
    """Pixels [H, W, 3] uint8 turned clockwise by an angle in radians, then showing so much of height and width."""
    height, width, _ = pixels.shape
    sine, cosine = math.sin(angle), math.cos(angle)
    rows = np.array([[wide * cosine, high * sine], [-wide * sine, high * cosine]])     # (x, y) here -> there
    half = np.array([width, height]) / 2
    right, down = (math.ceil(max(0, beyond)) + 1 for beyond in abs(rows) @ half - half)
    padded = Image.fromarray(np.pad(pixels, ((down, down), (right, right), (0, 0)), "symmetric"))
    (a, b), (d, e) = rows
    c, f = half - rows @ half + (right, down)
    return np.asarray(padded.transform((width, height), Image.Transform.AFFINE, (a, b, c, d, e, f),
                                       Image.Resampling.BILINEAR))


@register("RandomCorruption")
def random_corruption(chance: float, names: str = "all") -> Callable[[np.ndarray], np.ndarray]:
    """One of the corruptions that `ms-vit eval --corrupt` scores, of any strength, with a chance from 0 to 1.

    names: "all", or names with commas between them. Who trains with some and is scored on the others learns how far it
    carries over.
    """
    if not 0 <= chance <= 1:
        raise ValueError(f"chance is from 0 to 1, not {chance}")
    corruptions = chosen(names)

    def corrupt(pixels: np.ndarray) -> np.ndarray:
        pixels = in_colours(pixels)
        if random.random() >= chance:
            return pixels
        draws = np.random.default_rng(random.getrandbits(64))
        return random.choice(corruptions)(pixels, random.choice(STRENGTHS), draws)
    return corrupt
