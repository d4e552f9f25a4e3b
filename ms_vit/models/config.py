"""All that a ViT can be, once: recipes, weight formats, checkpoints and exports speak of networks by this."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

from ms_vit import limits
from ms_vit.errors import UsageError

Pool = Literal["cls", "mean", "flatten"]
StemForm = Literal["strided", "pooled"]
GeluKind = Literal["exact", "tanh"]

# Dosovitskiy et al. 2020, table 1 (base, large); Touvron et al. 2021, "DeiT", table 1 (tiny, small).
SIZES = {
    "tiny": {"dim": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768},
    "small": {"dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
    "base": {"dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
}
PATCHES = (8, 14, 16, 32)
HEAD_DIM = 64       # of every published ViT
BATCH_NORM_EPSILON = 1e-5       # PyTorch's
WORDS = {"pool": ("cls", "mean", "flatten"), "gelu": ("exact", "tanh"), "stem_form": ("strided", "pooled")}
FLAGS = ("class_token", "distilled", "class_position", "layer_scale", "fc_norm")
SHARES = ("dropout", "attention_dropout", "drop_path")      # of training alone: no weights tell of them
RENAMED = {"norm_after_pool": "fc_norm"}                    # keys of files that version 0.1.0 wrote


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The arguments of ViT; the defaults of those that published weights differ in are timm's and the paper's.

    Raises ValueError where one is of another type or out of bounds (limits.py), or two contradict each other.

    Args:
        image_size: side of the square input, or height and width, in pixels.
        patch_size: side of a patch in pixels.
        num_classes: classes of the head.
        dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_dim: inner width of the MLP.
        channels: of an image.
        head_dim: width of a head; dim / num_heads where not given.
        pool: what the head sees - cls, the class token (the paper); mean, that of the patch tokens (Beyer et al. 2022);
            flatten, all patch tokens side by side.
        stem: channels of the stages of 3x3 convolutions ahead of the patches, each halving the image, e.g.
            [24, 48, 96, 192] for patches of 16 pixels (Xiao et al. 2021).
        stem_form: what a stage is - strided, one convolution with LayerNorm; pooled, two with BatchNorm and a pooling.
        dropout: share dropped after positions, attention and MLP layers.
        attention_dropout: share of attention weights dropped.
        drop_path: stochastic depth of the last block.
        gelu: exact as in timm and PyTorch, or tanh as in JAX, which is faster on a CPU.
        epsilon: of every LayerNorm.
        class_token: whether there is one; where not given, there is if pool is cls.
        distilled: a distillation token with a head of its own; logits are the mean of both (Touvron et al. 2021).
        registers: further tokens that only serve attention (Darcet et al. 2024).
        class_position: whether class, distillation and register tokens have positions, too.
        layer_scale: a learned factor for each channel of the residual branches (Touvron et al. 2021, "CaiT").
        fc_norm: the last LayerNorm follows the pooling, as in MAE and timm's mean pooling.
    """

    image_size: int | tuple[int, int]
    patch_size: int
    num_classes: int
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    channels: int = 3
    head_dim: int = None            # type: ignore[assignment]      # __post_init__ settles it
    pool: Pool = "cls"
    stem: tuple[int, ...] = ()
    stem_form: StemForm = "strided"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    gelu: GeluKind = "exact"
    epsilon: float = 1e-6
    class_token: bool = None        # type: ignore[assignment]      # likewise
    distilled: bool = False
    registers: int = 0
    class_position: bool = True
    layer_scale: bool = False
    fc_norm: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} can't be split into num_heads {self.num_heads}; give head_dim")
        settled = {"head_dim": self.head_dim or self.dim // self.num_heads, "stem": tuple(self.stem),
                   "class_token": self.pool == "cls" if self.class_token is None else self.class_token}
        if not isinstance(self.image_size, int):
            settled["image_size"] = tuple(self.image_size)
        for key, value in settled.items():
            object.__setattr__(self, key, value)        # the way into a frozen dataclass, for its own __post_init__
        if self.class_token is False and (self.pool == "cls" or self.distilled):
            raise ValueError(f"class_token must be true where {'distilled is' if self.distilled else 'pool is cls'}")
        if self.stem and self.patch_size != 2 ** len(self.stem):
            raise ValueError(f"a stem of {len(self.stem)} stages, each halving the image, makes patches of "
                             f"{2 ** len(self.stem)} pixels, not {self.patch_size}")
        if self.patches > limits.MAX_PATCHES:
            raise ValueError(f"image_size {self.image_size} makes {self.patches:,} patches, more than "
                             f"{limits.MAX_PATCHES:,}")
        if self.weights > limits.MAX_WEIGHTS:
            raise ValueError(f"dim, depth and mlp_dim make {self.weights:,} weights, more than {limits.MAX_WEIGHTS:,}")

    def check_types(self) -> None:
        """Raises ValueError where a value alone is wrong: files of strangers and YAML bring any."""
        for key, (least, most) in limits.NETWORK.items():
            value = getattr(self, key)
            for number in value if isinstance(value, (list, tuple)) and key in ("stem", "image_size") else [value]:
                if not (type(number) is int and least <= number <= most) and not (key == "head_dim" and value is None):
                    raise ValueError(f"{key} must be a whole number from {least} to {most:,}, not {number!r:.40}")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be one number, or height and width, not {self.image_size!r:.40}")
        for key, known in WORDS.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be {' or '.join(known)}, not {getattr(self, key)!r:.40}")
        for key in FLAGS:
            if not isinstance(getattr(self, key), bool) and not (key == "class_token" and self.class_token is None):
                raise ValueError(f"{key} must be true or false, not {getattr(self, key)!r:.40}")
        for key in (*SHARES, "epsilon"):
            value = getattr(self, key)
            if type(value) not in (int, float) or not 0 <= value < 1 or (key == "epsilon" and not value):
                bound = "above 0" if key == "epsilon" else "at least 0"
                raise ValueError(f"{key} must be {bound} and below 1, not {value!r:.40}")

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Of an image, in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches, those that are filled up included."""
        height, width = self.height_and_width
        return -(-height // self.patch_size), -(-width // self.patch_size)

    @property
    def patches(self) -> int:
        """N, the number of patch tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def extra_tokens(self) -> int:
        """Class, distillation and register tokens, which are no patch's."""
        return int(self.class_token) + int(self.distilled) + self.registers

    @property
    def positions(self) -> int:
        """Tokens that have a position."""
        return self.patches + (self.extra_tokens if self.class_position else 0)

    @property
    def attention_dim(self) -> int:
        """Width of the queries of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def head_inputs(self) -> int:
        """Width of what the head sees."""
        return self.dim * (self.patches if self.pool == "flatten" else 1)

    @property
    def weights(self) -> int:
        """Weights of the network's matrices, which are nearly all."""
        block = 4 * self.attention_dim + 2 * self.mlp_dim
        return self.dim * (self.depth * block + self.patches + self.channels * self.patch_size ** 2) + \
            self.head_inputs * self.num_classes

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ViTConfig":
        """Of what a file of ours says. Raises TypeError or ValueError where that is no network."""
        return cls(**{RENAMED.get(key, key): value for key, value in values.items()})


KEYS = tuple(field.name for field in dataclasses.fields(ViTConfig))


def named(name: str) -> dict[str, Any]:
    """What a model's name says, `vit_{tiny,small,base,large}_patch{8,14,16,32}[_IMAGE_SIZE]`, as timm names them.

    The image size is 224 where the name has none, and there are ImageNet's 1,000 classes. Raises UsageError.
    """
    match = re.fullmatch(r"vit_([a-z]+)_patch(\d+)(?:_(\d+))?", name)
    if not match or match[1] not in SIZES or int(match[2]) not in PATCHES:
        raise UsageError(f'no model "{name}"; there are vit_{{{",".join(SIZES)}}}_patch{{8,14,16,32}}_SIZE, '
                         "for instance vit_tiny_patch16_224")
    return SIZES[match[1]] | {"patch_size": int(match[2]), "image_size": int(match[3] or 224), "num_classes": 1000}


def configure(values: dict[str, Any], **changes: Any) -> ViTConfig:
    """A network's config of `values` and of those `changes` that are not None. Raises UsageError."""
    try:
        return ViTConfig(**values | {key: value for key, value in changes.items() if value is not None})
    except TypeError as error:
        raise UsageError(f"ViT takes {', '.join(KEYS)}: {str(error).removeprefix('ViTConfig.__init__() ')}") from error
    except ValueError as error:
        raise UsageError(f"there is no such network: {error}") from error
