"""Weights of other libraries -> timm's names, with the numerics and the preprocessing that belong to them.

A format is recognised by the names of its tensors. Sources: timm/models/vision_transformer.py and deit.py;
transformers/models/vit and deit (both generations of names); torchvision/models/vision_transformer.py; google-research
vit_jax/models_vit.py and big_vision/models/vit.py; facebookresearch/mae; mindcv/models/vit.py; MindSpore's tutorial.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_vit.data.labels import Labels, imagenet_labels
from ms_vit.errors import DataError
from ms_vit.models.containers import WeightFile
from ms_vit.models.containers.parts import shown

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
class Foreign:
    """What a weight file holds, in timm's names.

    config: the arguments of ViT that the file decides. eval: transforms, crop_pct, mean and std for Preprocessing.
    labels: the classes of its head, where they are known.
    """

    format: str
    arrays: Arrays
    config: dict[str, Any]
    eval: dict[str, Any]
    labels: Labels | None


def recognise(file: WeightFile, path: Path) -> Foreign:
    """Finds the format by the names inside and converts. Raises DataError where it is none that we know."""
    for known, convert in FORMATS:
        if known(file.arrays):
            try:
                return described(convert(file))
            except KeyError as error:
                raise DataError(f"{path} lacks {shown(error.args[0])}, which every ViT has; "
                                "it is cut or of another kind") from error
            except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
                raise DataError(f"{path} holds something that no ViT has: {shown(error)}") from error
    names = ", ".join(map(shown, list(file.arrays)[:3]))
    raise DataError(f"{path} holds no ViT that we know (its tensors are called {names}, ...); "
                    "timm, Hugging Face, torchvision, Google, MAE, MindCV and MindSpore's tutorial are read")


def described(foreign: Foreign) -> Foreign:
    """With all that the tensors say of the network; what the format or its config said before goes first."""
    arrays = foreign.arrays
    if not any(name.endswith(".attn.qkv.bias") for name in arrays):        # qkv_bias=False, which zeros are as well
        arrays |= {name.replace(".weight", ".bias"): np.zeros(len(array), array.dtype)
                   for name, array in arrays.items() if name.endswith(".attn.qkv.weight")}
    foreign.config = structure(arrays) | foreign.config
    foreign.eval |= {key: [float(value) for value in foreign.eval[key]] for key in ("mean", "std")}
    if not 0 < foreign.eval["crop_pct"] <= 1:
        raise ValueError(f"a crop_pct of {foreign.eval['crop_pct']}")
    classes = foreign.config.get("num_classes")
    if foreign.labels and classes and len(foreign.labels) != classes:
        raise ValueError(f"its config names {len(foreign.labels)} classes, its head has {classes}")
    if not classes:
        foreign.labels = None
    elif foreign.labels is None and classes == 1000:
        foreign.labels = imagenet_labels()
    return foreign


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
        "norm_after_pool": "fc_norm.weight" in arrays,
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


# --- timm, and Facebook's DeiT, DeiT-III and MAE, which use its names

def is_timm(arrays: Arrays) -> bool:
    return "blocks.0.norm1.weight" in arrays and "patch_embed.proj.weight" in arrays


def from_timm(file: WeightFile) -> Foreign:
    arrays = without(file.arrays, r"mask_token$|decoder_")                  # MAE's decoder serves pre-training alone
    arrays = renamed(arrays, [(r"\.gamma_([12])$", r".ls\1.gamma")])        # DeiT-III
    facebook = file.wrapper == "model"
    # timm trains its own ViTs on [-1, 1]. Those it took from Facebook (DeiT, DeiT-III, DINOv2) show by their parts.
    of_facebook = facebook or "dist_token" in arrays or {"blocks.0.ls1.gamma", "cls_token"} <= arrays.keys()
    eval = {"transforms": BICUBIC, "crop_pct": 0.875 if facebook else 0.9} | (IMAGENET if of_facebook else HALF)
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
            eval[key] = hub[key]
    if hub.get("interpolation") == "bilinear":
        eval["transforms"] = BILINEAR
    names, texts = settings.get("label_names"), settings.get("label_descriptions") or {}
    labels = None
    if isinstance(names, list):
        labels = Labels([str(name) for name in names], [str(texts.get(name, name)) for name in names])
    return Foreign(format="Facebook" if facebook else "timm", arrays=arrays, config=config, eval=eval, labels=labels)


def activation(name: str) -> str:
    """Which GELU a config means by timm's or Hugging Face's names. Raises ValueError for another function."""
    for form, names in (("exact", ("gelu", "gelu_python")), ("tanh", ("gelu_tanh", "gelu_pytorch_tanh", "gelu_new",
                                                                      "gelu_fast", "gelu_accurate"))):
        if name in names:
            return form
    raise ValueError(f"{name} where a ViT has GELU")


# --- Hugging Face ViT and DeiT, names of transformers 4 and 5

HUGGING_FACE = [
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


def is_hugging_face(arrays: Arrays) -> bool:
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in arrays)


def from_hugging_face(file: WeightFile) -> Foreign:
    arrays = joined(without(renamed(file.arrays, HUGGING_FACE), r"pooler\.|embeddings\.mask_token$"))
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
    return Foreign(format="Hugging Face", arrays=arrays, config=config, labels=labels,
                   eval=hugging_face_eval(pictures, deit=deit))


def hugging_face_eval(pictures: dict[str, Any], *, deit: bool) -> dict[str, Any]:
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


# --- torchvision

TORCHVISION = [
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(linear_2|3)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
]


def from_torchvision(file: WeightFile) -> Foreign:
    return Foreign(format="torchvision", arrays=renamed(file.arrays, TORCHVISION), labels=None,
                   config={"epsilon": 1e-6, "gelu": "exact"},
                   eval={"transforms": BILINEAR, "crop_pct": 0.875} | IMAGENET)


# --- Google's npz: the original and augreg files, and big_vision's

GOOGLE = [
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


def google_prefix(arrays: Arrays) -> str | None:
    """What stands before a checkpoint's own names: nothing, or the path of a training state."""
    for prefix in ("", "params/", "params/img/", "opt/target/"):
        if f"{prefix}embedding/kernel" in arrays:
            return prefix
    return None


def from_google(file: WeightFile) -> Foreign:
    prefix = google_prefix(file.arrays) or ""
    arrays = {name.removeprefix(prefix): array for name, array in file.arrays.items() if name.startswith(prefix)}
    for name in [name for name in arrays if name.startswith("Transformer/encoderblock/")]:
        for index, array in enumerate(arrays.pop(name)):        # big_vision's scan keeps all blocks in one array
            arrays[name.replace("encoderblock/", f"encoderblock_{index}/")] = array
    query = arrays.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
                       arrays.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"))
    arrays = joined({name: google_layout(name, array) for name, array in renamed(arrays, GOOGLE).items()})
    # Flax's gelu is the tanh form; timm runs these files with the exact one.
    config: dict[str, Any] = {"epsilon": 1e-6, "gelu": "tanh"}
    if query is not None and query.ndim == 3:
        config |= {"num_heads": query.shape[1], "head_dim": query.shape[2]}
    return Foreign(format="Google", arrays=arrays, config=config, labels=None,
                   eval={"transforms": BICUBIC, "crop_pct": 0.9} | HALF)


def google_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Flax keeps kernels as [in, out], heads on axes of their own, convolutions as [h, w, in, out]."""
    if name == "patch_embed.proj.weight":
        return array.transpose(3, 2, 0, 1)
    if re.search(r"\.attn\.[qkv]\.", name):
        return array.reshape(array.shape[0], -1).T if name.endswith("weight") else array.reshape(-1)
    if name.endswith(".attn.proj.weight"):
        return array.reshape(-1, array.shape[-1]).T
    return array.T if name.endswith(".weight") and array.ndim == 2 else array


# --- MindCV, and MindSpore's ViT tutorial. Both run MindSpore's defaults: epsilon 1e-7, tanh GELU.

MINDCV = [(r"(norm\d?|fc_norm)\.gamma$", r"\1.weight"), (r"(norm\d?|fc_norm)\.beta$", r"\1.bias"),
          (r"^head\.classifier\.", "head.")]
TUTORIAL = [
    (r"^backbone\.", ""),
    (r"^cls(_token)?$", "cls_token"),
    (r"^pos_embedding$", "pos_embed"),
    (r"^patch_embedding\.conv\.", "patch_embed.proj."),
    (r"^transformer\.layers\.(\d+)\.0\.cell\.0\.", r"blocks.\1.norm1."),
    (r"^transformer\.layers\.(\d+)\.0\.cell\.1\.qkv\.", r"blocks.\1.attn.qkv."),
    (r"^transformer\.layers\.(\d+)\.0\.cell\.1\.out\.", r"blocks.\1.attn.proj."),
    (r"^transformer\.layers\.(\d+)\.1\.cell\.0\.", r"blocks.\1.norm2."),
    (r"^transformer\.layers\.(\d+)\.1\.cell\.1\.dense([12])\.", r"blocks.\1.mlp.fc\2."),
    (r"^(head\.)?dense\.", "head."),
    *MINDCV,
]
MINDSPORE_NUMERICS = {"epsilon": 1e-7, "gelu": "tanh"}


def from_mindcv(file: WeightFile) -> Foreign:
    transforms = eval_transforms("Resize(resize_size, Inter.BICUBIC)")
    return Foreign(format="MindCV", arrays=renamed(file.arrays, MINDCV), config=dict(MINDSPORE_NUMERICS),
                   eval={"transforms": transforms, "crop_pct": 0.875} | IMAGENET, labels=None)


def from_tutorial(file: WeightFile) -> Foreign:
    transforms = eval_transforms("Resize(resize_size)")
    return Foreign(format="MindSpore tutorial", arrays=renamed(file.arrays, TUTORIAL), config=dict(MINDSPORE_NUMERICS),
                   eval={"transforms": transforms, "crop_pct": 0.875} | IMAGENET, labels=None)


FORMATS: list[tuple[Callable[[Arrays], bool], Callable[[WeightFile], Foreign]]] = [
    (is_timm, from_timm),
    (lambda arrays: "blocks.0.norm1.gamma" in arrays, from_mindcv),
    (is_hugging_face, from_hugging_face),
    (lambda arrays: "conv_proj.weight" in arrays and "encoder.pos_embedding" in arrays, from_torchvision),
    (lambda arrays: google_prefix(arrays) is not None, from_google),
    (lambda arrays: any(name.endswith("transformer.layers.0.0.cell.0.gamma") for name in arrays), from_tutorial),
]
