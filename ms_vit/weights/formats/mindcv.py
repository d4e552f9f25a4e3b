"""MindCV (mindcv/models/vit.py), which runs MindSpore's defaults."""

from ms_vit.weights.containers import WeightFile
from ms_vit.weights.formats.pretrained import IMAGENET, Arrays, Pretrained, eval_transforms, renamed

NAMES = [(r"(norm\d?|fc_norm)\.gamma$", r"\1.weight"), (r"(norm\d?|fc_norm)\.beta$", r"\1.bias"),
          (r"^head\.classifier\.", "head.")]
NUMERICS = {"epsilon": 1e-7, "gelu": "tanh"}      # MindSpore's defaults


def recognises(arrays: Arrays) -> bool:
    return "blocks.0.norm1.gamma" in arrays


def convert(file: WeightFile) -> Pretrained:
    transforms = eval_transforms("Resize(resize_size, Inter.BICUBIC)")
    return Pretrained(format="MindCV", arrays=renamed(file.arrays, NAMES), config=dict(NUMERICS),
                   preprocessing={"transforms": transforms, "crop_pct": 0.875} | IMAGENET, labels=None)
