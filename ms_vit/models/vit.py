"""The Vision Transformer (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"), read from top to bottom.

B images, C channels, N tokens of width D, H heads of width d. Parameters carry timm's names.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from mindspore import Parameter, nn, ops
from mindspore.common.initializer import Normal, TruncatedNormal, XavierUniform, initializer

from ms_vit.models import kernels

Pool = Literal["cls", "mean", "flatten"]


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size that may be given as one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def dense(inputs: int, outputs: int) -> kernels.Dense:
    """A linear layer [..., inputs] -> [..., outputs], started as in the paper's own code: Xavier uniform, bias zero."""
    return kernels.Dense(inputs, outputs, weight_init=XavierUniform(), bias_init="zeros")


class ConvStage(nn.Cell):
    """A stage of a conv stem, channels last: [B, H, W, C] -> [B, H / 2, W / 2, D].

    Xiao et al. have BatchNorm and ReLU here. LayerNorm and GELU, as everywhere else in this model, do without
    statistics of the batch, which would tie an image's logits to its neighbours in training.
    """

    def __init__(self, channels: int, dim: int, *, gelu: kernels.Kind = "exact", epsilon: float = 1e-6):
        super().__init__()
        self.conv = kernels.StridedConv(channels, dim)
        self.norm = kernels.LayerNorm(dim, epsilon=epsilon)
        self.gelu = kernels.Gelu(gelu)

    def construct(self, x):
        return self.gelu(self.norm(self.conv(x)))


class PatchEmbedding(nn.Cell):
    """Cuts images into patches and projects each (sec. 3.1, eq. 1): [B, C, H, W] -> [B, N, D].

    Sides that are no multiple of the patch are padded with zeros at the right and the bottom. With a conv `stem` a
    patch passes stages of convolution, which see over its border, and what they leave of it is projected (Xiao et al.
    2021, "Early Convolutions Help Transformers See Better", sec. 4).
    """

    def __init__(self, image_size: tuple[int, int], patch_size: int, channels: int, dim: int, *,
                 stem: Sequence[int] = (), gelu: kernels.Kind = "exact", epsilon: float = 1e-6):
        super().__init__()
        if stem and patch_size != 2 ** len(stem):
            raise ValueError(f"a stem of {len(stem)} stages, each halving the image, makes patches of {2 ** len(stem)} "
                             f"pixels, not {patch_size}")
        height, width = image_size
        self.grid = (-(-height // patch_size), -(-width // patch_size))
        self.padding = (0, self.grid[1] * patch_size - width, 0, self.grid[0] * patch_size - height)
        self.stem = nn.SequentialCell([ConvStage(inputs, outputs, gelu=gelu, epsilon=epsilon)
                                       for inputs, outputs in pairwise((channels, *stem))]) if stem else None
        self.proj = dense(stem[-1], dim) if stem else kernels.PatchConv(channels, dim, patch_size)

    def construct(self, x):
        if self.padding != (0, 0, 0, 0):
            x = ops.pad(x, self.padding)
        if self.stem is not None:
            x = self.stem(x.transpose(0, 2, 3, 1))                 # [B, H / p, W / p, C']
            x = x.reshape(-1, self.grid[0] * self.grid[1], x.shape[-1])    # [B, N, C']
        return self.proj(x)


class FeedForward(nn.Cell):
    """The MLP of a block: two linear layers with GELU between (sec. 3.1): [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, mlp_dim: int, *, dropout: float = 0.0, gelu: kernels.Kind = "exact"):
        super().__init__()
        self.fc1 = dense(dim, mlp_dim)
        self.fc2 = dense(mlp_dim, dim)
        self.gelu = kernels.Gelu(gelu)
        self.drop1, self.drop2 = kernels.Dropout(dropout), kernels.Dropout(dropout)

    def construct(self, x):
        x = self.drop1(self.gelu(self.fc1(x)))                 # [B, N, M]
        return self.drop2(self.fc2(x))                         # [B, N, D]


class Attention(nn.Cell):
    """Multi-head self-attention (Vaswani et al. 2017, sec. 3.2.2): [B, N, D] -> [B, N, D].

    `dim` must be divisible by `num_heads` unless `head_dim` is given. `dropout` acts on the output,
    `attention_dropout` on the attention weights.
    """

    def __init__(self, dim: int, num_heads: int, *, head_dim: int | None = None, dropout: float = 0.0,
                 attention_dropout: float = 0.0):
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ValueError(f"width {dim} can't be split into {num_heads} heads; give head_dim")
        head_dim = head_dim or dim // num_heads
        self.qkv = dense(dim, 3 * num_heads * head_dim)
        self.attend = kernels.Attend(num_heads, head_dim, attention_dropout)
        self.proj = dense(num_heads * head_dim, dim)
        self.dropout = kernels.Dropout(dropout)

    def construct(self, x):
        x = self.attend(self.qkv(x))                           # [B, N, H * d]
        return self.dropout(self.proj(x))                      # [B, N, D]


class EncoderBlock(nn.Cell):
    """One pre-norm block: attention and MLP, each with a residual (sec. 3.1, eq. 2 and 3): [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, head_dim: int | None = None, dropout: float = 0.0,
                 attention_dropout: float = 0.0, drop_path: float = 0.0, layer_scale: bool = False,
                 gelu: kernels.Kind = "exact", epsilon: float = 1e-6):
        super().__init__()
        self.norm1 = kernels.LayerNorm(dim, epsilon=epsilon)
        self.attn = Attention(dim, num_heads, head_dim=head_dim, dropout=dropout, attention_dropout=attention_dropout)
        self.ls1 = kernels.LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = kernels.LayerNorm(dim, epsilon=epsilon)
        self.mlp = FeedForward(dim, mlp_dim, dropout=dropout, gelu=gelu)
        self.ls2 = kernels.LayerScale(dim) if layer_scale else nn.Identity()
        self.drop_path1, self.drop_path2 = kernels.DropPath(drop_path), kernels.DropPath(drop_path)

    def construct(self, x):
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class TransformerEncoder(nn.SequentialCell):
    """`depth` blocks, one after the other: [B, N, D] -> [B, N, D].

    `drop_path` is the rate of the last block; the blocks before it get less, linearly (Huang et al. 2016, sec. 3).
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int, *, drop_path: float = 0.0, **block):
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        super().__init__([EncoderBlock(dim, num_heads, mlp_dim, drop_path=rate, **block) for rate in rates])


class ViT(nn.Cell):
    """Vision Transformer: images [B, C, H, W], float32 and normalised -> logits [B, num_classes].

    image_size: side of the square input, or (height, width), in pixels.
    pool: what the head sees. "cls": the class token (the paper), "mean": the mean of the patch tokens
        (Beyer et al. 2022), "flatten": all patch tokens side by side.
    stem: channels of convolutions ahead of the patches, each halving the image; patch_size is 2 ** their number.
    dropout: after the positions, the attention and both layers of the MLP. attention_dropout: on attention weights.
    drop_path: stochastic depth of the last block. All three are shares dropped, from 0 to below 1.
    gelu: "exact" as timm and PyTorch, "tanh" as JAX; "tanh" is several times faster on a CPU.

    The rest is what published weights differ in; the defaults are timm's and the paper's.
    epsilon: of every LayerNorm.
    class_token: whether there is one (default: where pool is "cls").
    distilled: a distillation token with a head of its own; logits are the mean of both (Touvron et al. 2021, "DeiT").
    registers: further tokens that only serve attention (Darcet et al. 2024).
    class_position: whether class, distillation and register tokens have positions, too.
    layer_scale: a learned factor for each channel of the residual branches.
    norm_after_pool: the last LayerNorm (then called fc_norm) follows the pooling, as in MAE and timm's mean pooling.

    Raises ValueError where `dim` is not divisible by `num_heads` and no `head_dim` is given, and where a stem doesn't
    make patches of `patch_size`.
    """

    def __init__(self, *, image_size: int | tuple[int, int], patch_size: int, num_classes: int, dim: int, depth: int,
                 num_heads: int, mlp_dim: int, channels: int = 3, head_dim: int | None = None, pool: Pool = "cls",
                 stem: Sequence[int] = (), dropout: float = 0.0, attention_dropout: float = 0.0,
                 drop_path: float = 0.0, gelu: kernels.Kind = "exact", epsilon: float = 1e-6,
                 class_token: bool | None = None, distilled: bool = False, registers: int = 0,
                 class_position: bool = True, layer_scale: bool = False, norm_after_pool: bool = False):
        super().__init__()
        self.pool = pool
        self.class_position = class_position
        self.patch_embed = PatchEmbedding(pair(image_size), patch_size, channels, dim, stem=stem, gelu=gelu,
                                          epsilon=epsilon)
        tokens = self.patch_embed.grid[0] * self.patch_embed.grid[1]

        self.cls_token = token(1, dim) if pool == "cls" or class_token else None
        self.dist_token = token(1, dim) if distilled else None
        self.reg_token = token(registers, dim) if registers else None
        self.extra_tokens = int(self.cls_token is not None) + int(distilled) + registers
        positions = tokens + (self.extra_tokens if class_position else 0)
        self.pos_embed = Parameter(initializer(TruncatedNormal(0.02), (1, positions, dim)))
        self.dropout = kernels.Dropout(dropout)

        self.blocks = TransformerEncoder(dim, depth, num_heads, mlp_dim, head_dim=head_dim, dropout=dropout,
                                         attention_dropout=attention_dropout, drop_path=drop_path,
                                         layer_scale=layer_scale, gelu=gelu, epsilon=epsilon)
        self.norm = nn.Identity() if norm_after_pool else kernels.LayerNorm(dim, epsilon=epsilon)
        self.fc_norm = kernels.LayerNorm(dim, epsilon=epsilon) if norm_after_pool else nn.Identity()
        # A head of zeros starts every class equal (sec. 3.2), and fine-tuning starts from undisturbed features.
        self.head = kernels.Dense(dim * tokens if pool == "flatten" else dim, num_classes, weight_init="zeros",
                                  bias_init="zeros")
        self.head_dist = kernels.Dense(dim, num_classes, weight_init="zeros", bias_init="zeros") if distilled else None

    def with_extra_tokens(self, x):
        """[B, N, D] -> [B, class, distillation and register tokens + N, D]."""
        tokens: tuple = ()
        for extra in (self.cls_token, self.dist_token, self.reg_token):
            if extra is not None:
                tokens = (*tokens, ops.broadcast_to(extra, (x.shape[0], -1, -1)).astype(x.dtype))
        return ops.concat((*tokens, x), 1) if tokens else x

    def embed(self, x):
        x = self.patch_embed(x)                                                        # [B, N, D]
        if self.class_position:
            return self.dropout(self.with_extra_tokens(x) + self.pos_embed)
        return self.dropout(self.with_extra_tokens(x + self.pos_embed))                # [B, extra + N, D]

    def classify(self, x):
        x = self.norm(x)                                                               # [B, extra + N, D]
        if self.head_dist is not None:
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        if self.pool == "cls":
            x = x[:, 0]
        elif self.pool == "mean":
            x = x[:, self.extra_tokens:].mean(1)
        else:
            x = x[:, self.extra_tokens:].reshape(x.shape[0], -1)
        return self.head(self.fc_norm(x))                                              # [B, num_classes]

    def construct(self, x):
        return self.classify(self.blocks(self.embed(x)))


def token(count: int, dim: int) -> Parameter:
    """Learned tokens [1, count, D] that are no patch's."""
    return Parameter(initializer(Normal(1e-6), (1, count, dim)))
