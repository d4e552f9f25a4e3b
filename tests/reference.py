"""A ViT in float64 NumPy, written from the paper: the oracle for our forward pass."""

import math

import numpy as np


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def gelu(x: np.ndarray, form: str) -> np.ndarray:
    if form == "exact":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * weight + bias


def patches(x: np.ndarray, p: int) -> np.ndarray:
    """[B, C, H, W] -> [B, N, C * p * p], zeros added at the right and the bottom, one window after the other."""
    b, _, h, w = x.shape
    x = np.pad(x, ((0, 0), (0, 0), (0, -h % p), (0, -w % p)))
    rows = [x[:, :, i:i + p, j:j + p].reshape(b, -1) for i in range(0, x.shape[2], p) for j in range(0, x.shape[3], p)]
    return np.stack(rows, 1)


def conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """A 3x3 convolution with a border of zeros: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), D]."""
    h, w = x.shape[1], x.shape[2]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return bias + sum(x[:, i:i + h:stride, j:j + w:stride] @ weight[:, :, i, j].T for i in range(3) for j in range(3))


def conv_stem(w: dict[str, np.ndarray], x: np.ndarray, p: int, form: str) -> np.ndarray:
    """[B, C, H, W] -> [B, N, C'], with zeros added as by `patches`."""
    x = np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % p), (0, -x.shape[3] % p))).transpose(0, 2, 3, 1)
    for i in range(round(math.log2(p))):
        stage = f"patch_embed.stem.{i}"
        if f"{stage}.conv.weight" in w:
            x = conv(x, w[f"{stage}.conv.weight"], w[f"{stage}.conv.bias"], 2)
            x = gelu(layer_norm(x, w[f"{stage}.norm.weight"], w[f"{stage}.norm.bias"]), form)
            continue
        for part in (1, 2):
            x = conv(x, w[f"{stage}.conv{part}.weight"], w[f"{stage}.conv{part}.bias"], 1)
            if part == 1:
                x = np.maximum.reduce([x[:, i::2, j::2] for i in range(2) for j in range(2)])
            norm = {name: w[f"{stage}.norm{part}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
            x = (x - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
            x = gelu(x * norm["weight"] + norm["bias"], form)
    return x.reshape(len(x), -1, x.shape[-1])


def vit(w: dict[str, np.ndarray], images: np.ndarray, *, patch_size: int, depth: int, num_heads: int, pool: str,
        form: str, attention: list[np.ndarray] | None = None, tokens: list[np.ndarray] | None = None) -> np.ndarray:
    """Logits [B, C] by weights under timm's names.

    To `attention` are added the weights of each block, [B, H, N, N], and to `tokens` what leaves it, [B, N, D].
    """
    w = {name: array.astype(np.float64) for name, array in w.items()}
    kernel, images = w["patch_embed.proj.weight"], images.astype(np.float64)
    stem = any(name.startswith("patch_embed.stem.") for name in w)
    x = conv_stem(w, images, patch_size, form) if stem else patches(images, patch_size)
    x = x @ kernel.reshape(len(kernel), -1).T + w["patch_embed.proj.bias"]
    if pool == "cls":
        x = np.concatenate([np.repeat(w["cls_token"], len(x), 0), x], 1)
    x = x + w["pos_embed"]
    for i in range(depth):
        own = f"blocks.{i}."
        block = {name.removeprefix(own): array for name, array in w.items() if name.startswith(own)}
        y = layer_norm(x, block["norm1.weight"], block["norm1.bias"])
        qkv = y @ block["attn.qkv.weight"].T + block["attn.qkv.bias"]
        b, n, width = qkv.shape
        q, k, v = qkv.reshape(b, n, 3, num_heads, width // 3 // num_heads).transpose(2, 0, 3, 1, 4)
        weights = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
        if attention is not None:
            attention.append(weights)
        y = (weights @ v).transpose(0, 2, 1, 3).reshape(b, n, -1)
        x = x + y @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        y = layer_norm(x, block["norm2.weight"], block["norm2.bias"])
        y = gelu(y @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"], form)
        x = x + y @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
        if tokens is not None:
            tokens.append(x)
    x = layer_norm(x, w["norm.weight"], w["norm.bias"])
    x = {"cls": x[:, 0], "mean": x.mean(1), "flatten": x.reshape(len(x), -1)}[pool]
    return x @ w["head.weight"].T + w["head.bias"]
