"""Weights of other libraries -> timm's names, with the numerics and the preprocessing that belong to them.

A format is recognised by the names of its tensors. Each library's module has

    recognises(arrays)      whether these are its names
    convert(file)           its weights as Pretrained; raises KeyError or ValueError and the like where it is no ViT
"""

from pathlib import Path

import numpy as np

from ms_vit.data.labels import imagenet_labels
from ms_vit.errors import DataError
from ms_vit.weights.containers import WeightFile
from ms_vit.weights.containers.weight_file import printable
from ms_vit.weights.formats import google, hugging_face, mindcv, timm, torchvision, tutorial
from ms_vit.weights.formats.pretrained import Pretrained, structure

__all__ = ["Pretrained", "recognise"]

FORMATS = (timm, mindcv, hugging_face, torchvision, google, tutorial)


def recognise(file: WeightFile, path: Path) -> Pretrained:
    """Finds the format by the names inside and converts. Raises DataError where it is none that we know."""
    for library in FORMATS:
        if library.recognises(file.arrays):
            try:
                return described(library.convert(file))
            except KeyError as error:
                raise DataError(f"{path} lacks {printable(error.args[0])}, which every ViT has; "
                                "it is cut or of another kind") from error
            except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
                raise DataError(f"{path} holds something that no ViT has: {printable(error)}") from error
    names = ", ".join(map(printable, list(file.arrays)[:3]))
    raise DataError(f"{path} holds no ViT that we know (its tensors are called {names}, ...); "
                    "timm, Hugging Face, torchvision, Google, MAE, MindCV and MindSpore's tutorial are read")


def described(pretrained: Pretrained) -> Pretrained:
    """With all that the tensors say of the network; what the format or its config said before goes first."""
    arrays = pretrained.arrays
    if not any(name.endswith(".attn.qkv.bias") for name in arrays):        # qkv_bias=False, which zeros are as well
        arrays |= {name.replace(".weight", ".bias"): np.zeros(len(array), array.dtype)
                   for name, array in arrays.items() if name.endswith(".attn.qkv.weight")}
    pretrained.config = structure(arrays) | pretrained.config
    prepared = pretrained.preprocessing
    prepared |= {key: [float(value) for value in prepared[key]] for key in ("mean", "std")}
    if not 0 < prepared["crop_pct"] <= 1:
        raise ValueError(f"a crop_pct of {prepared['crop_pct']}")
    classes = pretrained.config.get("num_classes")
    if pretrained.labels and classes and len(pretrained.labels) != classes:
        raise ValueError(f"its config names {len(pretrained.labels)} classes, its head has {classes}")
    if not classes:
        pretrained.labels = None
    elif pretrained.labels is None and classes == 1000:
        pretrained.labels = imagenet_labels()
    return pretrained
