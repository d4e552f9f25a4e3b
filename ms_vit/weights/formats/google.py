"""Google's npz: the original and the augreg files (vit_jax/models_vit.py), and big_vision's (models/vit.py)."""

import re
from typing import Any

import numpy as np

from ms_vit.weights.containers import WeightFile
from ms_vit.weights.formats.pretrained import BICUBIC, HALF, Arrays, Pretrained, joined, renamed

NAMES = [
    (r"/", "."),
    (r"^cls$", "cls_token"),
    (r"^(Transformer\.posembed_input\.)?pos_embedding$", "pos_embed"),
    (r"^embedding\.", "patch_embed.proj."),
    (r"^Transformer\.encoderblock_(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.LayerNorm_0\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.LayerNorm_[12]\.", r"\1.norm2."),
    (r"\.MultiHeadDotProductAttention_[01]\.(q|k|v)(uery|ey|alue)\.", r".attn.\1."),
    (r"\.MultiHeadDotProductAttention_[01]\.out\.", ".attn.proj."),
    (r"\.MlpBlock_[03]\.Dense_0\.", ".mlp.fc1."),
    (r"\.MlpBlock_[03]\.Dense_1\.", ".mlp.fc2."),
    (r"^Transformer\.encoder_norm\.", "norm."),
    (r"\.(kernel|scale)$", ".weight"),
]


def prefix_of(arrays: Arrays) -> str | None:
    """What stands before a checkpoint's own names: nothing, or the path of a training state."""
    for prefix in ("", "params/", "params/img/", "opt/target/"):
        if f"{prefix}embedding/kernel" in arrays:
            return prefix
    return None


def recognises(arrays: Arrays) -> bool:
    return prefix_of(arrays) is not None


def convert(file: WeightFile) -> Pretrained:
    prefix = prefix_of(file.arrays) or ""
    arrays = {name.removeprefix(prefix): array for name, array in file.arrays.items() if name.startswith(prefix)}
    for name in [name for name in arrays if name.startswith("Transformer/encoderblock/")]:
        for index, array in enumerate(arrays.pop(name)):        # big_vision's scan keeps all blocks in one array
            arrays[name.replace("encoderblock/", f"encoderblock_{index}/")] = array
    query = arrays.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
                       arrays.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"))
    arrays = joined({name: transposed(name, array) for name, array in renamed(arrays, NAMES).items()})
    # Flax's gelu is the tanh form; timm runs these files with the exact one.
    config: dict[str, Any] = {"epsilon": 1e-6, "gelu": "tanh"}
    if query is not None and query.ndim == 3:
        config |= {"num_heads": query.shape[1], "head_dim": query.shape[2]}
    return Pretrained(format="Google", arrays=arrays, config=config, labels=None,
                   preprocessing={"transforms": BICUBIC, "crop_pct": 0.9} | HALF)


def transposed(name: str, array: np.ndarray) -> np.ndarray:
    """Flax keeps kernels as [in, out], heads on axes of their own, convolutions as [h, w, in, out]."""
    if name == "patch_embed.proj.weight":
        return array.transpose(3, 2, 0, 1)
    if re.search(r"\.attn\.[qkv]\.", name):
        return array.reshape(array.shape[0], -1).T if name.endswith("weight") else array.reshape(-1)
    if name.endswith(".attn.proj.weight"):
        return array.reshape(-1, array.shape[-1]).T
    return array.T if name.endswith(".weight") and array.ndim == 2 else array
