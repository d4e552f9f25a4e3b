"""ms-vit infer: name what is on pictures, and draw it on them."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ms_vit import cli, signals
from ms_vit.errors import DataError
from ms_vit.progress import say, track

if TYPE_CHECKING:       # imported where they are used, so that a wrong option is told at once
    import numpy as np
    from PIL import Image

    from ms_vit.inference.predictor import Predictor
    from ms_vit.reports.gallery import Drawing


@dataclass
class Inference:
    """Pictures answered, pictures left out because they can't be read, and the folder with what was written."""

    images: int
    skipped: int
    out: Path


@signals.caught()        # MindSpore's threads, which begin when it is imported, inherit that
def infer(checkpoint: str | Path, images: list[str | Path], *, out: str | Path | None = None, top_k: int = 5,
          batch_size: int = 32, model: str | None = None, device: str | None = None,
          engine: str = "mindspore") -> Inference:
    """Name what is on pictures: probabilities in predictions.jsonl, and each picture with its answer drawn on it.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, or a weight file.
        images: pictures, or folders that are searched for pictures.
        out: folder for the results (default: predictions/ in the run folder, or in runs/vit for a weight file vit.pth).
        top_k: classes named for each picture.
        batch_size: pictures at once.
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        device: CPU, GPU or Ascend (default: what MindSpore finds).
        engine: mindspore, or onnx: ONNX Runtime on the CPU, by an export that is made once and kept beside the weights.
    """
    from ms_vit.data.folder import images_in
    from ms_vit.data.threads import AHEAD, in_order, thread_pool
    from ms_vit.device import cpu_count
    from ms_vit.inference.predictor import Predictor
    from ms_vit.reports.gallery import Drawing, Places, contact_sheet
    from ms_vit.runs.checkpoints import model_file
    from ms_vit.runs.results import results_folder, room_for

    cli.at_least_one(batch_size=batch_size, top_k=top_k)
    files: list[tuple[Path, str | Path]] = []       # and what each is called in the results
    for given in map(Path, images):
        files += [(file, file.relative_to(given)) for file in images_in(given)] if given.is_dir() else [
            (given, given.name)]
    if not files:
        raise DataError(f"no pictures in {', '.join(map(str, images))}")

    weights = model_file(Path(checkpoint))
    out = Path(out or results_folder(weights) / "predictions")
    failed: list[str] = []
    with room_for(out / "predictions.jsonl"):
        predictor = Predictor(weights, model=model, device=device, batch_size=batch_size, engine=engine)
        with (out / "predictions.jsonl").open("w") as lines, thread_pool() as pool:

            def drawings() -> Iterator["Drawing"]:
                """What is to be drawn, once it is known; lists and tells each picture on the way."""
                places = Places(out / "gallery.png")
                looks = in_order(pool, lambda entry: look(predictor, entry[0]), files, batch_size)
                for start in track(range(0, len(files), batch_size), "predicting", "batches"):
                    batch = list(zip(files[start:start + batch_size], islice(looks, batch_size), strict=True))
                    for (file, _), found in batch:
                        if isinstance(found, DataError):
                            failed.append(str(found))
                            say(f"left out: {found}")
                            lines.write(json.dumps({"image": str(file), "error": str(found)}) + "\n")
                    seen = [(file, name, found) for (file, name), found in batch if not isinstance(found, DataError)]
                    answers = predictor.answer([found.ready for _, _, found in seen], top_k)
                    for (file, name, found), answer in zip(seen, answers, strict=True):
                        told = {"image": str(file), "predictions": [asdict(prediction) for prediction in answer]}
                        lines.write(json.dumps(told) + "\n")
                        best = answer[0]
                        say(f"{file}: {best.name} {100 * best.probability:.1f} % ({best.index})")
                        yield Drawing(places.free(out / name), found.shown, best.name, best.probability)

            drawn = list(in_order(pool, Drawing.save, drawings(), AHEAD * cpu_count()))
    if not drawn:
        raise DataError(f"none of {len(files)} files could be read as a picture: {failed[0]}")
    contact_sheet(drawn, out / "gallery.png")
    say(f"{len(drawn)} pictures named, {len(failed)} left out; annotated pictures and predictions.jsonl are in {out}")
    return Inference(len(drawn), len(failed), out)


@dataclass(frozen=True)
class Look:
    """A picture as the network wants it, [3, H, W] float32, and as it is shown."""

    ready: "np.ndarray"
    shown: "Image.Image"


def look(predictor: "Predictor", file: Path) -> Look | DataError:
    """Reads a picture; what comes back is small, so that of large photos no more are in memory than there are threads.

    A picture that can't be read comes back as what is wrong with it.
    """
    from ms_vit.data.images import read_image
    from ms_vit.reports.gallery import fit

    try:
        picture = read_image(file)
    except DataError as error:
        return error
    return Look(predictor.prepare(picture), fit(picture))


def main(argv: list[str] | None = None) -> int:
    return cli.run(infer, argv)


if __name__ == "__main__":
    sys.exit(main())
