"""Weights and what travels with them, in one safetensors file: the network's shape, its labels, its preprocessing."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ms_vit.data.labels import Labels
from ms_vit.data.transforms import Preprocessing
from ms_vit.errors import DataError
from ms_vit.models.vit import ViT

METADATA_KEY = "ms_vit"


@dataclass(kw_only=True)
class ModelSpec:
    """What a set of weights needs to be of use: ViT's arguments, class labels, and how images are prepared."""

    config: dict[str, Any]
    labels: Labels
    preprocessing: Preprocessing

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        values = json.loads(text)
        return cls(config=values["config"], labels=Labels(**values["labels"]),
                   preprocessing=Preprocessing(**values["preprocessing"]))


def save_parameters(path: Path, parameters: list[Parameter], spec: ModelSpec | None = None) -> None:
    """Writes parameters under their names, with the spec, where given, in the file's metadata."""
    arrays = {parameter.name: np.ascontiguousarray(parameter.asnumpy()) for parameter in parameters}
    save_file(arrays, path, metadata={METADATA_KEY: spec.to_json()} if spec else None)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file by their names."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from error


def read_spec(path: Path) -> ModelSpec:
    """The spec in the metadata of a file of ours."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        return ModelSpec.from_json(metadata[METADATA_KEY])
    except KeyError as error:
        raise DataError(f"{path} carries no labels and preprocessing of ours; it was not written by ms-vit") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from error


def set_parameters(parameters: list[Parameter], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Sets every parameter from the array of its name; anything missing, left over or of another shape is an error."""
    wanted = {parameter.name: parameter for parameter in parameters}
    problems = [f"lacks {name}" for name in wanted if name not in arrays]
    problems += [f"has {name} too many" for name in arrays if name not in wanted]
    problems += [f"{name} is {arrays[name].shape}, not {tuple(parameter.shape)}"
                 for name, parameter in wanted.items()
                 if name in arrays and arrays[name].shape != tuple(parameter.shape)]
    if problems:
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise DataError(f"{path} doesn't fit the model: {listed}")
    for name, parameter in wanted.items():
        parameter.set_data(ms.Tensor(arrays[name], parameter.dtype))


def load_model(path: Path) -> tuple[ViT, ModelSpec]:
    """The network of a file of ours, with its weights, ready to predict; and its spec."""
    spec = read_spec(path)
    try:
        net = ViT(**spec.config)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} describes a network that this version doesn't know: {error}") from error
    set_parameters(list(net.get_parameters()), read_arrays(path), path)
    net.set_train(False)
    return net, spec
