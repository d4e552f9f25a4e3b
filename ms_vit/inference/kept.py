"""The ONNX file that engines beside MindSpore run: exported once, and kept beside the weights.

It is found by a hash of what decides it. With the graph it holds the network's own logits of a few images, with which
whatever opens it is compared each time: another engine, another release of one, another processor or precision.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ms_vit.caches import hash_of, is_sealed, sources
from ms_vit.device import use_device
from ms_vit.progress import say
from ms_vit.weights.exports import Exporter, Source
from ms_vit.weights.exports.checked import answers, beside, compare, probes, told
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.formats import Pretrained
from ms_vit.weights.loading import network, read_model

Logits = Callable[[np.ndarray], np.ndarray]


def load_kept(to: Exporter, weights: Path, model: str | None, precision: str) -> tuple[Logits, ModelSpec]:
    """A weight file's network, run from ONNX by `to`, in `precision`. Raises as `compare`, and as `onnx_graph.build`.

    It is exported when it is first asked for; from then on MindSpore neither builds nor compiles anything.
    """
    pretrained, spec = read_model(weights, model)
    key = key_of(pretrained, spec)
    file = weights / "model" if weights.is_dir() else weights
    kept = file.with_name(f"{file.stem}-{key[:12]}.onnx")
    if logits := reopened(to, kept, key, spec, precision):
        return logits, spec

    say(f"exporting {weights} for {to.runner}, once")
    use_device("CPU")       # what a card calls float32 may differ by more than an export is allowed to
    source = Source(network(pretrained, spec, weights), spec)
    try:
        return exported(to, source, kept, key, precision), spec
    except OSError as error:
        say(f"can't keep {kept} ({(error.strerror or str(error)).lower()}); the export is for this call alone")
    with tempfile.TemporaryDirectory(prefix="ms-vit-") as folder:
        return exported(to, source, Path(folder) / kept.name, key, precision), spec


def exported(to: Exporter, source: Source, out: Path, key: str, precision: str) -> Logits:
    """Writes a sealed export, compares it with its network, and opens it. Raises as `compare`, and OSError."""
    from ms_vit.weights.exports import onnx_graph

    expected = answers(source)
    with beside(out) as part:
        onnx_graph.write(source, part)
        onnx_graph.seal(part, key, expected)
        logits, difference = compare(to, part, probes(source.config), expected, precision)
    say(f"{out.name}: run by {to.runner}, its logits differ by {told(difference, precision)} from the network's")
    return logits


def reopened(to: Exporter, kept: Path, key: str, spec: ModelSpec, precision: str) -> Logits | None:
    """A kept export; None where there is none, or it is damaged, another's, or none for this release of its engine."""
    from ms_vit.weights.exports.onnx_graph import sealed_logits

    if not kept.is_file():
        return None
    try:
        if is_sealed(kept, key):
            return compare(to, kept, probes(spec.config), sealed_logits(kept), precision)[0]
        damage = "is not as it was exported"
    except Exception as error:      # engines have their own; exported anew, the file runs, or the user hears why not
        damage = f"can't be loaded ({(str(error).splitlines() or [type(error).__name__])[0]})"
    say(f"{kept} {damage}; making it anew")
    return None


def key_of(pretrained: Pretrained, spec: ModelSpec) -> str:
    """Hash of what decides an export: the weights, what goes with them, and the code from the one to the other."""
    return hash_of(spec.to_json(), sources("models", "weights"), arrays=pretrained.arrays)
