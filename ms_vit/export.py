"""ms-vit export: write a network in another library's format, run that and compare."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ms_vit import cli
from ms_vit.errors import UsageError
from ms_vit.progress import say


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
    from ms_vit.device import use_device
    from ms_vit.runs.checkpoints import model_file
    from ms_vit.weights.exports import Source, exporter
    from ms_vit.weights.exports.checked import beside, compare
    from ms_vit.weights.loading import load_model

    out, to = Path(out), exporter(format)
    refuse_place(out, to.suffix, format)
    use_device(device)
    source = Source(*load_model(model_file(Path(checkpoint)), model))
    with beside(out) as part:
        to.write(source, part)
        difference = compare(to, source, part)
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


def main(argv: list[str] | None = None) -> int:
    return cli.run(export, argv)


if __name__ == "__main__":
    sys.exit(main())
