"""What is timed: a network's shape, a batch, and whether it learns or infers. And what that costs on paper."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ms_vit.errors import UsageError
from ms_vit.models.config import ViTConfig

Mode = Literal["train", "infer"]
MODES = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class Shape(ViTConfig):
    """A plain ViT with a class token, on square images."""

    @property
    def flops(self) -> int:
        """Floating-point operations of one image's forward pass, in matrix products alone (2 for a multiply-add).

        With N patches, T = N + 1 tokens of width D, an MLP of width M, patches of P x P x 3, and C classes:
        patches 2 N (3 P^2) D; each block: qkv 6 T D^2, scores and mix 2 T^2 D each, proj 2 T D^2, MLP 4 T D M;
        head 2 D C. Softmax, norms, GELU and sums are a per cent or two more, and are left out as is usual.
        """
        patches, dim = self.patches, self.dim
        tokens = patches + 1
        block = 8 * tokens * dim**2 + 4 * tokens**2 * dim + 4 * tokens * dim * self.mlp_dim
        return 6 * patches * self.patch_size**2 * dim + self.depth * block + 2 * dim * self.num_classes


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network at work on batches of one size."""

    shape: Shape
    batch: int
    mode: Mode

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Job":
        """Undoes dataclasses.asdict."""
        return cls(**values | {"shape": Shape(**values["shape"])})

    @property
    def flops(self) -> int:
        """Of one step on one batch. Training is 3 x forward: each product has two more, of its size, in backward.

        (The gradient of the images is never computed, which the 3 passes over: half a per cent of ViT-Ti/16.)
        """
        return self.batch * self.shape.flops * (3 if self.mode == "train" else 1)


def vit(dim: int, depth: int, *, image_size: int, patch_size: int, num_classes: int) -> Shape:
    """A ViT of the usual proportions: heads of 64, an MLP four times as wide as the tokens."""
    return Shape(image_size=image_size, patch_size=patch_size, dim=dim, depth=depth, num_heads=dim // 64,
                 mlp_dim=4 * dim, num_classes=num_classes)


@dataclass(frozen=True)
class Model:
    """A network to compare by, and the batch it is given."""

    title: str
    shape: Shape
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
