"""An export is written beside its place, run there, and moved to it once its logits are the network's own."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
import numpy as np

from ms_vit.errors import DataError
from ms_vit.models.config import ViTConfig
from ms_vit.weights.exports import Exporter, Source

# In float32 of the largest difference of a logit. In bfloat16 of all differences' RMS over that of the logits: factors
# of a product are rounded by up to 2^-9, 0.2 %, which came to 1.6 % behind the 12 blocks of a ViT-Ti, and a wrong
# network is off by its logits' whole size.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}
BATCHES = (1, 3)        # an export takes any number of images; these are tried


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A place of the same name to write `out` at; what lies there in the end is moved to its own, if all went well."""
    home = next(folder for folder in out.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".ms-vit-export-", dir=home) as folder:
        yield Path(folder) / out.name
        out.parent.mkdir(parents=True, exist_ok=True)
        for made in Path(folder).iterdir():
            made.replace(out.with_name(made.name))


def probes(config: ViTConfig) -> np.ndarray:
    """The images on which an export is compared with its network, [n, C, H, W] float32."""
    shape = (max(BATCHES), config.channels, *config.height_and_width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def answers(source: Source) -> np.ndarray:
    """The network's own logits of `probes`, [n, num_classes] float32."""
    return source.net(ms.Tensor(probes(source.config))).asnumpy()


def compare(to: Exporter, path: Path, images: np.ndarray, expected: np.ndarray,
            precision: str = "float32") -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """Runs an export on `probes`; returns what runs it, and how far its logits are from the network's, `expected`.

    Raises DataError where that is too much for the `precision` that it is run in, or it doesn't run.
    """
    try:
        logits = to.run(path)
        found = np.concatenate([logits(images[:count]) for count in BATCHES])
    except Exception as error:      # each library has its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{to.runner} can't run the {to.name} export ({reason}); a newer version may") from error
    wanted = np.concatenate([expected[:count] for count in BATCHES])
    if precision == "float32":
        difference = float(np.abs(found - wanted).max())
    else:
        difference = rms(found - wanted) / (rms(wanted) or 1.0)
    limit = TOLERANCES[precision]
    if not difference <= limit:
        raise DataError(f"the logits of the {to.name} export differ by {told(difference, precision)}, more than "
                        f"{limit:.0e}, in {to.runner}; it is not used")
    return logits, difference


def told(difference: float, precision: str) -> str:
    """A difference in words."""
    return f"{difference:.1e}" if precision == "float32" else f"{difference:.1e} of their size"


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
