"""What a network looks at, and what it makes of its tokens: recorded by a wrapper, of which the network knows nothing.

Attention is computed here by plain operators, one after the other, as no fused one shows its weights.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from ms_vit.device import eagerly
from ms_vit.errors import UsageError
from ms_vit.inference.rollout import gradient_rollout, on_patches, rollout
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels.precision import computing_in
from ms_vit.models.vit import Attention, EncoderBlock, ViT
from ms_vit.weights.loading import load_model

AT_ONCE = 6400      # tokens, 32 images of a ViT/16; an operation on a few hundred takes about as long
MEMORY = 512 << 20  # bytes of attention, with its gradients, at once


@dataclass(frozen=True)
class Recording:
    """What a network attended to in B images.

    logits: [B, C]. attention: [L, B, H, N, N], of each block, image and head the weights by which a token (row) sees
    the others (columns), those of the class, distillation and register tokens first; each row sums to one.
    gradients: likewise, of an image's logit by these weights.
    """

    config: ViTConfig
    logits: np.ndarray
    attention: np.ndarray
    gradients: np.ndarray

    def head(self, layer: int, head: int) -> np.ndarray:
        """Of one head of one block, how much of each patch enters what the network's head sees: [B, rows, columns]."""
        return on_patches(self.attention[layer, :, head], self.config)

    def rollout(self) -> np.ndarray:
        """How much of each patch comes through all blocks (Abnar & Zuidema 2020): [B, rows, columns], a sum of one."""
        return on_patches(rollout(self.attention), self.config)

    def gradient_rollout(self) -> np.ndarray:
        """How much each patch speaks for the class, through all blocks (Chefer et al. 2021): [B, rows, columns]."""
        return on_patches(gradient_rollout(self.attention, self.gradients), self.config)


class Recorder:
    """Records what a ViT attends to: Recorder(net)(images [B, C, H, W]).

    It runs the network's own cells, in float32 as they were made, but for the attention itself. Per image it holds
    attention_bytes, 11 MB for a ViT-Ti/16 and 45 MB for a ViT-B/16.
    """

    def __init__(self, net: ViT):
        self.net = net
        self.forward = Recorded(net)

    @classmethod
    def load(cls, weights: Path, model: str | None = None) -> "Recorder":
        """Of a file of weights, in float32 whatever else is computed in here. Raises what load_model raises."""
        with computing_in("float32"):
            return cls(load_model(weights, model)[0])

    @property
    def at_once(self) -> int:
        """Images that it is best given at a time, from 1 to 16."""
        return min(16, max(1, MEMORY // attention_bytes(self.net.config)))

    def __call__(self, images: np.ndarray, classes: Sequence[int] | np.ndarray | None = None) -> Recording:
        """What is attended to in `images`, and how that speaks for `classes`, one each; else for the likeliest one."""
        config, count = self.net.config, len(images)
        tokens = config.extra_tokens + config.patches
        nudges = ms.Tensor(np.zeros((config.depth, count, config.num_heads, tokens, tokens), np.float32))
        with predicting(self.net):
            if classes is None:
                classes = self.net(ms.Tensor(images)).asnumpy().argmax(1)
            wanted = ms.Tensor(np.eye(config.num_classes, dtype=np.float32)[np.asarray(classes)])
            both = ms.value_and_grad(self.forward, grad_position=1, weights=None, has_aux=True)
            (_, logits, attention), gradients = both(ms.Tensor(images), nudges, wanted)
        return Recording(config, logits.asnumpy(), attention.asnumpy(), gradients.asnumpy())


def attention_bytes(config: ViTConfig) -> int:
    """What an image's attention and its gradients take, 8 * L * H * N * N."""
    return 8 * config.depth * config.num_heads * (config.extra_tokens + config.patches)**2


class Recorded(nn.Cell):
    """A ViT that tells its attention, and lets each weight be nudged, so that gradients by them can be taken.

    (images [B, C, H, W], nudges [L, B, H, N, N], wanted [B, classes]) -> sum(logits * wanted), logits, attention.
    """

    def __init__(self, net: ViT):
        super().__init__(auto_prefix=False)     # the network's parameters keep their names
        self.net = net
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(axis=-1)

    def attend(self, attn: Attention, x, nudge):
        """[B, N, D] and [B, H, N, N] -> what is attended to, [B, N, D], and by which weights, [B, H, N, N]."""
        qkv = attn.qkv(x)
        if attn.q_norm is not None:
            qkv = attn.normed(qkv)
        q, k, v = (attn.attend.heads(each) for each in ops.split(qkv, attn.width, axis=-1))    # 3 x [B, H, N, d]
        weights = self.softmax(self.scores(q * attn.attend.scale, k))
        x = self.mix(weights + nudge, v).transpose(0, 2, 1, 3)                                 # [B, N, H, d]
        return attn.proj(x.reshape(*x.shape[:2], attn.width)), weights

    def construct(self, images, nudges, wanted):
        x, attention = self.net.embed(images), []
        for block, nudge in zip(self.net.blocks, nudges, strict=True):
            attended, weights = self.attend(block.attn, x if block.post_norm else block.norm1(x), nudge)
            x = block.around(x, attended)
            attention.append(weights)
        logits = self.net.classify(x)
        return (logits * wanted).sum(), logits, ops.stack(attention)


def features(net: ViT, images: np.ndarray, layers: Sequence[int] = (-1,)) -> list[np.ndarray]:
    """Tokens as they leave blocks, for probes and retrieval: images [B, C, H, W] -> [B, N, D] for each of `layers`.

    layers: numbers of blocks from 0, or from the end, -1 being the last. Class, distillation and register tokens come
    first (net.config.extra_tokens of them), then the patches, row by row. The network's last LayerNorm is not applied.
    Images are normalised, as Predictor.prepare makes them. Raises UsageError where there is no such block.
    """
    depth = net.config.depth
    if wrong := [layer for layer in layers if not -depth <= layer < depth]:
        raise UsageError(f"there is no layer {wrong[0]}; the network has {depth} blocks, 0 to {depth - 1}")
    wanted = [layer % depth for layer in layers]
    count = max(1, AT_ONCE // (net.config.extra_tokens + net.config.patches))
    parts = []
    with predicting(net):
        for start in range(0, len(images), count):
            x, found = net.embed(ms.Tensor(images[start:start + count])), {}
            blocks: Sequence[EncoderBlock] = list(net.blocks)[:max(wanted) + 1]
            for number, block in enumerate(blocks):
                x = block(x)
                if number in wanted:
                    found[number] = x.asnumpy().astype(np.float32)
            parts.append(found)
    return [np.concatenate([found[layer] for found in parts]) for layer in wanted]


@contextlib.contextmanager
def predicting(net: ViT) -> Iterator[None]:
    """Has a network drop nothing inside, and run without being compiled."""
    before = net.training
    net.set_train(False)
    try:
        with eagerly():
            yield
    finally:
        net.set_train(before)
