"""What every format comes to: weights under timm's names, with what they say of their network and its images."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_vit.data.labels import Labels

Arrays = dict[str, np.ndarray]

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def eval_transforms(resize: str, *, pil: bool = False, crop: bool = True) -> list[str]:
    """Decode, resize, crop, normalise.

    pil: by Pillow, as timm, torchvision and Hugging Face do. MindSpore's own Inter.PILCUBIC is up to 9 levels off where
    it enlarges, and its own CenterCrop one pixel where the margin is odd.
    """
    return ["Decode(to_pil=True)" if pil else "Decode()", resize, *(["CenterCrop(image_size)"] if crop else []),
            "Normalize(mean, std)", "HWC2CHW()"]


BICUBIC = eval_transforms("Resize(resize_size, Inter.BICUBIC)", pil=True)
BILINEAR = eval_transforms("Resize(resize_size, Inter.BILINEAR)", pil=True)


@dataclass(kw_only=True)
class Pretrained:
    """What a weight file holds, in timm's names.

    config: the arguments of ViT that the file decides. preprocessing: transforms, crop_pct, mean and std
    for Preprocessing.
    labels: the classes of its head, where they are known.
    """

    format: str
    arrays: Arrays
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    labels: Labels | None


def structure(arrays: Arrays) -> dict[str, Any]:
    """The arguments of ViT that show in the shapes of its weights. Raises KeyError and ValueError where it is none."""
    dim, channels, patch_size, width = arrays["patch_embed.proj.weight"].shape
    if width != patch_size:
        raise ValueError(f"patches of {patch_size} x {width} pixels, which are no squares")
    _, positions, _ = arrays["pos_embed"].shape
    extra = sum(arrays[name].shape[1] for name in ("cls_token", "dist_token", "reg_token") if name in arrays)
    class_position = round(positions ** 0.5) ** 2 != positions
    side = round((positions - (extra if class_position else 0)) ** 0.5)
    if side * side != positions - (extra if class_position else 0):
        raise ValueError(f"{positions} positions, which make no square grid of patches")
    config = {
        "dim": dim, "depth": 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("blocks.")),
        "mlp_dim": arrays["blocks.0.mlp.fc1.weight"].shape[0], "channels": channels, "patch_size": patch_size,
        "image_size": side * patch_size, "class_token": "cls_token" in arrays, "distilled": "dist_token" in arrays,
        "registers": arrays["reg_token"].shape[1] if "reg_token" in arrays else 0,
        "class_position": class_position and extra > 0, "layer_scale": "blocks.0.ls1.gamma" in arrays,
        "qk_norm": "blocks.0.attn.q_norm.weight" in arrays, "fc_norm": "fc_norm.weight" in arrays,
        "pool": "mean" if "fc_norm.weight" in arrays or "cls_token" not in arrays else "cls",
    }
    return config | ({"num_classes": arrays["head.weight"].shape[0]} if "head.weight" in arrays else {})


def renamed(arrays: Arrays, rules: Iterable[tuple[str, str]]) -> Arrays:
    """Names changed by regular expressions, in their order."""
    out = {}
    for name, array in arrays.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        out[new] = array
    return out


def joined(arrays: Arrays) -> Arrays:
    """blocks.N.attn.{q,k,v}.* put together as blocks.N.attn.qkv.*; where one of the three is missing they stay."""
    out = dict(arrays)
    for name in arrays:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if ".attn.q." in name and all(part in arrays for part in parts):
            out[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate([out.pop(part) for part in parts])
    return out


def without(arrays: Arrays, pattern: str) -> Arrays:
    return {name: array for name, array in arrays.items() if not re.match(pattern, name)}


def activation(name: str) -> str:
    """Which GELU a config means by timm's or Hugging Face's names. Raises ValueError for another function."""
    for form, names in (("exact", ("gelu", "gelu_python")), ("tanh", ("gelu_tanh", "gelu_pytorch_tanh", "gelu_new",
                                                                      "gelu_fast", "gelu_accurate"))):
        if name in names:
            return form
    raise ValueError(f"{name} where a ViT has GELU")
