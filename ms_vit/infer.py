"""ms-vit infer: name what is on pictures, and draw it on them."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ms_vit import cli, signals
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say, track

if TYPE_CHECKING:       # imported where they are used, so that a wrong option is told at once
    from concurrent.futures import ThreadPoolExecutor

    from ms_vit.inference.predictor import Prediction, Predictor
    from ms_vit.reports.gallery import Drawing, Places


@dataclass
class Inference:
    """Pictures answered, pictures left out because they can't be read, and the folder with what was written."""

    images: int
    skipped: int
    out: Path


@signals.caught()        # MindSpore's threads, which begin when it is imported, inherit that
def infer(checkpoint: str | Path, images: list[str | Path], *, out: str | Path | None = None, top_k: int = 5,
          batch_size: int = 32, model: str | None = None, device: str | None = None,
          engine: str = "mindspore", precision: str = "float32", attention: bool = False) -> Inference:
    """Name what is on pictures: predictions.jsonl, each picture with its answer drawn on it, a page of them all.

    Args:
        checkpoint: a run folder (its best checkpoint), one of its checkpoints, a weight file, or OpenVINO's .xml.
        images: pictures, or folders that are searched for pictures.
        out: folder for the results (default: predictions/ in the run folder, or in runs/vit for a weight file vit.pth).
        top_k: classes named for each picture.
        batch_size: pictures at once.
        model: name of the network where the checkpoint is another library's, e.g. vit_base_patch16_224.
        device: CPU, GPU or Ascend (default: what MindSpore finds).
        engine: mindspore, onnx (ONNX Runtime), openvino, or auto: the fastest that is installed. The two in the middle
            run on the CPU, by an export that is made once and kept beside the weights.
        precision: of matrix products - float32; bfloat16, faster, on a CPU with AVX512-BF16 and an Ascend from the 910B
            on, not by onnx; float16, for GPU and Ascend.
        attention: also draw what the network looks at in each picture, as NAME-attention.jpg: through all blocks, what
            spoke for its answer, and head by head. It takes several times as long.
    """
    from ms_vit.data.folder import images_in
    from ms_vit.data.threads import AHEAD, in_order, thread_pool
    from ms_vit.device import cpu_count
    from ms_vit.inference.predictor import Predictor
    from ms_vit.reports.gallery import GALLERY, LISTING, Drawing, Places, write_gallery
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
    if attention and weights.suffix == ".xml":
        raise UsageError(f"{weights} doesn't hold the network that --attention looks into; give the weights that it "
                         "was exported from, with --engine openvino")
    out = Path(out or results_folder(weights) / "predictions")
    with room_for(out / "predictions.jsonl"):
        predictor = Predictor(weights, model=model, device=device, engine=engine, precision=precision,
                              batch_size=min(batch_size, len(files)))       # MindSpore would fill a batch up
        looking = Looking(predictor, model) if attention else None
        with (out / "predictions.jsonl").open("w") as lines, thread_pool() as pool:
            listing = Listing(lines)
            answers = answered(predictor, files, top_k, pool)
            drawings = listing.drawings(looking.at(answers) if looking else answers, out,
                                        Places(out / GALLERY, out / LISTING))
            drawn = list(in_order(pool, Drawing.save, drawings, AHEAD * cpu_count()))
    if not drawn:
        raise DataError(f"none of {len(files)} files could be read as a picture: {listing.failed[0]}")
    write_gallery(drawn, predictor.spec.labels.names, out)
    say(f"{len(drawn)} pictures named, {len(listing.failed)} left out; annotated pictures and predictions.jsonl are in "
        f"{out}")
    say(f"look at them in a browser: {out / GALLERY}")
    return Inference(len(drawn), len(listing.failed), out)


@dataclass(frozen=True)
class Look:
    """A picture: its file and what it is called, as the network wants it, [C, H, W] float32, and as it is shown.

    error: what is wrong with one that can't be read.
    """

    file: Path
    name: str | Path
    ready: Any = None       # np.ndarray
    shown: Any = None       # PIL.Image.Image
    error: str = ""
    attention: Any = None   # PIL.Image.Image


def look(predictor: "Predictor", file: Path, name: str | Path) -> Look:
    """Reads a picture; what comes back is small, so that no more large photos are in memory than there are threads."""
    from ms_vit.reports.gallery import fit

    try:
        picture = predictor.read(file)
    except DataError as error:
        return Look(file, name, error=str(error))
    return Look(file, name, predictor.prepare(picture), fit(picture))


def answered(predictor: "Predictor", files: Sequence[tuple[Path, str | Path]], top_k: int,
             pool: "ThreadPoolExecutor") -> Iterator[tuple[Look, "list[Prediction]"]]:
    """Each picture with its answer, batch by batch; those of a batch that can't be read come first, with none."""
    from ms_vit.data.threads import in_order

    size = predictor.batch_size
    looks = in_order(pool, lambda entry: look(predictor, *entry), files, size)
    for start in track(range(0, len(files), size), "predicting", "batches"):
        batch = list(islice(looks, min(size, len(files) - start)))
        yield from ((found, []) for found in batch if found.error)
        seen = [found for found in batch if not found.error]
        yield from zip(seen, predictor.answer([found.ready for found in seen], top_k), strict=True)


class Looking:
    """Draws what a predictor's network looks at, whatever engine answered."""

    def __init__(self, predictor: "Predictor", model: str | None):
        from ms_vit.inference.recorder import Recorder

        self.recorder = Recorder.load(predictor.weights, model)
        self.preprocessing = predictor.spec.preprocessing

    def at(self, answers: "Iterable[tuple[Look, list[Prediction]]]") -> "Iterator[tuple[Look, list[Prediction]]]":
        """The same answers, some at a time, with what is looked at."""
        import numpy as np

        from ms_vit.reports.attention import drawn
        from ms_vit.reports.gallery import fit

        rest = iter(answers)
        while part := list(islice(rest, self.recorder.at_once)):
            yield from (pair for pair in part if pair[0].error)
            seen = [pair for pair in part if not pair[0].error]
            if seen:
                recording = self.recorder(np.stack([found.ready for found, _ in seen]),
                                          [answer[0].index for _, answer in seen])
            for number, (found, answer) in enumerate(seen):
                view = fit(self.preprocessing.view(found.ready))
                yield replace(found, attention=drawn(view, recording, number, answer[0].name)), answer


class Listing:
    """Lists each picture for people, and in predictions.jsonl, `lines`; `failed` says what was wrong with some."""

    def __init__(self, lines: IO[str]):
        self.lines = lines
        self.failed: list[str] = []

    def drawings(self, answers: "Iterable[tuple[Look, list[Prediction]]]", out: Path,
                 places: "Places") -> "Iterator[Drawing]":
        """What is to be drawn of these answers, each once it is told."""
        from ms_vit.reports.gallery import LISTING, Drawing

        for found, answer in answers:
            if found.error:
                self.failed.append(found.error)
                say(f"left out: {found.error}")
                self.write({"image": str(found.file), "error": found.error})
                continue
            self.write({"image": str(found.file), "predictions": [asdict(prediction) for prediction in answer]})
            best = answer[0]
            say(f"{found.file}: {best.name} {100 * best.probability:.1f} % ({best.index})")
            place = places.free(out / found.name)
            thumbnail = places.free(out / LISTING.parent / f"{place.relative_to(out)}.jpg")
            looked_at = place.with_name(f"{place.stem}-attention.jpg")
            yield Drawing(place, thumbnail, found.shown, best.name,
                          [(prediction.index, prediction.probability) for prediction in answer],
                          (places.free(looked_at), found.attention) if found.attention is not None else None)

    def write(self, entry: dict[str, Any]) -> None:
        self.lines.write(json.dumps(entry) + "\n")


def main(argv: list[str] | None = None) -> int:
    return cli.run(infer, argv)


if __name__ == "__main__":
    sys.exit(main())
