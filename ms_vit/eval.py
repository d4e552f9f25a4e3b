"""ms-vit eval: score a checkpoint on every image of a split."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_vit import cli, signals
from ms_vit.progress import say


@dataclass
class Evaluation:
    """Top-1 and top-5 accuracy from 0 to 1, the images they are of, and the file that says more.

    top1_flip: by the mean of each image's logits and its mirror's. top1_corrupted: the mean over all corruptions and
    strengths. None where they weren't asked for.
    """

    top1: float
    top5: float
    images: int
    out: Path
    top1_flip: float | None = None
    top1_corrupted: float | None = None


def eval(checkpoint: str | Path, *, data: str | Path, split: str = "val", out: str | Path | None = None,
         batch_size: int = 32, workers: int | None = None, model: str | None = None,
         device: str | None = None, engine: str = "mindspore", precision: str = "float32", flip: bool = False,
         corrupt: str | None = None) -> Evaluation:
    """Score a checkpoint on every image of a split: top-1, top-5, per class, confusion.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, a weight file, or OpenVINO's .xml.
        data: folder that holds the split.
        split: folder below data, with one folder a class. Where there is no such, val is what training held out of
            train/ or of a flat folder of class folders, train the rest, and all every image of a flat folder.
        out: file for the result (default: eval.json in the run folder, or in runs/vit for a weight file vit.pth).
        batch_size: images at once; the result doesn't depend on it.
        workers: threads that read images (default: what the machine has).
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        device: CPU, GPU or Ascend (default: what MindSpore finds).
        engine: mindspore, onnx (ONNX Runtime), openvino, or auto: the fastest that is installed. The two in the middle
            run on the CPU, by an export that is made once and kept beside the weights.
        precision: of matrix products - float32; bfloat16, faster, on a CPU with AVX512-BF16 and an Ascend from the 910B
            on, not by onnx; float16, for GPU and Ascend.
        flip: also score the mean of an image's logits and its mirror's, as top1_flip; top1 stays the plain one.
        corrupt: also score every image under corruptions of ImageNet-C at five strengths each: all, or names with
            commas between them, e.g. fog,motion_blur. A table, and corrupt.png beside the result.
    """
    with signals.caught():      # MindSpore's threads, which begin when it is imported, inherit that
        from ms_vit.data.corruptions import chosen
        from ms_vit.data.layout import find_split
        from ms_vit.data.pipeline import Batches, naming_bad_images, numpy_batches
        from ms_vit.inference.predictor import Predictor, score
        from ms_vit.inference.robustness import CorruptedBatches
        from ms_vit.inference.scores import Scores
        from ms_vit.reports.showing import show_run
        from ms_vit.runs.answers import ANSWERS
        from ms_vit.runs.checkpoints import model_file
        from ms_vit.runs.results import holdout_of, results_folder, room_for, run_of

        cli.at_least_one(batch_size=batch_size, workers=workers)
        corruptions = chosen(corrupt) if corrupt is not None else []
        weights, data = model_file(Path(checkpoint)), Path(data)
        out = Path(out or results_folder(weights) / "eval.json")
        with room_for(out):
            predictor = Predictor(weights, model=model, device=device, batch_size=batch_size, engine=engine,
                                  precision=precision)
            labels = predictor.spec.labels
            part, line = find_split(data, split, holdout_of(weights))
            if line:
                say(line)
            prepared = predictor.spec.preprocessing
            batches = Batches(part, labels, prepared, batch_size=batch_size, training=False, workers=workers)
            corrupted = CorruptedBatches(part, labels, prepared, corruptions, batch_size=batch_size,
                                         workers=workers) if corruptions else None
            averaged = Scores(len(labels)) if flip else None
            with naming_bad_images():
                scores = score(predictor.logits, numpy_batches(batches.epoch()), classes=len(labels),
                               total=batches.steps, averaged=averaged)
                robustness = corrupted.score(predictor.logits) if corrupted else None
            about: dict[str, Any] = {"checkpoint": str(weights), "data": str(data), "split": split}
            about |= scores.as_dict(labels)
            if averaged:
                about["top1_flip"] = averaged.top1
            if robustness:
                from ms_vit.reports.figures import draw_robustness

                about["corrupted"] = robustness.as_dict()
                draw_robustness(robustness, scores.top1, out.with_name("corrupt.png"), results_folder(weights).name)
            scores.answers(part, batches.taken_names, weights).write(out.with_name(ANSWERS), labels)
            out.write_text(json.dumps(about, indent=1))

    say(f"{part}: top-1 {100 * scores.top1:.2f} %, top-5 {100 * scores.top5:.2f} % "
        f"of {scores.images:,} images, by {weights}")
    if averaged:
        say(f"averaged with their mirrors: top-1 {100 * averaged.top1:.2f} %")
    for line in (*robustness.table(), f"drawn: {out.with_name('corrupt.png')}") if robustness else ():
        say(line)
    for mistake in scores.mistakes(labels):
        say(f"  {mistake}")
    say(f"per class and confusion: {out}")
    if out.parent == run_of(weights):
        show_run(out.parent)
    return Evaluation(scores.top1, scores.top5, scores.images, out, averaged.top1 if averaged else None,
                      robustness.mean if robustness else None)


def main(argv: list[str] | None = None) -> int:
    return cli.run(eval, argv)


if __name__ == "__main__":
    sys.exit(main())
