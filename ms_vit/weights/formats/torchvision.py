"""torchvision (torchvision/models/vision_transformer.py)."""

from ms_vit.weights.containers import WeightFile
from ms_vit.weights.formats.pretrained import BILINEAR, IMAGENET, Arrays, Pretrained, renamed

NAMES = [
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


def recognises(arrays: Arrays) -> bool:
    return "conv_proj.weight" in arrays and "encoder.pos_embedding" in arrays


def convert(file: WeightFile) -> Pretrained:
    return Pretrained(format="torchvision", arrays=renamed(file.arrays, NAMES), labels=None,
                   config={"epsilon": 1e-6, "gelu": "exact"},
                   preprocessing={"transforms": BILINEAR, "crop_pct": 0.875} | IMAGENET)
