"""Our own weight files: safetensors that carry the network's shape, its labels and its preprocessing as metadata."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import DataError, UsageError
from ms_vit.models.config import ViTConfig

METADATA_KEY = "ms_vit"


@dataclass(kw_only=True)
class ModelSpec:
    """What a set of weights needs to be of use: the network, its class labels, and how images are prepared."""

    config: ViTConfig
    labels: Labels
    preprocessing: Preprocessing

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Raises KeyError, TypeError or ValueError where it is none, UsageError where its network can't be."""
        values = json.loads(text)
        labels, prepared = Labels(**values["labels"]), Preprocessing(**values["preprocessing"])
        for kinds, words in (((str,), [labels.ids, labels.names, prepared.transforms]),
                             ((int, float), [prepared.mean, prepared.std, [prepared.crop_pct]])):
            if not all(isinstance(line, list) and all(isinstance(word, kinds) for word in line) for line in words):
                raise TypeError
        try:
            config = ViTConfig.from_dict(dict(values["config"]))
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error
        return cls(config=config, labels=labels, preprocessing=prepared.for_channels(config.channels))


def save_parameters(path: Path, parameters: dict[str, Parameter], spec: ModelSpec | None = None) -> None:
    """Writes parameters by their names, with the spec, where given, in the file's metadata."""
    arrays = {name: parameter.asnumpy() for name, parameter in parameters.items()}
    save_arrays(path, arrays, {METADATA_KEY: spec.to_json()} if spec else None)


def save_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file with a new file's usual permissions; save_file alone lets only its owner read it.

    Raises OSError where it can't be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, metadata=metadata)
    except SafetensorError as error:        # its way to say that the disk is full
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error) from error
    path.chmod(mode)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file by their names."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from error


def spec_of(metadata: dict[str, str], path: Path) -> ModelSpec:
    """The spec in the metadata of a file of ours."""
    try:
        return ModelSpec.from_json(metadata[METADATA_KEY])
    except UsageError as error:
        raise DataError(f"{path} describes a network that can't be: {error}; download it again") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path} has damaged metadata, or is of another version of ms-vit") from error


def read_spec(path: Path) -> ModelSpec:
    """The spec of a file of ours. Raises DataError where it is none."""
    try:
        with safe_open(path, "numpy") as file:
            return spec_of(file.metadata() or {}, path)
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from error


def set_parameters(parameters: dict[str, Parameter], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Sets every parameter from the array of its name; anything missing, left over or of another shape is an error."""
    refuse_misfits(path, *misfits(parameters, arrays))
    for name, parameter in parameters.items():
        parameter.set_data(ms.Tensor(np.asarray(arrays[name], order="C"), parameter.dtype))


def misfits(wanted: dict[str, Parameter], arrays: dict[str, np.ndarray]) -> tuple[list[str], list[str], list[str]]:
    """Names that `arrays` lacks, that it has too many, and that have another shape there."""
    missing = [name for name in wanted if name not in arrays]
    left_over = [name for name in arrays if name not in wanted]
    shapes = [f"{name} {list(arrays[name].shape)}, not {list(parameter.shape)}" for name, parameter in wanted.items()
              if name in arrays and arrays[name].shape != tuple(parameter.shape)]
    return missing, left_over, shapes


def refuse_misfits(path: Path, missing: list[str], left_over: list[str], shapes: list[str]) -> None:
    kinds = [("lacks", missing), ("has too many", left_over), ("has of another shape", shapes)]
    told = [f"{what} {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
            for what, names in kinds if names]
    if told:
        raise DataError(f"{path} doesn't fit the model: it {'; '.join(told)}. Is --model the right one?")
