"""OpenVINO's own files: the graph, FILE.xml, and its weights, FILE.bin, in float32. It is the graph of onnx_graph.py.

The network's shape, its labels and its preprocessing are in the graph's rt_info, under "ms_vit", as in our safetensors.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov

from ms_vit.device import cpu_count
from ms_vit.errors import DataError, UsageError
from ms_vit.weights.containers import HEAD, is_openvino
from ms_vit.weights.exports import onnx_graph
from ms_vit.weights.exports.source import Source
from ms_vit.weights.files import METADATA_KEY, ModelSpec, spec_of

HINTS = {"float32": "f32", "bfloat16": "bf16"}      # the precisions in OpenVINO's words


def write(source: Source, path: Path) -> None:
    graph = onnx_graph.build(source)
    del graph.metadata_props[:]     # OpenVINO would take them over, to a place of its own
    model = ov.Core().read_model(graph.SerializeToString())
    model.set_rt_info(source.spec.to_json(), [METADATA_KEY])
    ov.save_model(model, path, compress_to_fp16=False)


def run(path: Path, precision: str = "float32") -> Callable[[np.ndarray], np.ndarray]:
    """Runs an .xml, or an .onnx, on the CPU. Where its own operations are int8, `precision` is of the others."""
    refuse_precision(precision)
    compiled = ov.Core().compile_model(path, "CPU", {
        "INFERENCE_PRECISION_HINT": HINTS[precision],   # left alone, it takes bfloat16 where there is such
        "INFERENCE_NUM_THREADS": cpu_count(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,                               # all threads work on one batch
    })
    return lambda images: compiled(images)[0]


def refuse_precision(precision: str) -> None:
    """Raises UsageError where this processor lacks a precision: OpenVINO would compute in float32, and not tell."""
    if precision == "bfloat16" and "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UsageError("bfloat16 needs a processor with AVX512-BF16, and OpenVINO finds none here; take float32")


def read_spec(path: Path) -> ModelSpec:
    """What goes with an .xml of ours. Raises DataError where it is damaged, no such file, or contradicts itself."""
    with path.open("rb") as file:
        if not is_openvino(file.read(HEAD)):        # OpenVINO would try the formats of all libraries that it knows
            raise DataError(f"{path} is no OpenVINO model; was it written completely?")
    try:
        model = ov.Core().read_model(path)
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise DataError(f"{path} can't be read as an OpenVINO model ({reason}); it needs the {path.stem}.bin that was "
                        "exported with it beside it") from error
    if not model.has_rt_info([METADATA_KEY]):
        raise DataError(f"{path} is no export of ms-vit: it doesn't tell its labels and preprocessing")
    spec = spec_of({METADATA_KEY: model.get_rt_info([METADATA_KEY]).astype(str)}, path)
    config, classes = spec.config, spec.config.num_classes
    try:
        spec.preprocessing.check()
    except UsageError as error:
        raise DataError(f"{path} describes a preprocessing that can't be: {error}") from error
    found = [[str(side) for side in port.get_partial_shape()] for port in (*model.inputs, *model.outputs)]
    if (len(spec.labels.ids), len(spec.labels.names)) != (classes, classes) or found != [
            [str(side) for side in shape] for shape in (("?", config.channels, *spec.preprocessing.sides),
                                                        ("?", classes))]:
        raise DataError(f"{path} contradicts itself: its graph isn't of the network that it describes; export it again")
    return spec
