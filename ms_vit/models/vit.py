"""The Vision Transformer (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"), read from top to bottom.

B images, C channels, N tokens of width D, H heads of width d. Parameters carry timm's names.
"""

from functools import partial
from itertools import pairwise
from typing import Any

from mindspore import Parameter, nn, ops
from mindspore.common.initializer import Normal, XavierUniform, initializer

from ms_vit.cell import TopCell
from ms_vit.models import kernels
from ms_vit.models.config import GeluKind, ViTConfig, configure, named
from ms_vit.models.positions import position_embeddings
from ms_vit.models.stem import ConvStage, PooledStage


def dense(inputs: int, outputs: int, *, for_product: bool = False) -> kernels.Dense:
    """A linear layer [..., inputs] -> [..., outputs], started as in the paper's own code: Xavier uniform, bias zero."""
    return kernels.Dense(inputs, outputs, for_product=for_product, weight_init=XavierUniform(), bias_init="zeros")


class PatchEmbedding(nn.Cell):
    """Cuts images into patches and projects each (sec. 3.1, eq. 1): [B, C, H, W] -> [B, N, D].

    Sides that are no multiple of the patch are padded with zeros at the right and the bottom. With a conv `stem` a
    patch passes stages of convolution, which see over its border, and what they leave of it is projected (Xiao et al.
    2021, "Early Convolutions Help Transformers See Better", sec. 4).
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        (height, width), patch, stem = config.height_and_width, config.patch_size, config.stem
        self.grid = config.grid
        self.padding = (0, self.grid[1] * patch - width, 0, self.grid[0] * patch - height)
        stage = partial(PooledStage, gelu=config.gelu) if config.stem_form == "pooled" else \
            partial(ConvStage, gelu=config.gelu, epsilon=config.epsilon)
        self.stem = nn.SequentialCell([stage(*ends) for ends in pairwise((config.channels, *stem))]) if stem else None
        self.proj = dense(stem[-1], config.dim) if stem else kernels.PatchConv(config.channels, config.dim, patch)

    def construct(self, x):
        if self.padding != (0, 0, 0, 0):
            x = ops.pad(x, self.padding)
        if self.stem is not None:
            x = self.stem(x.transpose(0, 2, 3, 1))                 # [B, H / p, W / p, C']
            x = x.reshape(-1, self.grid[0] * self.grid[1], x.shape[-1])    # [B, N, C']
        return self.proj(x)


class FeedForward(nn.Cell):
    """The MLP of a block (sec. 3.1): two linear layers, GELU after one or `gelu_twice`: [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, mlp_dim: int, *, dropout: float = 0.0, gelu: GeluKind = "exact",
                 gelu_twice: bool = False):
        super().__init__()
        self.fc1 = dense(dim, mlp_dim)
        self.fc2 = dense(mlp_dim, dim)
        self.mlp = kernels.Mlp(gelu, dropout)
        self.last = kernels.Gelu(gelu) if gelu_twice else nn.Identity()
        self.dropout = kernels.Dropout(dropout)

    def construct(self, x):
        x = self.mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self.dropout(self.last(x))                      # [B, N, D]


class Attention(nn.Cell):
    """Multi-head self-attention (Vaswani et al. 2017, sec. 3.2.2): [B, N, D] -> [B, N, D].

    `dim` must be divisible by `num_heads` unless `head_dim` is given. `dropout` acts on the output,
    `attention_dropout` on the attention weights. `qk_norm` normalises each head's queries and keys (Henry et al. 2020).
    """

    def __init__(self, dim: int, num_heads: int, *, head_dim: int | None = None, dropout: float = 0.0,
                 attention_dropout: float = 0.0, qk_norm: bool = False, epsilon: float = 1e-6):
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ValueError(f"width {dim} can't be split into {num_heads} heads; give head_dim")
        head_dim = head_dim or dim // num_heads
        self.width, self.heads = num_heads * head_dim, (num_heads, head_dim)
        self.qkv = dense(dim, 3 * self.width, for_product=not qk_norm)
        self.q_norm = kernels.LayerNorm(head_dim, epsilon=epsilon) if qk_norm else None
        self.k_norm = kernels.LayerNorm(head_dim, epsilon=epsilon) if qk_norm else None
        self.attend = kernels.Attend(num_heads, head_dim, attention_dropout)
        self.proj = dense(self.width, dim)
        self.dropout = kernels.Dropout(dropout)

    def normed(self, qkv):
        q, k, v = ops.split(qkv, self.width, axis=-1)          # 3 x [B, N, H * d]
        apart = (*q.shape[:2], *self.heads)
        q, k = self.q_norm(q.reshape(apart)), self.k_norm(k.reshape(apart))            # type: ignore[misc]
        return ops.concat((q.reshape(v.shape).astype(v.dtype), k.reshape(v.shape).astype(v.dtype), v), -1)

    def construct(self, x):
        qkv = self.qkv(x)                                      # [B, N, 3 * H * d]
        if self.q_norm is not None:
            qkv = self.normed(qkv)
        return self.dropout(self.proj(self.attend(qkv)))       # [B, N, D]


class EncoderBlock(nn.Cell):
    """One block: attention and MLP, each with a residual (sec. 3.1, eq. 2 and 3): [B, N, D] -> [B, N, D].

    What enters a branch is normalised; with `post_norm` what leaves the sum is, as in Vaswani et al.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, head_dim: int | None = None, dropout: float = 0.0,
                 attention_dropout: float = 0.0, mlp_dropout: float = 0.0, drop_path: float = 0.0,
                 layer_scale: bool = False, post_norm: bool = False, qk_norm: bool = False, gelu_twice: bool = False,
                 gelu: GeluKind = "exact", epsilon: float = 1e-6):
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = kernels.LayerNorm(dim, epsilon=epsilon, for_product=not post_norm)
        self.attn = Attention(dim, num_heads, head_dim=head_dim, dropout=dropout, attention_dropout=attention_dropout,
                              qk_norm=qk_norm, epsilon=epsilon)
        self.ls1 = kernels.LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = kernels.LayerNorm(dim, epsilon=epsilon, for_product=not post_norm)
        self.mlp = FeedForward(dim, mlp_dim, dropout=mlp_dropout, gelu=gelu, gelu_twice=gelu_twice)
        self.ls2 = kernels.LayerScale(dim) if layer_scale else nn.Identity()
        self.drop_path1, self.drop_path2 = kernels.DropPath(drop_path), kernels.DropPath(drop_path)
        self.fused = None if layer_scale or post_norm or qk_norm or gelu_twice else \
            kernels.fused_block(num_heads, epsilon, gelu)

    def construct(self, x):
        if self.fused is not None and not self.training:
            attn, mlp = self.attn, self.mlp
            return self.fused(x, self.norm1.weight, self.norm1.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight,
                              attn.proj.bias, self.norm2.weight, self.norm2.bias, mlp.fc1.weight, mlp.fc1.bias,
                              mlp.fc2.weight, mlp.fc2.bias)
        return self.around(x, self.attn(x if self.post_norm else self.norm1(x)))

    def around(self, x, attended):
        """What the block makes of x and of what its attention made of it, each [B, N, D]."""
        x = x + self.drop_path1(self.ls1(attended))
        if self.post_norm:
            x = self.norm1(x)
            return self.norm2(x + self.drop_path2(self.ls2(self.mlp(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class TransformerEncoder(nn.SequentialCell):
    """`depth` blocks, one after the other: [B, N, D] -> [B, N, D].

    `drop_path` is the rate of the last block; the blocks before it get less, linearly (Huang et al. 2016, sec. 3).
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int, *, drop_path: float = 0.0, **block):
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        super().__init__([EncoderBlock(dim, num_heads, mlp_dim, drop_path=rate, **block) for rate in rates])


class HiddenLayer(nn.Cell):
    """A hidden layer of the head, with GELU: [B, inputs] -> [B, outputs]."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float = 0.0, gelu: GeluKind = "exact"):
        super().__init__()
        self.fc = dense(inputs, outputs)
        self.gelu = kernels.Gelu(gelu)
        self.dropout = kernels.Dropout(dropout)

    def construct(self, x):
        return self.dropout(self.gelu(self.fc(x)))


class ViT(TopCell):
    """Vision Transformer: images [B, C, H, W], float32 and normalised -> logits [B, num_classes].

    `config` says all that it can be, and stays what it was built from.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        dim, gelu, epsilon = config.dim, config.gelu, config.epsilon
        self.pool = config.pool
        self.class_position = config.class_position
        self.extra_tokens = config.extra_tokens
        self.patch_embed = PatchEmbedding(config)

        self.cls_token = token(1, dim) if config.class_token else None
        self.dist_token = token(1, dim) if config.distilled else None
        self.reg_token = token(config.registers, dim) if config.registers else None
        self.pos_embed = position_embeddings(config)
        self.dropout = kernels.Dropout(config.dropout)

        self.blocks = TransformerEncoder(
            dim, config.depth, config.num_heads, config.mlp_dim, head_dim=config.head_dim, dropout=config.dropout,
            attention_dropout=config.attention_dropout, mlp_dropout=config.mlp_dropout, drop_path=config.drop_path,
            layer_scale=config.layer_scale, post_norm=config.post_norm, qk_norm=config.qk_norm,
            gelu_twice=config.gelu_twice, gelu=gelu, epsilon=epsilon)
        self.norm = nn.Identity() if config.fc_norm or config.post_norm else kernels.LayerNorm(dim, epsilon=epsilon)
        self.fc_norm = kernels.LayerNorm(dim, epsilon=epsilon) if config.fc_norm else nn.Identity()
        *hidden, last = pairwise(config.head_sizes)
        self.head_dropout = kernels.Dropout(config.head_dropout)
        self.pre_logits = nn.SequentialCell([HiddenLayer(*sizes, dropout=config.head_dropout, gelu=gelu)
                                             for sizes in hidden]) if hidden else nn.Identity()
        # A head of zeros starts every class equal (sec. 3.2), and fine-tuning starts from undisturbed features.
        head = partial(kernels.Dense, *last, exact=True, weight_init="zeros", bias_init="zeros")
        self.head, self.head_dist = head(), head() if config.distilled else None

    def with_extra_tokens(self, x):
        """[B, N, D] -> [B, class, distillation and register tokens + N, D]."""
        tokens: tuple = ()
        for extra in (self.cls_token, self.dist_token, self.reg_token):
            if extra is not None:
                tokens = (*tokens, ops.broadcast_to(extra, (x.shape[0], -1, -1)).astype(x.dtype))
        return ops.concat((*tokens, x), 1) if tokens else x

    def embed(self, x):
        x = self.patch_embed(x)                                                        # [B, N, D]
        if self.pos_embed is None:
            return self.dropout(self.with_extra_tokens(x))
        if self.class_position:
            return self.dropout(self.with_extra_tokens(x) + self.pos_embed)
        return self.dropout(self.with_extra_tokens(x + self.pos_embed))                # [B, extra + N, D]

    def both_logits(self, x):
        """Those of a distilled network's two heads, for its training: [B, extra + N, D] -> 2 x [B, num_classes]."""
        x = self.norm(x)
        return self.head(x[:, 0]), self.head_dist(x[:, 1])     # type: ignore[misc]

    def classify(self, x):
        if self.head_dist is not None:
            of_class, of_teacher = self.both_logits(x)
            return (of_class + of_teacher) / 2
        x = self.norm(x)                                                               # [B, extra + N, D]
        if self.pool == "cls":
            x = x[:, 0]
        else:
            if self.extra_tokens:                                                      # a slice of all would copy it
                x = x[:, self.extra_tokens:]
            x = x.mean(1) if self.pool == "mean" else x.reshape(x.shape[0], -1)
        return self.head(self.pre_logits(self.head_dropout(self.fc_norm(x))))          # [B, num_classes]

    def construct(self, x):
        return self.classify(self.blocks(self.embed(x)))


def token(count: int, dim: int) -> Parameter:
    """Learned tokens [1, count, D] that are no patch's."""
    return Parameter(initializer(Normal(1e-6), (1, count, dim)))


def create_model(name: str, **changes: Any) -> ViT:
    """A new ViT by a size's name and, as arguments of ViTConfig, what differs. Raises UsageError for what is none."""
    return ViT(configure(named(name), **changes))
