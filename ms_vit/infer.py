"""ms-vit infer: name what is on pictures, and draw it on them."""

import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ms_vit import cli
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say, track


@dataclass
class Inference:
    """Pictures answered, pictures left out because they can't be read, and the folder with what was written."""

    images: int
    skipped: int
    out: Path


def infer(checkpoint: str | Path, images: list[str | Path], *, out: str | Path | None = None, top_k: int = 5,
          batch_size: int = 32, model: str | None = None, device: str | None = None,
          engine: str = "mindspore") -> Inference:
    """Name what is on pictures: probabilities in predictions.jsonl, and each picture with its answer drawn on it.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, or a weight file.
        images: pictures, or folders that are searched for pictures.
        out: folder for the results (default: predictions/ in the run folder, or beside the weight file).
        top_k: classes named for each picture.
        batch_size: pictures at once.
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        device: CPU, GPU or Ascend (default: what MindSpore finds).
        engine: mindspore, or onnx: ONNX Runtime on the CPU, by an export that is made once and kept beside the weights.
    """
    from ms_vit.data.folder import images_in
    from ms_vit.data.images import read_image
    from ms_vit.inference.predictor import Predictor
    from ms_vit.reports.gallery import annotate, contact_sheet
    from ms_vit.runs.checkpoints import run_folder

    if top_k < 1:
        raise UsageError("--top-k must be at least 1")
    files = [(file, root) for root in map(Path, images) for file in (images_in(root) if root.is_dir() else [root])]
    if not files:
        raise DataError(f"no pictures in {', '.join(map(str, images))}")

    predictor = Predictor(checkpoint, model=model, device=device, batch_size=batch_size, engine=engine)
    out = Path(out or run_folder(predictor.weights) / "predictions")
    out.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    faults: list[str] = []
    with (out / "predictions.jsonl").open("w") as lines:
        batches = [files[start:start + batch_size] for start in range(0, len(files), batch_size)]
        for batch in track(batches, "predicting", "batches"):
            pictures = []
            for file, root in batch:
                try:
                    pictures.append((file, root, read_image(file)))
                except DataError as error:
                    faults.append(str(error))
                    say(f"left out: {error}")
                    lines.write(json.dumps({"image": str(file), "error": str(error)}) + "\n")
            answers = predictor([picture for _, _, picture in pictures], top_k)
            for (file, root, picture), predictions in zip(pictures, answers, strict=True):
                lines.write(json.dumps({"image": str(file), "predictions": [asdict(p) for p in predictions]}) + "\n")
                best = predictions[0]
                say(f"{file}: {best.name} {100 * best.probability:.1f} % ({best.index})")
                place = free_place(out / (file.relative_to(root) if root.is_dir() else file.name), drawn)
                place.parent.mkdir(parents=True, exist_ok=True)
                annotate(picture, best.name, best.probability).save(place)
                drawn.append(place)
    if not drawn:
        raise DataError(f"none of {len(files)} files could be read as a picture: {faults[0]}")
    contact_sheet(drawn, out / "gallery.png")
    say(f"{len(drawn)} pictures named, {len(faults)} left out; annotated pictures and predictions.jsonl are in {out}")
    return Inference(len(drawn), len(faults), out)


def free_place(place: Path, taken: list[Path]) -> Path:
    """`place`, as PNG where it isn't JPEG, and numbered where another picture of this run has it."""
    if place.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        place = place.with_name(place.name + ".png")
    names = (place.with_name(f"{place.stem}-{number}{place.suffix}") for number in itertools.count(2))
    while place in taken:
        place = next(names)
    return place


def main(argv: list[str] | None = None) -> int:
    return cli.run(infer, argv)


if __name__ == "__main__":
    sys.exit(main())
