"""What a network's weights start from, where that is not what its layers draw themselves: as Keras's layers start."""

from math import sqrt

from mindspore import Parameter
from mindspore.common.initializer import Uniform, initializer

from ms_vit.models.vit import ViT


def start_as_keras(net: ViT) -> None:
    """Draws what Keras's layers start otherwise: attention, the projection of patches, positions and the last layer.

    Keras draws uniformly within sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010, eq. 16), and takes an attention's
    kernels, [D, H, d] of queries, keys and values and [H, d, D] of what follows, for a convolution's: there are H * D
    inputs and d * D outputs, and H * d and H * D. So queries, keys and values start much smaller.
    """
    config = net.config
    dim, heads, head_dim = config.dim, config.num_heads, config.head_dim
    if not config.stem:     # behind one it is a dense layer, which starts alike in both
        draw(net.patch_embed.proj.weight, sqrt(6 / (config.channels * config.patch_size**2 + dim)))
    if net.pos_embed is not None and net.pos_embed.requires_grad:
        draw(net.pos_embed, 0.05)       # an embedding's
    for block in net.blocks:
        draw(block.attn.qkv.weight, sqrt(6 / (heads * dim + head_dim * dim)))
        draw(block.attn.proj.weight, sqrt(6 / (heads * head_dim + heads * dim)))
    for head in (net.head, net.head_dist):
        if head is not None:
            draw(head.weight, sqrt(6 / sum(config.head_sizes[-2:])))


def draw(weight: Parameter, limit: float) -> None:
    """Fills it uniformly within +-limit."""
    weight.set_data(initializer(Uniform(limit), weight.shape, weight.dtype).init_data())
