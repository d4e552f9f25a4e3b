"""A folder as timm has them on the hub: model.safetensors and config.json; timm.create_model("local-dir:FOLDER")."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from ms_vit.models.config import SIZES, ViTConfig
from ms_vit.progress import say
from ms_vit.weights.exports.source import Source, pictures, refuse
from ms_vit.weights.files import save_arrays

EPSILON = 1e-6  # of timm's LayerNorm; a config.json can't name another


def write(source: Source, path: Path) -> None:
    config = source.config
    distilled = config.distilled
    refuse("timm", {
        "conv stem of this kind": bool(config.stem),
        "flattening head": config.pool == "flatten",
        "hidden layers in its head": bool(config.head_hidden),
        "post-norm of this kind": config.post_norm,
        "second GELU in its MLPs": config.gelu_twice,
        "head_dim of its own": config.attention_dim != config.dim,
        "image size that is no multiple of the patch": source.padded,
        "registers beside a distillation token": distilled and config.registers > 0,
        "mean pooling or fc_norm beside a distillation token":
            distilled and (config.pool != "cls" or config.fc_norm),
        "distillation token without a position":
            distilled and (not config.class_position or config.pos_embed == "none"),
    })
    if config.epsilon != EPSILON:
        say(f"timm's LayerNorm has epsilon {EPSILON}, this network's {config.epsilon}")
    path.mkdir()
    save_arrays(path / "model.safetensors", source.arrays, {"format": "pt"})
    labels = source.spec.labels
    description = {
        "architecture": architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.dim,
        "global_pool": "avg" if config.pool == "mean" else "token",
        "label_names": labels.ids,
        "label_descriptions": dict(zip(labels.ids, labels.names, strict=True)),
        "model_args": model_args(source),
        "pretrained_cfg": pretrained_cfg(source),
    }
    (path / "config.json").write_text(json.dumps(description | source.to_config(), indent=1))


def architecture(config: ViTConfig) -> str:
    """The name in timm that comes nearest; the arguments beside it say all of the network's shape."""
    shape = {key: getattr(config, key) for key in ("dim", "depth", "num_heads", "mlp_dim")}
    size = next((name for name, named in SIZES.items() if named == shape), "base")
    kind = "deit_{}_distilled" if config.distilled else "vit_{}"
    name = f"{kind.format(size)}_patch{config.patch_size}_224"
    return name if timm.is_model(name) else f"{kind.format('base')}_patch16_224"


def model_args(source: Source) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer."""
    config = source.config
    ratio = config.mlp_dim / config.dim
    if int(config.dim * ratio) != config.mlp_dim:     # timm rounds down
        ratio = float(np.nextafter(ratio, np.inf))
    arguments = {
        "img_size": list(source.image_shape[1:]),
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": ratio,
        "qk_norm": config.qk_norm,
        "init_values": 1e-5 if config.layer_scale else None,
        "act_layer": "gelu" if config.gelu == "exact" else "gelu_tanh",
    }
    if config.distilled:
        return arguments
    return arguments | {
        "global_pool": "avg" if config.pool == "mean" else "token",
        "fc_norm": config.fc_norm,
        "class_token": config.class_token,
        "pos_embed": "none" if config.pos_embed == "none" else "learn",
        "reg_tokens": config.registers,
        "no_embed_class": not config.class_position,
    }


def pretrained_cfg(source: Source) -> dict[str, Any]:
    """How timm is to prepare images, and what its model looks like from outside."""
    preprocessing = source.spec.preprocessing
    described = pictures(preprocessing)
    if described is None:
        say("timm can't express this preprocessing; config.json holds it under ms_vit")
    how = {} if described is None else {
        "crop_pct": described.crop_pct, "crop_mode": "squash" if isinstance(described.resize, tuple) else "center",
        "interpolation": described.interpolation}
    return {
        "input_size": list(source.image_shape),
        "fixed_input_size": True,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if source.config.distilled else "head",
        "pool_size": None,
    } | how


def run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()
    return logits
