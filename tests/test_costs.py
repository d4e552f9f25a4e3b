"""What a network costs on paper, against what its parameters and PyTorch's counter say."""

import pytest
from test_vit import SMALL

from ms_vit.models.config import ViTConfig
from ms_vit.models.costs import costs, forward_flops
from ms_vit.models.vit import ViT, create_model


@pytest.mark.parametrize("kind", [
    {}, {"distilled": True, "registers": 2, "head_dim": 10}, {"pool": "flatten", "head_hidden": [9]},
    {"stem": [6, 8, 10], "pool": "mean", "fc_norm": True, "layer_scale": True, "qk_norm": True},
    {"stem": [6, 8, 10], "stem_form": "pooled", "pool": "mean"}], ids=str)
def test_every_parameter_is_of_one_group(kind):
    net = ViT(ViTConfig(**SMALL | kind))
    sizes = {parameter.name: parameter.size for parameter in net.get_parameters()}
    found = costs(net.config, sizes)
    assert sum(cost.parameters for cost in found) == sum(sizes.values())
    by_group = {cost.group.split(",")[0]: cost for cost in found}
    assert by_group["head"].parameters == sum(size for name, size in sizes.items() if name.startswith(
        ("norm.", "fc_norm.", "head", "pre_logits")))
    assert by_group["patches"].parameters == sum(size for name, size in sizes.items() if name.startswith("patch_embed"))
    assert all(cost.outputs > 0 for cost in found)


def test_vit_b_16_costs_what_is_published():
    config = create_model("vit_base_patch16_224").config
    assert forward_flops(config) == pytest.approx(2 * 17.58e9, rel=0.003)     # timm and torchvision tell 17.58 GMAC


@pytest.mark.parametrize("form", ["strided", "pooled"])
def test_convolutions_are_counted_as_pytorch_counts_them(form):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    config = ViTConfig(**SMALL | {"image_size": (24, 32)}, stem=[6, 8, 10], stem_form=form, pool="mean")
    layers = []
    for channels, wider in ((3, 6), (6, 8), (8, 10)):
        first = torch.nn.Conv2d(channels, wider, 3, padding=1, stride=1 if form == "pooled" else 2)
        layers += [first] if form == "strided" else [first, torch.nn.MaxPool2d(2),
                                                     torch.nn.Conv2d(wider, wider, 3, padding=1)]
    with FlopCounterMode(display=False) as counter:
        torch.nn.Sequential(*layers)(torch.zeros(1, 3, 24, 32))
    (patches, *_) = costs(config, {})
    assert patches.flops == counter.get_total_flops() + 2 * config.patches * 10 * config.dim
