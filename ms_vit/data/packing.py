"""A split's images -> shards: MindRecord files of a few hundred megabytes, which stores.Shards reads."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ms_vit import limits
from ms_vit.data.inspection import Defect, inner_defect, outer_defect, unreadable_file
from ms_vit.data.stores import PACK, SHARD, ClassFolders, index_of, seal_of
from ms_vit.data.threads import parallel_map
from ms_vit.errors import DataError
from ms_vit.progress import say
from ms_vit.writing import flush, write_whole

BLOCK = 64              # images that are handed to MindRecord at once
# Bytes of a page, of which a shard has a whole number and in one of which each image must lie.
PAGE, LARGEST_PAGE = 1 << 22, 1 << 28
SCHEMA = {"image": {"type": "bytes"}, "label": {"type": "int32"}}


@dataclass(frozen=True)
class Shard:
    """A shard as pack.json has it: its file, bytes of that, stores.seal_of it, and CLASS/NAME by row."""

    file: str
    bytes: int
    seal: str
    images: list[str]


@dataclass
class Planned:
    """What shall be one shard. sizes: of the files, in bytes; state: a hash of names, sizes and times of change."""

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    state: str = ""


def pack_split(store: ClassFolders, out: Path, *, shard_bytes: int, skip: bool) -> tuple[int, int]:
    """Packs a split into `out`, or goes on with it. Returns how many images are in it, and how many were left out.

    shard_bytes: of images in a shard, about. skip: leave out images that can't be read, which are told; else these
    raise DataError, as does a disk that is too small.
    """
    out.mkdir(parents=True, exist_ok=True)
    planned = plan(store, shard_bytes)
    done = [read_done(out, number, each, skip) for number, each in enumerate(planned)]
    missing = [name for each, shard in zip(planned, done, strict=True) if shard is None for name in each.names]
    needed = sum(sum(each.sizes) for each, shard in zip(planned, done, strict=True) if shard is None)
    if needed > (free := shutil.disk_usage(out).free):      # MindRecord tells of it in no line
        raise DataError(f"{store.folder} needs {needed / 1e6:,.1f} MB more, and {out.parent} has {free / 1e6:,.1f}; "
                        "free some space, then run the same command again, or give another --out")
    images = parallel_map(lambda name: read_image(store.folder / name), missing, f"packing {store.folder}", "images")
    classes = store.classes()
    labels = {name: label for label, name in enumerate(classes)}
    for number, each in enumerate(planned):
        if done[number] is None:
            done[number] = write_shard(out, number, each, store.folder, labels, islice(images, len(each.names)), skip)
    shards = [shard for shard in done if shard and shard.images]
    write_whole(out / PACK, json.dumps({"classes": classes, "shards": [asdict(each) for each in shards]}))
    packed = sum(len(shard.images) for shard in shards)
    return packed, sum(len(each.names) for each in planned) - packed


def tidy(out: Path) -> None:
    """Removes what only an interrupted packing needs: receipts, and shards of an earlier plan."""
    shards = {each["file"] for each in json.loads((out / PACK).read_bytes())["shards"]}
    for path in [*out.glob(".*.json"), *out.glob(f"*{SHARD}"), *out.glob(f"*{SHARD}.db")]:
        if path.name.removesuffix(".db") not in shards:
            path.unlink()


def plan(store: ClassFolders, shard_bytes: int) -> list[Planned]:
    """The images in the order of their names, parted so that a shard has some `shard_bytes` of them."""
    planned: list[Planned] = []
    state, size = hashlib.sha256(), 0
    for files in store.images().values():
        for file in files:
            found, name = file.stat(), f"{file.parent.name}/{file.name}"
            if not planned or size + found.st_size > shard_bytes:
                planned.append(Planned())
                state, size = hashlib.sha256(), 0
            size += found.st_size
            state.update(os.fsencode(f"{name}\0{found.st_size} {found.st_mtime_ns}\n"))
            planned[-1].names.append(name)
            planned[-1].sizes.append(found.st_size)
            planned[-1].state = state.hexdigest()
    return planned


def read_image(path: Path) -> bytes | Defect:
    """The bytes of an image, which is decoded to its last pixel for that."""
    if defect := outer_defect(path):
        return defect
    try:
        content = path.read_bytes()
    except OSError as error:
        return unreadable_file(error)
    return inner_defect(content) or content


# --- one shard

def write_shard(out: Path, number: int, planned: Planned, folder: Path, labels: Mapping[str, int],
                images: Iterator[bytes | Defect], skip: bool) -> Shard:
    """A shard and, once it is on the disk, a receipt for it, by which an interrupted packing knows it."""
    from mindspore.mindrecord import FileWriter

    path = out / f"{number:05}{SHARD}"
    page = max(PAGE, 1 << (max(planned.sizes) + 4096).bit_length())
    if page > LARGEST_PAGE:
        raise DataError(f"{folder / planned.names[planned.sizes.index(max(planned.sizes))]} has "
                        f"{max(planned.sizes):,} bytes, more than a shard's page takes; make it smaller")
    writer = FileWriter(str(path), 1, overwrite=True)
    writer.set_header_size(limits.MAX_SHARD_HEADER)     # 16 MB unless told
    writer.set_page_size(page)
    writer.add_schema(SCHEMA, "images as the bytes of their files")
    packed: list[str] = []
    rows: list[dict[str, Any]] = []
    for name, image in zip(planned.names, images, strict=True):
        if isinstance(image, Defect):
            if not skip:
                raise DataError(f"{folder / name} {image.text}; or leave out all such by --bad-images skip")
            say(f"left out: {folder / name} {image.text}")
            continue
        packed.append(name)
        rows.append({"image": image, "label": labels[name.partition("/")[0]]})
        if len(rows) == BLOCK:
            writer.write_raw_data(rows)
            rows = []
    if rows:
        writer.write_raw_data(rows)
    shard = Shard(path.name, 0, "", [])
    if packed:
        writer.commit()
        for file in (path, index_of(path)):
            file.chmod(0o644)       # MindRecord lets its owner read it alone
            flush(file)
        shard = Shard(path.name, path.stat().st_size, seal_of(path), packed)
    write_whole(receipt(out, number), json.dumps({"state": planned.state, "shard": asdict(shard)}))
    return shard


def receipt(out: Path, number: int) -> Path:
    return out / f".{number:05}.json"


def read_done(out: Path, number: int, planned: Planned, skip: bool) -> Shard | None:
    """A shard that is there already and still what is wanted; else None."""
    try:
        found = json.loads(receipt(out, number).read_bytes())
        shard = Shard(**found["shard"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return shard if found["state"] == planned.state and (skip or shard.images == planned.names) else None
