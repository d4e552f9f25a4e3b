"""The named sizes: `vit_{tiny,small,base,large}_patch{8,14,16,32}[_IMAGE_SIZE]`, as timm names them."""

import re
from typing import Any

from ms_vit.errors import UsageError
from ms_vit.models.vit import ViT

# Dosovitskiy et al. 2020, table 1 (base, large); Touvron et al. 2021, "DeiT", table 1 (tiny, small).
SIZES = {
    "tiny": {"dim": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768},
    "small": {"dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
    "base": {"dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
}
PATCHES = (8, 14, 16, 32)


def model_config(name: str, **changes: Any) -> dict[str, Any]:
    """All that ViT() takes for a model's name: sizes, patch_size, image_size (224 where the name has none).

    `changes` are arguments of ViT that differ from the named size's; None leaves one as it is.
    """
    match = re.fullmatch(r"vit_([a-z]+)_patch(\d+)(?:_(\d+))?", name)
    if not match or match[1] not in SIZES or int(match[2]) not in PATCHES:
        raise UsageError(f'no model "{name}"; there are vit_{{{",".join(SIZES)}}}_patch{{8,14,16,32}}_SIZE, '
                         "for instance vit_tiny_patch16_224")
    named = SIZES[match[1]] | {"patch_size": int(match[2]), "image_size": int(match[3] or 224), "num_classes": 1000}
    return named | {key: value for key, value in changes.items() if value is not None}


def create_model(name: str, **changes: Any) -> ViT:
    """A new ViT by name, e.g. create_model("vit_tiny_patch16_224", num_classes=10, drop_path=0.1); see model_config."""
    return ViT(**model_config(name, **changes))
