"""MINDIR, MindSpore's own graph files, of any batch size. What they have no place for goes beside: FILE.mindir.json.

That file holds the network's shape, its labels and its preprocessing, as the metadata of our safetensors do.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from ms_vit.models.kernels import compiled
from ms_vit.models.vit import ViT
from ms_vit.weights.exports.source import Source
from ms_vit.weights.files import set_parameters


def write(source: Source, path: Path) -> None:
    """Over 1 GB MindSpore keeps the weights apart, in STEM_variables/, which must stay beside the file."""
    beside = path.with_name(f"{path.name}.json")
    beside.write_text(json.dumps(asdict(source.spec), indent=1))
    images = ms.Tensor(shape=[None, *source.image_shape], dtype=ms.float32)
    with compiled.off():
        net = ViT(source.config)
    set_parameters(net.parameters_dict(), source.arrays, path)
    ms.export(net.set_train(False), images, file_name=str(path), file_format="MINDIR")
    apart = path.with_name(f"{path.stem}_variables")
    if apart.is_dir():
        path.with_name(f"{path.stem}_graph.mindir").rename(path)
        private = apart.rename(path.with_name(f"{path.stem}_private"))
        apart.mkdir()
        for file in private.iterdir():
            file.rename(apart / file.name)
        private.rmdir()
    # ms.export leaves its files readable for their owner alone, and for nobody to write.
    for file in [path, *apart.glob("*")]:
        shutil.copymode(beside, file)


def run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    graph = nn.GraphCell(ms.load(str(path)))
    return lambda images: graph(ms.Tensor(images)).asnumpy()
