"""Hugging Face ViT and DeiT (transformers/models/vit and deit), by the names of transformers 4 and of 5."""

from typing import Any

from ms_vit.data.labels import Labels
from ms_vit.weights.containers import WeightFile
from ms_vit.weights.formats.pretrained import (
    HALF,
    IMAGENET,
    Arrays,
    Pretrained,
    activation,
    eval_transforms,
    joined,
    renamed,
    without,
)

NAMES = [
    (r"^(vit|deit)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(q)uery\.|\.attention\.(q)_proj\.", ".attn.q."),
    (r"\.attention\.attention\.key\.|\.attention\.k_proj\.", ".attn.k."),
    (r"\.attention\.attention\.value\.|\.attention\.v_proj\.", ".attn.v."),
    (r"\.attention\.output\.dense\.|\.attention\.o_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^(cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
]


def recognises(arrays: Arrays) -> bool:
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in arrays)


def convert(file: WeightFile) -> Pretrained:
    arrays = joined(without(renamed(file.arrays, NAMES), r"pooler\.|embeddings\.mask_token$"))
    if "dist_token" in arrays and "head.weight" in arrays and "head_dist.weight" not in arrays:
        # DeiTForImageClassification: its distillation token serves attention alone, as a register does.
        arrays["reg_token"] = arrays.pop("dist_token")
    settings, pictures = file.configs.get("config", {}), file.configs.get("preprocessor_config", {})
    config: dict[str, Any] = {"epsilon": float(settings.get("layer_norm_eps", 1e-12)),
                              "gelu": activation(settings.get("hidden_act", "gelu"))}
    if "num_attention_heads" in settings:
        config["num_heads"] = settings["num_attention_heads"]
    deit = any(name.startswith("deit.") for name in file.arrays)
    names = settings.get("id2label") or {}
    listed = [str(names[key]) for key in sorted(names, key=int)]
    imagenet = len(listed) == 1000 and listed[0].split(",")[0] in ("LABEL_0", "tench")
    labels = Labels(listed, listed) if listed and not imagenet else None
    return Pretrained(format="Hugging Face", arrays=arrays, config=config, labels=labels,
                   preprocessing=preprocessing_of(pictures, deit=deit))


def preprocessing_of(pictures: dict[str, Any], *, deit: bool) -> dict[str, Any]:
    """Preprocessing by preprocessor_config.json; without one, as the image processors of ViT and DeiT do by default."""
    size = pictures.get("size", {"height": 256, "width": 256} if deit else {"height": 224, "width": 224})
    size = size if isinstance(size, dict) else {"height": size, "width": size}
    crops = bool(pictures.get("do_center_crop", deit))
    crop = pictures.get("crop_size", 224)
    crop = crop.get("height", 224) if isinstance(crop, dict) else crop
    methods = ("NEAREST", "ANTIALIAS", "BILINEAR", "BICUBIC")       # Pillow's 0 to 3; 1 is Lanczos
    method = methods[pictures.get("resample", 3 if deit else 2)]
    resized = size.get("shortest_edge") or size.get("height", crop)
    target = "resize_size" if "shortest_edge" in size else "(resize_size, resize_size)"
    transforms = eval_transforms(f"Resize({target}, Inter.{method})", pil=True, crop=crops)
    colours = IMAGENET if deit else HALF
    if not pictures.get("do_normalize", True):
        colours = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    elif "image_mean" in pictures and "image_std" in pictures:
        colours = {"mean": list(pictures["image_mean"]), "std": list(pictures["image_std"])}
    return {"transforms": transforms, "crop_pct": crop / resized if crops else 1.0} | colours
