"""Networks in the formats of other libraries. Each format's module writes one, and runs what it wrote.

    write(source, path)      source.py says what goes in; raises UsageError where the format has no such ViT
    run(path)                a function: images [n, C, H, W] float32 -> logits [n, num_classes], any n
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from ms_vit.errors import UsageError
from ms_vit.weights.exports.source import Source

__all__ = ["FORMATS", "Exporter", "Source", "exporter", "imported"]


@dataclass(frozen=True)
class Format:
    """What there is to know of a format before its libraries are imported.

    suffix: of the file; a format without one is a folder. runner: what runs the export.
    """

    module: str
    suffix: str
    runner: str


FORMATS = {
    "onnx": Format("onnx_runtime", ".onnx", "onnxruntime"),
    "openvino": Format("openvino_ir", ".xml", "openvino"),
    "mindir": Format("mindir", ".mindir", "MindSpore's GraphCell"),
    "safetensors": Format("safetensors_file", ".safetensors", "ms-vit"),
    "timm": Format("timm_folder", "", "timm"),
    "huggingface": Format("hugging_face", "", "transformers"),
}


@dataclass(frozen=True)
class Exporter(Format):
    """A format, ready for use."""

    name: str
    write: Callable[[Source, Path], None]
    run: Callable[[Path], Callable[[np.ndarray], np.ndarray]]


def exporter(name: str) -> Exporter:
    """The exporter of a format. Raises UsageError where there is no such format, or a library for it is missing."""
    if name not in FORMATS:
        raise UsageError(f'no format "{name}"; there are {", ".join(FORMATS)}')
    known = FORMATS[name]
    module = imported(known.module, name, known.runner, name)
    return Exporter(**vars(known), name=name, write=module.write, run=module.run)


def imported(module: str, what: str, library: str, extra: str) -> ModuleType:
    """A module of this package, for an export that is called `what`; UsageError where its library can't be imported."""
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        raise UsageError(f'the {what} export needs {error.name}; run: pip install "ms-vit[{extra}]"') from error
    except (ImportError, RuntimeError, AttributeError) as error:    # two libraries whose versions don't go together
        reason = (str(error).splitlines() or ["it gives no reason"])[0]
        raise UsageError(f"the {what} export needs {library}, which can't be imported here: {reason}") from error
