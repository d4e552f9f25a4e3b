"""A folder as transformers writes them: model.safetensors, config.json, preprocessor_config.json.

Tensors carry the names that the hub's ViT and DeiT files have, which every version of transformers reads.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ms_vit.data.labels import Labels
from ms_vit.models.config import ViTConfig
from ms_vit.progress import say
from ms_vit.weights.exports.source import Source, pictures, refuse
from ms_vit.weights.files import save_arrays
from ms_vit.weights.formats.pretrained import renamed

NAMES = [
    (r"^cls_token$", "{kind}.embeddings.cls_token"),
    (r"^dist_token$", "{kind}.embeddings.distillation_token"),
    (r"^pos_embed$", "{kind}.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "{kind}.embeddings.patch_embeddings.projection."),
    (r"^norm\.", "{kind}.layernorm."),
    (r"^blocks\.(\d+)\.", r"{kind}.encoder.layer.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^head\.", "{head}."),
    (r"^head_dist\.", "distillation_classifier."),
]
RESAMPLE = {"bilinear": 2, "bicubic": 3}    # Pillow's numbers


def write(source: Source, path: Path) -> None:
    config = source.config
    refuse("Hugging Face", {
        "mean pooling": config.pool == "mean",
        "conv stem of this kind": bool(config.stem),
        "flattening head": config.pool == "flatten",
        "hidden layers in its head": bool(config.head_hidden),
        "network without positions": config.pos_embed == "none",
        "post-norm": config.post_norm,
        "qk-norm": config.qk_norm,
        "second GELU in its MLPs": config.gelu_twice,
        "fc_norm": config.fc_norm,
        "registers": config.registers > 0,
        "layer scale": config.layer_scale,
        "class token without a position": not config.class_position,
        "head_dim of its own": config.attention_dim != config.dim,
        "image size that is no multiple of the patch": source.padded,
    })
    path.mkdir()
    save_arrays(path / "model.safetensors", tensors(source.arrays, distilled=config.distilled), {"format": "pt"})
    description = description_of(config, source.spec.labels) | source.to_config()
    (path / "config.json").write_text(json.dumps(description, indent=1))
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(source), indent=1))


def tensors(arrays: dict[str, np.ndarray], *, distilled: bool) -> dict[str, np.ndarray]:
    """Arrays under Hugging Face's names, query, key and value apart."""
    apart = {}
    for name, array in arrays.items():
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                apart[name.replace(".qkv.", f".{part}.")] = third
        else:
            apart[name] = array
    words = {"kind": "deit", "head": "cls_classifier"} if distilled else {"kind": "vit", "head": "classifier"}
    rules = [(pattern, replacement.format(**words)) for pattern, replacement in NAMES]
    return renamed(apart, rules)


def description_of(config: ViTConfig, labels: Labels) -> dict[str, Any]:
    counts = Counter(labels.names)      # label2id needs every name to be one class's alone
    names = [name if counts[name] == 1 else f"{name} ({id})"
             for id, name in zip(labels.ids, labels.names, strict=True)]
    size = config.image_size
    return {
        "architectures": ["DeiTForImageClassificationWithTeacher" if config.distilled
                          else "ViTForImageClassification"],
        "model_type": "deit" if config.distilled else "vit",
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "gelu" if config.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": config.epsilon,
        "image_size": size if isinstance(size, int) else list(size),
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "qkv_bias": True,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def preprocessor_config(source: Source) -> dict[str, Any]:
    """For the image processor that knows the way of resizing: ViT's squashes, CLIP's and DeiT's also crop."""
    preprocessing = source.spec.preprocessing
    described = pictures(preprocessing)
    if described is None:
        say("Hugging Face can't express this preprocessing; config.json holds it under ms_vit")
    normalise = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
                 "image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std)}
    size = {"height": preprocessing.image_size, "width": preprocessing.image_size}
    if described is None:
        return {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size} | normalise
    resize = {"do_resize": True, "resample": RESAMPLE[described.interpolation]}
    if described.resize == (preprocessing.image_size, preprocessing.image_size):
        return {"image_processor_type": "ViTImageProcessor", "size": size} | resize | normalise
    crop = {"do_center_crop": True, "crop_size": size}
    if isinstance(described.resize, tuple):
        sides = dict(zip(("height", "width"), described.resize, strict=True))
        return {"image_processor_type": "DeiTImageProcessor", "size": sides} | resize | crop | normalise
    return {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": described.resize},
            "do_convert_rgb": True} | resize | crop | normalise


def run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForImageClassification.from_pretrained(path, local_files_only=True).eval()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).logits.numpy()
    return logits
