"""What gives logits for images: the network in MindSpore, or its ONNX export in ONNX Runtime.

Either is a function: images [n, C, H, W] float32 -> logits [n, num_classes] float32.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from ms_vit.caches import hash_of, is_sealed, sources
from ms_vit.device import use_device
from ms_vit.errors import UsageError
from ms_vit.models.kernels import pack
from ms_vit.models.kernels.bfloat16 import computing_in
from ms_vit.progress import say
from ms_vit.weights.exports import Exporter, Source, exporter
from ms_vit.weights.exports.checked import beside, compare
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.formats import Pretrained
from ms_vit.weights.loading import load_model, network, read_model

Logits = Callable[[np.ndarray], np.ndarray]
ENGINES = ("mindspore", "onnx")
PRECISIONS = ("float32", "bfloat16")


def load_engine(name: str, weights: Path, model: str | None, *, device: str | None, batch_size: int,
                precision: str = "float32") -> tuple[Logits, ModelSpec]:
    """The logits of a weight file's network by an engine, for up to `batch_size` images, and what goes with them.

    Raises UsageError where there is no such engine, it isn't installed, or it doesn't run on `device` in `precision`.
    """
    if name not in ENGINES:
        raise UsageError(f'no engine "{name}"; there are {", ".join(ENGINES)}')
    if precision not in PRECISIONS:
        raise UsageError(f'no precision "{precision}" to predict in; there are {", ".join(PRECISIONS)}')
    if name == "onnx":
        if precision != "float32":
            raise UsageError(f"--engine onnx computes in float32, not in {precision}; leave one of both out")
        return load_onnx(weights, model, device)
    use_device(device)
    with computing_in(precision):
        net, spec = load_model(weights, model)
    pack(net)
    return on_mindspore(net, batch_size), spec


def on_mindspore(net: nn.Cell, batch_size: int) -> Logits:
    """A network in MindSpore, for up to `batch_size` images; it must not be training.

    A smaller batch is filled up and the filling's answers dropped: another shape would compile the graph anew.
    """
    def logits(images: np.ndarray) -> np.ndarray:
        missing = batch_size - len(images)
        if missing:
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        return net(ms.Tensor(images)).asnumpy()[:batch_size - missing].astype(np.float32)
    return logits


def load_onnx(weights: Path, model: str | None, device: str | None) -> tuple[Logits, ModelSpec]:
    """A weight file's network in ONNX Runtime, on the CPU.

    It is exported when it is first asked for, compared with the network, and kept beside the file under the hash of
    what decides it; from then on MindSpore neither builds nor compiles anything.
    """
    if device is not None and device.lower() != "cpu":
        raise UsageError(f"--engine onnx runs on the CPU, not on {device}; leave --device out")
    to = exporter("onnx")
    pretrained, spec = read_model(weights, model)
    key = key_of(pretrained, spec)
    file = weights / "model" if weights.is_dir() else weights
    kept = file.with_name(f"{file.stem}-{key[:12]}.onnx")
    if logits := reopened(to, kept, key):
        return logits, spec

    say(f"exporting {weights} for ONNX Runtime, once")
    use_device(device)
    source = Source(network(pretrained, spec, weights), spec)
    try:
        return exported(to, source, kept, key), spec
    except OSError as error:
        say(f"can't keep {kept} ({(error.strerror or str(error)).lower()}); the export is for this call alone")
    with tempfile.TemporaryDirectory(prefix="ms-vit-") as folder:
        return exported(to, source, Path(folder) / kept.name, key), spec


def exported(to: Exporter, source: Source, out: Path, key: str) -> Logits:
    """Writes a sealed export that was compared with its network, and opens it. Raises as `compare`, and OSError."""
    from ms_vit.weights.exports.onnx_graph import seal

    with beside(out) as part:
        to.write(source, part)
        seal(part, key)
        difference = compare(to, source, part)
        logits = to.run(part)
    say(f"{out.name}: its logits differ by at most {difference:.1e} from the network's")
    return logits


def reopened(to: Exporter, kept: Path, key: str) -> Logits | None:
    """A kept export; None where there is none, or it is damaged, another's, or none for this onnxruntime."""
    if not kept.is_file():
        return None
    try:
        if is_sealed(kept, key):
            return to.run(kept)
        damage = "is not as it was exported"
    except Exception as error:      # onnxruntime has its own; exported anew, the file runs, or the user hears why not
        damage = f"can't be loaded ({(str(error).splitlines() or [type(error).__name__])[0]})"
    say(f"{kept} {damage}; making it anew")
    return None


def key_of(pretrained: Pretrained, spec: ModelSpec) -> str:
    """Hash of what decides an export: the weights, what goes with them, and the code from the one to the other."""
    return hash_of(spec.to_json(), sources("models", "weights"), arrays=pretrained.arrays)
