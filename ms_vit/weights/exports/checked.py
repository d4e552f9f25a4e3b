"""An export is written beside its place, run there, and moved to it once its logits are the network's own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
import numpy as np

from ms_vit.errors import DataError
from ms_vit.weights.exports import Exporter, Source

TOLERANCE = 1e-4        # of a logit
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


def compare(to: Exporter, source: Source, path: Path) -> float:
    """The largest difference between the logits of an export and the network's own; DataError where it is too large."""
    images = np.random.default_rng(0).normal(size=(max(BATCHES), *source.image_shape)).astype(np.float32)
    expected = source.net(ms.Tensor(images)).asnumpy()
    try:
        logits = to.run(path)
        found = [logits(images[:count]) for count in BATCHES]
    except Exception as error:      # each library has its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{to.runner} can't run the {to.name} export ({reason}); a newer version may") from error
    wanted = [expected[:count] for count in BATCHES]
    difference = float(np.abs(np.concatenate(found) - np.concatenate(wanted)).max())
    if not difference <= TOLERANCE:
        raise DataError(f"the logits of the {to.name} export differ by {difference:.1e}, more than {TOLERANCE:.0e}, "
                        f"in {to.runner}; {path.name} is not written")
    return difference
