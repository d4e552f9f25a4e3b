"""timm (timm/models/vision_transformer.py, deit.py), and Facebook's DeiT, DeiT-III and MAE, which use its names."""

from ms_vit.data.labels import Labels
from ms_vit.weights.containers import WeightFile
from ms_vit.weights.formats.pretrained import (
    BICUBIC,
    BILINEAR,
    HALF,
    IMAGENET,
    Arrays,
    Pretrained,
    activation,
    renamed,
    without,
)


def recognises(arrays: Arrays) -> bool:
    return "blocks.0.norm1.weight" in arrays and "patch_embed.proj.weight" in arrays


def convert(file: WeightFile) -> Pretrained:
    arrays = without(file.arrays, r"mask_token$|decoder_")                  # MAE's decoder serves pre-training alone
    arrays = renamed(arrays, [(r"\.gamma_([12])$", r".ls\1.gamma")])        # DeiT-III
    facebook = file.wrapper == "model"
    # timm trains its own ViTs on [-1, 1]. Those it took from Facebook (DeiT, DeiT-III, DINOv2) show by their parts.
    of_facebook = facebook or "dist_token" in arrays or {"blocks.0.ls1.gamma", "cls_token"} <= arrays.keys()
    prepared = {"transforms": BICUBIC, "crop_pct": 0.875 if facebook else 0.9} | (IMAGENET if of_facebook else HALF)
    settings = file.configs.get("config", {})               # of a folder from timm's hub
    arguments, hub = settings.get("model_args") or {}, settings.get("pretrained_cfg") or {}
    config = {"epsilon": 1e-6, "gelu": activation(arguments.get("act_layer") or "gelu")}
    if pool := settings.get("global_pool"):
        if pool not in ("avg", "token"):
            raise ValueError(f"pooling by {pool}")
        config["pool"] = "mean" if pool == "avg" else "cls"
    if "num_heads" in arguments:
        config["num_heads"] = arguments["num_heads"]
    for key in ("mean", "std", "crop_pct"):
        if key in hub:
            prepared[key] = hub[key]
    if hub.get("interpolation") == "bilinear":
        prepared["transforms"] = BILINEAR
    names, texts = settings.get("label_names"), settings.get("label_descriptions") or {}
    labels = None
    if isinstance(names, list):
        labels = Labels([str(name) for name in names], [str(texts.get(name, name)) for name in names])
    return Pretrained(format="Facebook" if facebook else "timm", arrays=arrays, config=config, labels=labels,
                      preprocessing=prepared)
