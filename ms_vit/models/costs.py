"""What a network costs on paper: parameters, operations and memory, by groups of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ms_vit.models.config import ViTConfig


@dataclass(frozen=True)
class Cost:
    """Of a group of layers: its parameters, and of one image forward its operations and its outputs.

    flops: in matrix products and convolutions alone, 2 for a multiply-add. Softmax, norms, GELU and sums are a per cent
    or two more, and are left out as is usual. Training takes 3 times as many.
    outputs: numbers that its operators put out, which training keeps of an image where nothing is computed anew.
    """

    group: str
    parameters: int
    flops: int
    outputs: int


def costs(config: ViTConfig, sizes: Mapping[str, int]) -> list[Cost]:
    """By groups, in the order in which an image passes them; sizes: a network's parameters, name -> numbers."""
    patches, dim, inner = config.patches, config.dim, config.attention_dim
    tokens = patches + config.extra_tokens
    heads = 2 if config.distilled else 1
    stem_flops, stem_outputs, seen = stem_costs(config)
    qkv, mixed = 6 * tokens * dim * inner, 4 * tokens**2 * inner        # mixed: the scores, and the values by them
    work = {
        "patches": (stem_flops + 2 * patches * seen * dim, stem_outputs + patches * dim),
        "tokens and positions": (0, tokens * dim),
        f"attention, {config.depth} x": (config.depth * (qkv + mixed + 2 * tokens * inner * dim),
                                         config.depth * tokens * (2 * dim + 4 * inner + config.num_heads * tokens)),
        f"MLP, {config.depth} x": (config.depth * 4 * tokens * dim * config.mlp_dim,
                                   config.depth * tokens * (2 * dim + 2 * config.mlp_dim)),
        "head": (heads * sum(2 * inputs * outputs for inputs, outputs in pairwise(config.head_sizes)),
                 tokens * dim + heads * sum(config.head_sizes[1:])),
    }
    parameters = dict.fromkeys(work, 0)
    for name, size in sizes.items():
        parameters[list(work)[place_of(name)]] += size
    return [Cost(group, parameters[group], *work[group]) for group in work]


def place_of(name: str) -> int:
    """Which of the groups a parameter is of, by its name."""
    if name.startswith("patch_embed."):
        return 0
    if name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        return 1
    if name.startswith("blocks."):
        part = name.split(".")[2]
        return 2 if part in ("norm1", "attn", "ls1") else 3
    return 4


def stem_costs(config: ViTConfig) -> tuple[int, int, int]:
    """Operations and outputs of a conv stem, none without one, and the numbers of a patch that are projected."""
    if not config.stem:
        return 0, 0, config.channels * config.patch_size**2
    flops = outputs = 0
    pixels = config.patches * config.patch_size**2      # those that are filled up included
    for channels, wider in pairwise((config.channels, *config.stem)):
        half = pixels // 4
        if config.stem_form == "pooled":
            flops += 18 * (pixels * channels + half * wider) * wider
            outputs += (pixels + 5 * half) * wider
        else:
            flops += 18 * half * channels * wider
            outputs += 3 * half * wider
        pixels = half
    return flops, outputs, config.stem[-1]


def forward_flops(config: ViTConfig) -> int:
    """Operations of one image's forward pass, as Cost counts them."""
    return sum(cost.flops for cost in costs(config, {}))
