"""All that a ViT can be, once: recipes, weight formats, checkpoints and exports speak of networks by this."""

import dataclasses
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from ms_vit import limits
from ms_vit.errors import UsageError

Pool = Literal["cls", "mean", "flatten"]
StemForm = Literal["strided", "pooled"]
PosEmbed = Literal["learned", "sincos", "none"]
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
WORDS: dict[str, tuple[str, ...]] = {key: get_args(words) for key, words in (
    ("pool", Pool), ("stem_form", StemForm), ("pos_embed", PosEmbed), ("gelu", GeluKind))}
FLAGS = ("class_token", "distilled", "class_position", "layer_scale", "fc_norm", "post_norm", "qk_norm", "gelu_twice")
# Of training alone: no weights tell of them.
SHARES = ("dropout", "attention_dropout", "mlp_dropout", "drop_path", "head_dropout")
LISTS = ("stem", "head_hidden")
MAY_BE_NONE = ("head_dim", "class_token", "mlp_dropout")    # until __post_init__ settles them
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
        head_hidden: widths of the head's hidden layers, each with GELU.
        pos_embed: learned; sincos, fixed sines and cosines of row and column (Chen et al. 2021); or none.
        dropout: share dropped after positions, attention and MLP layers.
        attention_dropout: share of attention weights dropped.
        mlp_dropout: share dropped after MLP layers; dropout where not given.
        drop_path: stochastic depth of the last block.
        head_dropout: share dropped before the head's first layer and after its hidden ones.
        gelu: exact as in timm and PyTorch, or tanh as in JAX, which is faster on a CPU.
        gelu_twice: GELU after the second layer of an MLP, too.
        epsilon: of every LayerNorm.
        class_token: whether there is one; where not given, there is if pool is cls.
        distilled: a distillation token with a head of its own; logits are the mean of both (Touvron et al. 2021).
        registers: further tokens that only serve attention (Darcet et al. 2024).
        class_position: whether class, distillation and register tokens have positions, too.
        post_norm: LayerNorms follow the residual sums, as in Vaswani et al. 2017, and there is no last one.
        qk_norm: LayerNorm on each head's queries and keys (Dehghani et al. 2023, sec. 2.1).
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
    head_hidden: tuple[int, ...] = ()
    pos_embed: PosEmbed = "learned"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = None       # type: ignore[assignment]      # likewise
    drop_path: float = 0.0
    head_dropout: float = 0.0
    gelu: GeluKind = "exact"
    gelu_twice: bool = False
    epsilon: float = 1e-6
    class_token: bool = None        # type: ignore[assignment]      # likewise
    distilled: bool = False
    registers: int = 0
    class_position: bool = True
    post_norm: bool = False
    qk_norm: bool = False
    layer_scale: bool = False
    fc_norm: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} can't be split into num_heads {self.num_heads}; give head_dim")
        settled = {"head_dim": self.head_dim or self.dim // self.num_heads, "stem": tuple(self.stem),
                   "head_hidden": tuple(self.head_hidden),
                   "mlp_dropout": self.dropout if self.mlp_dropout is None else self.mlp_dropout,
                   "class_token": self.pool == "cls" if self.class_token is None else self.class_token}
        if not isinstance(self.image_size, int):
            settled["image_size"] = tuple(self.image_size)
        for key, value in settled.items():
            object.__setattr__(self, key, value)        # the way into a frozen dataclass, for its own __post_init__
        if self.class_token is False and (self.pool == "cls" or self.distilled):
            raise ValueError(f"class_token must be true where {'distilled is' if self.distilled else 'pool is cls'}")
        if self.distilled and (self.head_hidden or self.head_dropout):
            raise ValueError("head_hidden and head_dropout are for a network of one head, and distilled has two")
        if self.pos_embed == "sincos" and self.dim % 4:
            raise ValueError(f"dim must be a multiple of 4 where pos_embed is sincos, not {self.dim}")
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
            if value is None and key in MAY_BE_NONE:
                continue
            listed = isinstance(value, (list, tuple))
            if key in LISTS and not listed:
                raise ValueError(f"{key} must be a list of whole numbers, not {value!r:.40}")
            for number in value if listed and key in (*LISTS, "image_size") else [value]:
                if not (type(number) is int and least <= number <= most):
                    raise ValueError(f"{key} must be a whole number from {least} to {most:,}, not {number!r:.40}")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be one number, or height and width, not {self.image_size!r:.40}")
        for key, known in WORDS.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be {' or '.join(known)}, not {getattr(self, key)!r:.40}")
        for key in FLAGS:
            value = getattr(self, key)
            if not isinstance(value, bool) and not (value is None and key in MAY_BE_NONE):
                raise ValueError(f"{key} must be true or false, not {value!r:.40}")
        for key in (*SHARES, "epsilon"):
            value = getattr(self, key)
            if value is None and key in MAY_BE_NONE:
                continue
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
    def head_sizes(self) -> tuple[int, ...]:
        """Widths of the head: what it sees, its hidden layers, the classes."""
        return self.dim * (self.patches if self.pool == "flatten" else 1), *self.head_hidden, self.num_classes

    @property
    def weights(self) -> int:
        """Weights of the network's matrices, which are nearly all."""
        block = 4 * self.attention_dim + 2 * self.mlp_dim
        return self.dim * (self.depth * block + self.patches + self.channels * self.patch_size ** 2) + \
            sum(inputs * outputs for inputs, outputs in pairwise(self.head_sizes))

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
