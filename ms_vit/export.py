"""ms-vit export: write a network in another library's format, run that and compare."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ms_vit import cli
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say

TOLERANCE = 1e-4        # of a logit
BATCHES = (1, 3)        # an export takes any number of images; these are tried


@dataclass
class Export:
    """What was written, and the largest difference of its logits, run by `compared_with`, from the network's own."""

    out: Path
    format: str
    difference: float
    compared_with: str


def export(checkpoint: str | Path, *, format: str, out: str | Path, model: str | None = None,
           device: str | None = None) -> Export:
    """Write a network for another library, run what was written, and compare its logits with the network's own.

    Labels and preprocessing travel with it. A difference over 1e-4 is a failure, and leaves nothing.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, or a weight file.
        format: onnx, mindir or safetensors, which are files; timm or huggingface, which are folders.
        out: the file, ending in .onnx, .mindir or .safetensors, or the folder.
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        device: CPU, GPU or Ascend (default: what MindSpore finds); the network's own logits come from there.
    """
    import numpy as np

    from ms_vit.models.exports import Source, exporter
    from ms_vit.predictor import Predictor, batch_logits

    out, to = Path(out), exporter(format)
    refuse_place(out, to.suffix, format)
    predictor = Predictor(checkpoint, model=model, device=device)
    source = Source(predictor.net, predictor.spec)

    images = np.random.default_rng(0).normal(size=(max(BATCHES), *source.image_shape)).astype(np.float32)
    expected = batch_logits(source.net, images, len(images))
    with beside(out) as part:
        to.write(source, part)
        try:
            logits = to.run(part)
            found = [logits(images[:count]) for count in BATCHES]
        except Exception as error:      # each library has its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{to.runner} can't run the {format} export ({reason}); a newer version may") from error
        wanted = [expected[:count] for count in BATCHES]
        difference = float(np.abs(np.concatenate(found) - np.concatenate(wanted)).max())
        if not difference <= TOLERANCE:
            raise DataError(f"the logits of the {format} export differ by {difference:.1e}, more than {TOLERANCE:.0e}, "
                            f"in {to.runner}; {out} is not written")
    say(f"{out}: run by {to.runner}, its logits differ by at most {difference:.1e} from the network's")
    return Export(out, format, difference, to.runner)


def refuse_place(out: Path, suffix: str, format: str) -> None:
    """Raises UsageError where a file or a folder of this format can't be or shouldn't be put."""
    if suffix and out.suffix != suffix:
        raise UsageError(f"--format {format} writes a file; give it a name that ends in {suffix}, not {out}")
    if not suffix and out.suffix in (".safetensors", ".json", ".bin"):
        raise UsageError(f"--format {format} writes a folder; give it a name without {out.suffix}, not {out}")
    if suffix and out.is_dir():
        raise UsageError(f"{out} is a folder; give --out the name of a file")
    if not suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already; give --out a new folder")


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A place of the same name to write `out` at; what lies there in the end is moved to its own, if all went well."""
    home = next(folder for folder in out.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".ms-vit-export-", dir=home) as folder:
        yield Path(folder) / out.name
        out.parent.mkdir(parents=True, exist_ok=True)
        for made in Path(folder).iterdir():
            made.replace(out.with_name(made.name))


def main(argv: list[str] | None = None) -> int:
    return cli.run(export, argv)


if __name__ == "__main__":
    sys.exit(main())
