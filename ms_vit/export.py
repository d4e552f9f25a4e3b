"""ms-vit export: write a network in another library's format, run that and compare."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ms_vit import cli, signals
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say

if TYPE_CHECKING:       # imported where it is used, so that a wrong option is told at once
    from ms_vit.inference.int8 import Int8

PRECISIONS = ("float32", "int8")


@dataclass
class Export:
    """What was written, and the largest difference of its logits, run by `compared_with`, from the network's own.

    int8: what became of its top-1 where it was made int8 after that.
    """

    out: Path
    format: str
    difference: float
    compared_with: str
    int8: "Int8 | None" = None


@signals.caught()        # MindSpore's threads, which begin when it is imported, inherit that
def export(checkpoint: str | Path, *, format: str, out: str | Path, model: str | None = None,
           precision: str = "float32", calibrate: str | Path | None = None, data: str | Path | None = None,
           split: str = "val", max_drop: float = 1.0) -> Export:
    """Write a network for another library, run what was written, and compare its logits with the network's own.

    Labels and preprocessing travel with it. A difference over 1e-4 is a failure, and leaves nothing. All of it runs on
    the CPU: what a card calls float32 may be rounded to more than that.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, or a weight file.
        format: onnx, openvino, mindir or safetensors, which are files; timm or huggingface, which are folders.
        out: the file, ending in .onnx, .xml, .mindir or .safetensors, or the folder.
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        precision: float32, or int8 for openvino; its top-1 is measured before and after, and written beside it.
        calibrate: for int8, a folder of class folders with training pictures, e.g. data/digits/train.
        data: for int8, the folder that holds the split to measure top-1 on (default: the one that calibrate is in).
        split: for int8, which split of data; as in eval.
        max_drop: for int8, the most points of top-1 (of 100) that it may lose; if it loses more, nothing is left.
    """
    from ms_vit.device import use_device
    from ms_vit.runs.checkpoints import model_file
    from ms_vit.weights.exports import Source, exporter
    from ms_vit.weights.exports.checked import answers, beside, compare, probes
    from ms_vit.weights.loading import load_model

    refuse_precision(precision, format, calibrate, data, max_drop)
    out, to = Path(out), exporter(format)
    refuse_place(out, to.suffix, format)
    use_device("CPU")
    weights = model_file(Path(checkpoint))
    source = Source(*load_model(weights, model))
    quantize = None
    if calibrate is not None:
        from ms_vit.data.layout import find_split
        from ms_vit.inference.int8 import Quantizer
        from ms_vit.runs.results import holdout_of

        part, line = find_split(Path(data or Path(calibrate).parent), split, holdout_of(weights))
        if line:
            say(line)
        quantize = Quantizer(Path(calibrate), part, source.spec)
    with beside(out) as path:
        to.write(source, path)
        _, difference = compare(to, path, probes(source.config), answers(source))
        result = Export(out, format, difference, to.runner)
        if quantize:
            result.int8 = quantize(to, path)
            refuse_drop(result.int8, max_drop)
        if format == "openvino":        # in float32, too: an int8 export of this name may have told its top-1 here
            path.with_suffix(".json").write_text(json.dumps(asdict(result) | {"out": out.name}, indent=1))
    say(f"{out}: run by {to.runner}, its logits differ by at most {difference:.1e} from the network's")
    if result.int8:
        say(f"{out}: {result.int8}")
    return result


def refuse_precision(precision: str, format: str, calibrate: str | Path | None, data: str | Path | None,
                     max_drop: float) -> None:
    """Raises UsageError where int8 lacks what it needs, or something that only it has is asked for without it."""
    if precision not in PRECISIONS:
        raise UsageError(f'no precision "{precision}" to export in; there are {", ".join(PRECISIONS)}')
    if precision == "int8" and format != "openvino":
        raise UsageError(f"--precision int8 is for --format openvino, not for {format}")
    if precision == "int8" and calibrate is None:
        raise UsageError("--precision int8 needs --calibrate, a folder of training pictures such as data/digits/train")
    if precision != "int8" and not (calibrate is data is None):
        raise UsageError("--calibrate and --data are for --precision int8; give that, too, or leave them out")
    if not max_drop >= 0:
        raise UsageError(f"--max-drop must be 0 or more points of top-1, not {max_drop}")


def refuse_drop(int8: "Int8", most: float) -> None:
    """Raises DataError where int8 loses more top-1 than that, in points."""
    if int8.drop > most:
        raise DataError(f"{int8}; that is a loss of {int8.drop:.2f} points, more than {most:g}, so nothing is written: "
                        "stay with float32, or allow it by --max-drop")


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
