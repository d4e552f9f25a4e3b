"""The named sizes: `vit_{tiny,small,base,large}_patch{8,14,16,32}[_IMAGE_SIZE]`, as timm names them."""

import re
from typing import Any

from ms_vit import limits
from ms_vit.errors import UsageError
from ms_vit.models.vit import ViT, pair

# Dosovitskiy et al. 2020, table 1 (base, large); Touvron et al. 2021, "DeiT", table 1 (tiny, small).
SIZES = {
    "tiny": {"dim": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768},
    "small": {"dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
    "base": {"dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
}
PATCHES = (8, 14, 16, 32)
WORDS = {"pool": ("cls", "mean", "flatten"), "gelu": ("exact", "tanh")}


def model_config(name: str, **changes: Any) -> dict[str, Any]:
    """All that ViT() takes for a model's name: sizes, patch_size, image_size (224 where the name has none).

    `changes` are arguments of ViT that differ from the named size's; None leaves one as it is.
    """
    match = re.fullmatch(r"vit_([a-z]+)_patch(\d+)(?:_(\d+))?", name)
    if not match or match[1] not in SIZES or int(match[2]) not in PATCHES:
        raise UsageError(f'no model "{name}"; there are vit_{{{",".join(SIZES)}}}_patch{{8,14,16,32}}_SIZE, '
                         "for instance vit_tiny_patch16_224")
    named = SIZES[match[1]] | {"patch_size": int(match[2]), "image_size": int(match[3] or 224), "num_classes": 1000}
    config = named | {key: value for key, value in changes.items() if value is not None}
    try:
        check_config(config)
    except ValueError as error:
        raise UsageError(f"there is no such network: {error}") from error
    return config


def check_config(config: dict[str, Any]) -> None:
    """Raises ValueError where arguments of ViT are of another type, out of limits.NETWORK, or contradict each other."""
    for key, (least, most) in limits.NETWORK.items():
        value = config.get(key)
        for number in value if isinstance(value, (list, tuple)) and key in ("stem", "image_size") else [value]:
            if value is not None and not (type(number) is int and least <= number <= most):
                raise ValueError(f"{key} must be a whole number from {least} to {most:,}, not {number!r:.40}")
    if not isinstance(size := config.get("image_size", 1), int) and len(size) != 2:
        raise ValueError(f"image_size must be one number, or height and width, not {size!r:.40}")
    for key, known in WORDS.items():
        if key in config and config[key] not in known:
            raise ValueError(f"{key} must be {' or '.join(known)}, not {config[key]!r:.40}")
    epsilon = config.get("epsilon", 1e-6)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be above 0 and below 1, not {epsilon!r:.40}")
    if not {"dim", "num_heads", "image_size", "patch_size"} <= config.keys():
        return
    dim, heads, stem, patch = config["dim"], config["num_heads"], config.get("stem") or (), config["patch_size"]
    if config.get("head_dim") is None and dim % heads:
        raise ValueError(f"dim {dim} can't be split into num_heads {heads}; give head_dim")
    if stem and patch != 2 ** len(stem):
        raise ValueError(f"a stem of {len(stem)} stages makes patches of {2 ** len(stem)} pixels, not {patch}")
    if (patches := patches_of(config)) > limits.MAX_PATCHES:
        raise ValueError(f"image_size {config['image_size']} makes {patches:,} patches, more than "
                         f"{limits.MAX_PATCHES:,}")
    if (weights := weights_of(config)) > limits.MAX_WEIGHTS:
        raise ValueError(f"dim, depth and mlp_dim make {weights:,} weights, more than {limits.MAX_WEIGHTS:,}")


def patches_of(config: dict[str, Any]) -> int:
    """Patches of an image, those that are filled up included."""
    height, width = pair(config["image_size"])
    return -(-height // config["patch_size"]) * -(-width // config["patch_size"])


def weights_of(config: dict[str, Any]) -> int:
    """Weights of the matrices of a network, which are nearly all."""
    dim, patches = config["dim"], patches_of(config)
    inner = config["num_heads"] * config["head_dim"] if config.get("head_dim") else dim
    seen = patches if config.get("pool") == "flatten" else 1
    return dim * (config["depth"] * (4 * inner + 2 * config["mlp_dim"]) + patches
                  + config.get("channels", 3) * config["patch_size"] ** 2 + seen * config.get("num_classes", 0))


def create_model(name: str, **changes: Any) -> ViT:
    """A new ViT by name, e.g. create_model("vit_tiny_patch16_224", num_classes=10, drop_path=0.1); see model_config."""
    return ViT(**model_config(name, **changes))
