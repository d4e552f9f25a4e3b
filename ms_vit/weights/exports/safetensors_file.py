"""Our own safetensors: timm's names, with the network's shape, labels and preprocessing in the file's metadata."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np

from ms_vit.weights.exports.source import Source
from ms_vit.weights.files import save_parameters
from ms_vit.weights.loading import load_model


def write(source: Source, path: Path) -> None:
    save_parameters(path, source.net.parameters_dict(), source.spec)


def run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    net, _ = load_model(path)
    return lambda images: net(ms.Tensor(images)).asnumpy()
