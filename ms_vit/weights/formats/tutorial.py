"""MindSpore's ViT tutorial, whose layers have MindSpore's names and defaults."""

from ms_vit.weights.containers import WeightFile
from ms_vit.weights.formats import mindcv
from ms_vit.weights.formats.pretrained import IMAGENET, Arrays, Pretrained, eval_transforms, renamed

NAMES = [
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
    *mindcv.NAMES,
]


def recognises(arrays: Arrays) -> bool:
    return any(name.endswith("transformer.layers.0.0.cell.0.gamma") for name in arrays)


def convert(file: WeightFile) -> Pretrained:
    transforms = eval_transforms("Resize(resize_size)")
    return Pretrained(format="MindSpore tutorial", arrays=renamed(file.arrays, NAMES),
                      config=dict(mindcv.NUMERICS), labels=None,
                      preprocessing={"transforms": transforms, "crop_pct": 0.875} | IMAGENET)
