"""Logits of one network on one device, in one precision: python logits.py DEVICE PRECISION OUT.npy.

Weights and images are drawn by NumPy, so that every device gets the same. Prints why not, where the chip lacks that
precision, and writes nothing then.
"""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np

from ms_vit.device import use_device
from ms_vit.models.config import ViTConfig
from ms_vit.models.kernels import precision
from ms_vit.models.vit import ViT


def main(device: str, asked: str, out: Path) -> None:
    use_device(device)
    if missing := precision.what_is_missing(asked):
        print(missing)
        return
    random = np.random.default_rng(0)
    with precision.computing_in(asked):
        net = ViT(ViTConfig(image_size=64, patch_size=8, dim=192, depth=4, num_heads=3, mlp_dim=768,
                            num_classes=100))
    for name, parameter in net.parameters_dict().items():
        spread = random.normal(0, 0.05, parameter.shape).astype(np.float32)
        parameter.set_data(ms.Tensor(spread + 1 if "norm" in name and name.endswith("weight") else spread))
    net.set_train(False)
    np.save(out, net(ms.Tensor(random.normal(0, 1, (16, 3, 64, 64)), ms.float32)).asnumpy())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
