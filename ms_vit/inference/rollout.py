"""From attention weights to what a network looks at: through all blocks, and of patches what the head sees of them."""

import numpy as np

from ms_vit.models.config import ViTConfig


def rollout(attention: np.ndarray) -> np.ndarray:
    """How much of each token (column) is in each token (row) after all blocks: [L, B, H, N, N] -> [B, N, N].

    Heads count alike, and a block's residual as much as its attention (Abnar & Zuidema 2020, "Quantifying Attention
    Flow in Transformers", sec. 3.1). Each row sums to one.
    """
    through = np.eye(attention.shape[-1])
    for weights in attention.astype(np.float64):
        through = (weights.mean(1) + np.eye(weights.shape[-1])) / 2 @ through
    return through


def gradient_rollout(attention: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """How much each token (column) speaks for a class through each token (row): 2 x [L, B, H, N, N] -> [B, N, N].

    Weights count by the gradient of the class's logit, and only those that raise it (Chefer et al. 2021, "Generic
    Attention-model Explainability", eq. 5 and 6). What a token is of its own, the 1 on the diagonal, is left out.
    """
    identity = np.eye(attention.shape[-1])
    through = identity
    for weights, slope in zip(attention.astype(np.float64), gradients, strict=True):
        through = through + np.maximum(weights * slope, 0).mean(1) @ through
    return through - identity


def on_patches(relevance: np.ndarray, config: ViTConfig) -> np.ndarray:
    """Of tokens by tokens, [B, N, N], what the network's head sees of each patch: [B, rows, columns].

    The head sees the class token (with the distillation token, where there is one), or else the mean of the patches.
    """
    extra = config.extra_tokens
    if config.distilled:
        seen = relevance[:, :2].mean(1)
    elif config.pool == "cls":
        seen = relevance[:, 0]
    else:
        seen = relevance[:, extra:].mean(1)
    return seen[:, extra:].reshape(-1, *config.grid)
