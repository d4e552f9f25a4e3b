"""ms-vit download: fetch a data set, verify it and lay it out as train/ val/ infer/."""

import importlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ms_vit import cli
from ms_vit.data.sets import manifest
from ms_vit.data.sets.cards import Card
from ms_vit.data.sets.fetch import FULL, add_to_record, fetch, hold_to_record, is_url, tidy
from ms_vit.errors import DataError, UsageError
from ms_vit.progress import say
from ms_vit.writing import only_one


@dataclass(frozen=True)
class Download:
    """A data set on disk.

    Args:
        card: its card's name.
        folder: where it is, with train/, val/ and, where the data set has them, images to look at in infer/.
        files: how many files were verified.
        new: False where it was there already.
        seconds: what it took.
    """

    card: str
    folder: Path
    files: int
    new: bool
    seconds: float


def download(card: str, root: Path = Path("data"), source: str | None = None) -> Download:
    """Fetch a data set, verify it and lay it out as ROOT/CARD/train, val and infer.

    Once it is there, the same command only verifies it. A transfer that broke off goes on where it stopped.

    Args:
        card: a published data set (digits, mnist, cifar10, imagenet-subset), or the path of your own card (.yaml).
        root: the folder that data sets land in.
        source: in place of the card's address: a file, a folder that holds the card's files (cifar10's may be unpacked
            there), or a URL.
    """
    began = time.monotonic()
    chosen = Card.load(card)
    check_source(chosen, source)
    folder = root / chosen.name
    downloads, work = root / f".{chosen.name}.part", root / f".{chosen.name}.work"
    new = False
    if not folder.exists():  # else nothing needs to be written: the data may be on a disk for reading only
        busy = f"another download of {chosen.name} is writing to {root}; wait for it, or give another --root"
        try:
            with only_one(downloads, busy):
                new = not folder.exists()  # another run may have ended just now
                if new:
                    make(chosen, source, folder, downloads, work)
        finally:
            tidy(downloads)
    if not new:
        verify(folder)
    files = len(manifest.parse(folder / manifest.NAME))
    say(f"{folder}: {chosen.title}; {files:,} files {'written' if new else 'verified'}")
    return Download(chosen.name, folder, files, new, round(time.monotonic() - began, 3))


def check_source(card: Card, source: str | None) -> None:
    """Refuses a --source that can't stand in for what the card fetches."""
    if source and not card.files:
        raise UsageError(f"{card.name} comes with scikit-learn and is not fetched; leave out --source")
    if source and len(card.files) > 1:
        folder = source.endswith("/") if is_url(source) else Path(source).expanduser().is_dir()
        if not folder:
            raise UsageError(f"{card.name} has {len(card.files)} files; --source must be a folder that holds them, "
                             'or its URL ending in "/"')


def make(card: Card, source: str | None, folder: Path, downloads: Path, work: Path) -> None:
    """Fetches, lays out in `work`, and renames that to `folder`: nobody ever sees half a data set."""
    paths = [fetch(file, source, downloads) for file in card.files]
    unvouched = [(file, path) for file, path in zip(card.files, paths, strict=True)
                 if not file.vouched and path.is_file()]      # a folder in a file's place was held to the card
    record = folder.with_name(f"{card.name}.sha256")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        work.mkdir()
        for file, path in unvouched:
            hold_to_record(file, path, record)
        module = importlib.import_module(f"ms_vit.data.sets.sources.{card.format.replace('-', '_')}")
        module.lay_out(paths, work, card)
        (work / "card.yaml").write_text(card.to_yaml(), encoding="utf-8")
        manifest.write(work)
        for file, path in unvouched:
            add_to_record(file, path, record)
        os.rename(work, folder)
    except DataError:
        # Without a published hash the transfer may be what is bad: the next run must not start from it.
        for _, path in unvouched:
            if path.parent == downloads:
                path.unlink()
        raise
    except OSError as error:
        if error.errno in FULL:
            raise DataError(f"the disk is full: {folder.parent} can't take {card.name}; free some space, then run the "
                            "same command again") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for left in downloads.iterdir():
        left.unlink()


def verify(folder: Path) -> None:
    """Raises DataError unless `folder` is a download of ours, unchanged."""
    if not (folder / manifest.NAME).is_file():
        raise DataError(f"{folder} exists and is no download of ours; move it away, or give another --root")
    if differences := manifest.differences(folder):
        raise DataError(f"{folder} is not as it was downloaded: {differences}; delete the folder and run the same "
                        "command again")


def main(argv: list[str] | None = None) -> int:
    return cli.run(download, argv)


if __name__ == "__main__":
    sys.exit(main())
