"""What is timed: a network's shape, a batch, and whether it learns or infers. And what that costs on paper."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ms_vit.errors import UsageError
from ms_vit.models.config import ViTConfig
from ms_vit.models.costs import forward_flops

Mode = Literal["train", "infer"]
MODES = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network at work on batches of one size."""

    shape: ViTConfig
    batch: int
    mode: Mode

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Job":
        """Undoes dataclasses.asdict."""
        return cls(**values | {"shape": ViTConfig(**values["shape"])})

    @property
    def flops(self) -> int:
        """Of one step on one batch. Training is 3 x forward: each product has two more, of its size, in backward.

        (The gradient of the images is never computed, which the 3 passes over: half a per cent of ViT-Ti/16.)
        """
        return self.batch * forward_flops(self.shape) * (3 if self.mode == "train" else 1)


def vit(dim: int, depth: int, *, image_size: int, patch_size: int, num_classes: int) -> ViTConfig:
    """A ViT of the usual proportions: heads of 64, an MLP four times as wide as the tokens."""
    return ViTConfig(image_size=image_size, patch_size=patch_size, dim=dim, depth=depth, num_heads=dim // 64,
                     mlp_dim=4 * dim, num_classes=num_classes)


@dataclass(frozen=True)
class Model:
    """A network to compare by, and the batch it is given."""

    title: str
    shape: ViTConfig
    batch: int


TI = vit(192, 12, image_size=224, patch_size=16, num_classes=1000)
MODELS = {
    "ti": Model("ViT-Ti/16 at 224", TI, 16),
    "ti1": Model("ViT-Ti/16 at 224", TI, 1),
    "s": Model("ViT-S/16 at 224", vit(384, 12, image_size=224, patch_size=16, num_classes=1000), 8),
    "b": Model("ViT-B/16 at 224", vit(768, 12, image_size=224, patch_size=16, num_classes=1000), 8),
    "cifar": Model("d192 x 6 layers, patch 4 at 32", vit(192, 6, image_size=32, patch_size=4, num_classes=10), 128),
}


def chosen(words: str, known: Collection[str], what: str) -> list[Any]:
    """The names between commas. Raises UsageError where one is unknown."""
    names = words.split(",")
    for name in names:
        if name not in known:
            raise UsageError(f'no {what} "{name}"; there are {", ".join(known)}')
    return names
