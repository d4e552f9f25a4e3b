"""Inputs that are broken or mean harm, each given to the command line as a user types it.

Whatever the file, the answer is one line and exit code 1 or 2; nothing of it runs, and nothing is written but what a
verb says it writes.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import stat
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import (
    Calls,
    cifar,
    idx_file,
    make_tar,
    make_zip,
    mapping,
    message,
    name_of,
    number,
    storage,
    tensor,
    text,
    varint,
    write_ckpt,
    write_safetensors,
    write_stream,
    write_zip,
)
from PIL import Image
from safetensors.numpy import save_file

from ms_vit import cli
from ms_vit.data.images import read_image
from ms_vit.data.labels import META, Labels, devkit_labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.data.sets import manifest
from ms_vit.data.sets.archives import unpack as unpack_archive
from ms_vit.data.sets.cards import CARDS, Card
from ms_vit.data.sets.sources.cifar_pickles import read as read_cifar
from ms_vit.data.sets.sources.idx import read as read_idx
from ms_vit.errors import UserError, one_line
from ms_vit.models.vit import ViT
from ms_vit.recipe import RECIPES, Recipe
from ms_vit.weights.files import ModelSpec, save_parameters
from ms_vit.weights.loading import read_pretrained

MEMORY = 400_000_000    # bytes that a refusal may take at most; the largest input here has 2 MB
SMALL = {"image_size": 16, "patch_size": 4, "num_classes": 2, "dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40}
SPEC = ModelSpec(config=SMALL, labels=Labels(["a", "b"], ["ant", "bee"]), preprocessing=Preprocessing(image_size=16))
SIX = np.arange(6, dtype="<f4").tobytes()
ONE_TENSOR = mapping({"w": tensor(storage("0", 6), (2, 3), (3, 1))})
HACK = "open('../hacked', 'w')"     # what code in a file would do if it were run


@dataclass(frozen=True)
class Case:
    """An input: `make` writes it into the folder that it gets and returns the command; `says` is in the answer.

    leaves: what the verb writes all the same, because it tells of the input.
    """

    name: str
    make: Callable[[Path], list[str]]
    says: str = ""
    leaves: tuple[str, ...] = ()


CASES: list[Case] = []
Content = bytes | str | Callable[[Path], Any]


def put(path: Path, content: Content) -> None:
    """Bytes or text into a file, or a function that puts there what it likes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def nothing(path: Path) -> None:
    """The file that isn't there."""


ODDITIES = {"nothing": nothing, "a folder": a_folder, "a pipe": a_pipe, "a device": a_device, "a loop": a_loop}


def family(kind: str, command: Callable[[Path, Content], list[str]], inputs: dict[str, tuple[Content, str]],
           leaves: tuple[str, ...] = ()) -> None:
    """Inputs of one kind that are typed the same way: name -> (content, what is said)."""
    for name, (content, says) in inputs.items():
        CASES.append(Case(f"{kind}: {name}", lambda here, content=content: command(here, content), says, leaves))


def cuts(content: bytes) -> dict[str, tuple[Content, str]]:
    """A whole file, cut at each tenth."""
    return {f"cut at {tenth}0 %": (content[:len(content) * tenth // 10], "") for tenth in range(1, 10)}


def written(write: Callable[[Path], Any]) -> bytes:
    """The bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")     # zipfile warns of what is meant here
        path = Path(folder) / "x"
        found = write(path)
        return (found if isinstance(found, Path) else path).read_bytes()


PNG = written(lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"))


def photos(folder: Path) -> None:
    """A data folder that is in order, with enough images for a batch."""
    for split, count in (("train", 8), ("val", 1)):
        for each in "ab":
            for index in range(count):
                put(folder / split / each / f"{index}.png", PNG)


# ------------------------------------------------------------------------------------------------------------- recipes

def train(here: Path, content: Content) -> list[str]:
    put(here / "my.yaml", content)
    photos(here / "data" / "photos")
    return ["train", "--recipe", "my.yaml", "--run", "runs/x", "--data.name", "photos"]


LAUGHS = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True))
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join(['*' + old] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True))

YAMLS: dict[str, tuple[Content, str]] = {
    "empty": ("", 'must hold "key: value" lines'),
    "a list": ("- a\n- b\n", 'must hold "key: value" lines'),
    "a word": ("hello", 'must hold "key: value" lines'),
    "two documents": ("train: {epochs: 1}\n---\ntrain: {epochs: 2}\n", "no valid YAML"),
    "not closed": ("train: {epochs: 1\nmodel: [", "no valid YAML"),
    "tabs": ("train:\n\tepochs: 1\n", "no valid YAML"),
    "a call": (f'name: !!python/object/apply:eval ["{HACK}"]\n', "no valid YAML"),
    "a new object": ('name: !!python/object/new:os.system ["touch ../hacked"]\n', "no valid YAML"),
    "a module": ("name: !!python/module:antigravity\n", "no valid YAML"),
    "a name": ("name: !!python/name:os.system\n", "no valid YAML"),
    "an unknown tag": ("name: !Ref x\n", "no valid YAML"),
    "a tag that lies": ("name: !!int hello\n", "no valid YAML"),
    "a date that lies": ("name: 2020-99-99\n", "no valid YAML"),
    "a timestamp that lies": ("name: !!timestamp x\n", "no valid YAML"),
    "a bool that lies": ("name: !!bool x\n", "no valid YAML"),
    "a billion laughs": (LAUGHS + "name: *i\n", "no valid YAML"),
    "laughs for a section": (LAUGHS + "train: *i\ntitle: *i\n", "no valid YAML"),
    "a billion merges": (MERGES, "no valid YAML"),
    "itself": ("name: &a [*a]\n", "no valid YAML"),
    "deep lists": ("name: " + "[" * 100_000, "no valid YAML"),
    "deep mappings": ("{a: " * 50_000, "no valid YAML"),
    "deep indents": ("".join(f"{' ' * depth}a:\n" for depth in range(1200)), "no valid YAML"),
    "an endless number": ("name: " + "9" * 100_000, "no valid YAML"),
    "a list for a key": ("? [a, b]\n: 1\n", "no valid YAML"),
    "a key twice": ("name: a\nname: b\n", "no valid YAML"),
    "a number for a key": ("1: 2\n", 'unknown key "1"'),
    "UTF-16": ("name: ü\n".encode("utf-16"), "no valid YAML"),
    "Latin-1": ("name: ü\n".encode("latin1"), "no valid YAML"),
    "zeros": (bytes(1000), "no valid YAML"),
    "a control character": (b"name: \x1b[2J\n", "no valid YAML"),
    "a control character in a key": ('"\\e[2J\\nms-vit: all is well": 1\n', "unknown key"),
    "a zip": (b"PK\x03\x04" + bytes(30), "no valid YAML"),
    "2 MB": ("# x\n" * 500_000, "too large"),
    **{name: (oddity, "can't read" if name in ("nothing", "a loop") else "is no file")
       for name, oddity in ODDITIES.items()},
}
family("recipe", train, YAMLS)
family("recipe", train, {
    text.strip(): (text, says) for text, says in {
        "optimiser: {lr: 1}": "did you mean",
        "train: {epochs: }": '"train.epochs" in my.yaml has no value',
        "train:": "is a section",
        "optimizer: {betas: null}": '"optimizer.betas" in my.yaml has no value',
        "train: [1]": "is a section",
        "train: {epochs: many}": "expected int",
        "train: {epochs: 1.5}": "expected int",
        "train: {epochs: .nan}": "expected int",
        "train: {epochs: -1}": "at least 1",
        "train: {epochs: 1000000000000}": "train.epochs",
        "train: {batch_size: 100000000000000000000}": "train.batch_size",
        "train: {seed: -1}": "train.seed",
        "train: {seed: 1000000000000000000000000}": "train.seed",
        "train: {ema: .nan}": "train.ema",
        "optimizer: {lr: .nan}": "optimizer.lr",
        "optimizer: {lr: .inf}": "optimizer.lr",
        "optimizer: {lr: -1.0}": "optimizer.lr",
        "optimizer: {betas: [0.9]}": "optimizer.betas",
        "optimizer: {betas: [2.0, 0.9]}": "optimizer.betas",
        "optimizer: {eps: .nan}": "optimizer.eps",
        "optimizer: {weight_decay: .inf}": "optimizer.weight_decay",
        "optimizer: {clip_norm: .nan}": "optimizer.clip_norm",
        "schedule: {warmup_epochs: .nan}": "schedule.warmup_epochs",
        "schedule: {min_lr: -.inf}": "schedule.min_lr",
        "loss: {label_smoothing: .nan}": "loss.label_smoothing",
        "model: {drop_path: .nan}": "model.drop_path",
        "model: {name: vit_tiny_patch16_0}": "image_size",
        "model: {name: vit_tiny_patch16_99999999999}": "image_size",
        "model: {image_size: 0}": "image_size",
        "model: {image_size: -16}": "image_size",
        "model: {image_size: 1000000}": "image_size",
        "model: {patch_size: 0}": "patch_size",
        "model: {patch_size: 1}": "patches",
        "model: {dim: 0}": "dim",
        "model: {dim: 1000000000}": "dim",
        "model: {depth: 1000000000}": "depth",
        "model: {depth: 0}": "depth",
        "model: {num_heads: 0}": "num_heads",
        "model: {num_heads: 7}": "heads",
        "model: {mlp_dim: 1000000000000}": "mlp_dim",
        "model: {num_classes: 1000000000000}": "num_classes",
        "model: {num_classes: -2}": "num_classes",
        "model: {stem: [0, 0, 0, 0]}": "stem",
        "model: {stem: [8]}": "stem",
        "model: {weights: no.safetensors}": "no.safetensors",
        "augment: {crop_pct: .nan}": "crop_pct",
        "augment: {crop_pct: 1.0e-9}": "crop_pct",
        "augment: {mean: [.nan, 0, 0]}": "augment.mean",
        "augment: {std: [0, 0, 0]}": "augment.std",
        "augment: {train: []}": "augment.train",
        "augment: {eval: []}": "augment.eval",
        'augment: {train: ["__import__(\'os\').system(\'touch ../hacked\')"]}': "is no call",
        'augment: {train: ["eval(\'1\')"]}': 'no operation "eval"',
        'augment: {train: ["Resize(99999999999)"]}': "Resize",
        'augment: {train: ["Resize(9 ** 9 ** 9)"]}': "Resize",
        'augment: {train: ["Resize(*[1])"]}': "Resize",
        'augment: {train: ["Decode(", "x"]}': "is no call",
    }.items()})


# --------------------------------------------------------------------------------------------------------------- cards

CARD = {"name": "mine", "title": "t", "format": "image-archive", "licence": "none",
        "files": [{"url": "https://example.invalid/x.zip"}], "classes": ["a", "b"]}


def card(**changes: Any) -> str:
    return json.dumps(CARD | changes)       # JSON is YAML


def download(here: Path, content: Content) -> list[str]:
    put(here / "my.yaml", content)
    (here / "data").mkdir()
    return ["download", "my.yaml", "--root", "data", "--source", "x.zip"]


family("card", download, YAMLS)
family("card", download, {
    "a name that climbs": (card(name="../mine"), '"name"'),
    "an absolute name": (card(name="/tmp/mine"), '"name"'),
    "a hidden name": (card(name=".mine"), '"name"'),
    "an empty name": (card(name=""), '"name"'),
    "a name with a line end": (card(name="mine\n"), '"name"'),
    "a name of 10,000 letters": (card(name="x" * 10_000), '"name"'),
    "a class that climbs": (card(classes=["../x"]), '"classes"'),
    "a class with a line end": (card(classes=["a\nb"]), '"classes"'),
    "a class of 1,000 letters": (card(classes=["a" * 1000]), '"classes"'),
    "a class twice": (card(classes=["a", "a"]), '"classes"'),
    "classes of another type": (card(classes=3), "classes"),
    "an unknown format": (card(format="os"), "format"),
    "a file's address": (card(files=[{"url": "file:///etc/passwd"}]), '"url"'),
    "an address without a file": (card(files=[{"url": "https://example.invalid/"}]), '"url"'),
    "an address that climbs": (card(files=[{"url": "https://example.invalid/%2e%2e"}]), '"url"'),
    "an address that hides a slash": (card(files=[{"url": "https://example.invalid/..%2F..%2Fx"}]), "x"),
    "a broken address": (card(files=[{"url": "https://[::1"}]), '"url"'),
    "a hash that is none": (card(files=[{"url": "https://example.invalid/x", "sha256": "0"}]), '"sha256"'),
    "a size below 0": (card(files=[{"url": "https://example.invalid/x", "bytes": -1}]), '"bytes"'),
    "an unknown key of a file": (card(files=[{"url": "https://example.invalid/x", "run": "x"}]), "run"),
    "files that are none": (card(files=[1]), "files"),
    "no mean": (card(mean=None), '"mean" in my.yaml has no value'),
    "no address": (card(files=[{"url": None}]), '"url" in files of my.yaml has no value'),
    "a std of 0": (card(std=[0, 1, 1]), '"std"'),
    "a std that is no number": (json.dumps(CARD)[:-1] + ", std: [.nan, 1.0, 1.0]}", '"std"'),
    "a mean that is no number": (json.dumps(CARD)[:-1] + ", mean: [.inf, 1.0, 1.0]}", '"mean"'),
    "no licence": (json.dumps({"name": "x", "title": "x", "format": "digits"}), "licence"),
})


def in_data(here: Path, content: Content) -> list[str]:
    """A card within a data folder, which names its classes."""
    argv = train(here, "train: {epochs: 1}")
    put(here / "data" / "photos" / "card.yaml", content)
    return argv


family("card of a data folder", in_data, {name: YAMLS[name] for name in (
    "a call", "a billion laughs", "deep lists", "an endless number", "UTF-16", "zeros")})


# ------------------------------------------------------------------------------------------------------------ archives

def unpack(here: Path, content: Content) -> list[str]:
    argv = download(here, card())
    put(here / "x.zip", content)
    return argv


def tar_with(type: bytes = tarfile.REGTYPE, name: str = "evil", link: str = "../../../canary", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, link, size
    return written(lambda path: make_tar(path, [("train/a/1.jpg", b"1"), (info, b"")], "w"))


def zip_with(name: str, content: bytes = b"", **attributes: Any) -> bytes:
    info = zipfile.ZipInfo("name")
    for key, value in attributes.items():
        setattr(info, key, value)
    info.filename = name
    return written(lambda path: make_zip(path, [("train/a/1.jpg", b"1"), (info, content)]))


def linked(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def name_of_200_mb(path: Path) -> None:
    """A tar.gz whose first member's name takes 200 MB, and the file 200 kB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 200_000_000
    packer = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(info.tobuf(tarfile.GNU_FORMAT)))
        for _ in range(200):
            file.write(packer.compress(bytes(1_000_000)))
        file.write(packer.flush())


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content and len(old) == len(new)
    return content.replace(old, new)


GOOD = [("train/a/1.jpg", b"1" * 400), ("train/b/1.jpg", b"2"), ("val/a/2.jpg", b"3"), ("val/b/2.jpg", b"4")]
GOOD_ZIP = written(lambda path: make_zip(path, GOOD))
GOOD_TAR = written(lambda path: make_tar(path, GOOD))
RAW_TAR = gzip.decompress(GOOD_TAR)
HEADER = zip_with("y" * 20)
family("archive", unpack, {
    "empty": (b"", "no zip, tar or tar.gz"),
    "text": (b"<html>", "no zip, tar or tar.gz"),
    **{name: (oddity, "there is no file") for name, oddity in ODDITIES.items()},
    "an end and no more": (b"PK\x05\x06" + bytes(18), "should hold a folder train/"),
    "a beginning and no more": (b"PK\x03\x04" + bytes(99), "damaged"),
    "gzip and no more": (b"\x1f\x8b" + bytes(99), "damaged"),
    "gzip of text": (gzip.compress(b"hello" * 200), "damaged"),
    "a member that is zipped, climbing": (zip_with("../../evil"), "climbs out"),
    "an absolute path, zipped": (zip_with("/tmp/ms-vit-evil"), "absolute path"),
    "a drive, zipped": (zip_with("C:evil"), "absolute path"),
    "backslashes, zipped": (zip_with("..\\..\\evil"), "character"),
    "a line end, zipped": (zip_with("train/a\nms-vit: all is well"), "character"),
    "an escape, zipped": (zip_with("train/\x1b[2J"), "character"),
    "another line end, zipped": (zip_with("train/a\u2028b.jpg"), "character"),
    "a NUL, zipped": (patched(HEADER, b"y" * 20, b"train/a/b/1.jpg\0.exe"), "character"),
    "a long name, zipped": (zip_with("train/" + "x" * 300), "too long"),
    "a long path, zipped": (zip_with("x/" * 1500 + "y"), "too long"),
    "a deep path, zipped": (zip_with("x/" * 900 + "y"), "too deep"),
    "a name twice, zipped": (written(lambda path: make_zip(path, [("a", b"1"), ("a", b"2")])), "there twice"),
    "a file and a folder, zipped": (written(lambda path: make_zip(path, [("a", b"1"), ("a/b", b"2")])), "a folder"),
    "a link, zipped": (zip_with("train/l", b"../../../canary", external_attr=0o120777 << 16), "a link"),
    "a device, zipped": (zip_with("train/l", external_attr=0o020777 << 16), "a link or a device"),
    "a bomb, zipped": (written(lambda path: make_zip(path, [("train/a/1.jpg", bytes(100_000_000))])), "unpacks to"),
    "a member encrypted": (patched(GOOD_ZIP, b"PK\x01\x02\x14\x03\x14\x00\x00",
                                   b"PK\x01\x02\x14\x03\x14\x00\x01"), "damaged"),
    "a compression that nobody knows": (patched(GOOD_ZIP, b"\x14\x03\x14\x00\x00\x00\x08\x00",
                                                b"\x14\x03\x14\x00\x00\x00\x63\x00"), "damaged"),
    "a size that lies": (patched(GOOD_ZIP, (400).to_bytes(4, "little"), (9).to_bytes(4, "little")), "damaged"),
    "no train": (written(lambda path: make_zip(path, GOOD[2:])), "should hold a folder train/"),
    "train is a file": (written(lambda path: make_zip(path, [("train", b""), *GOOD[2:]])), "should hold a folder"),
    "our manifest is a folder": (written(lambda path: make_zip(path, [*GOOD, ("SHA256SUMS/x", b"")])), "SHA256SUMS"),
    "our card is a folder": (written(lambda path: make_zip(path, [*GOOD, ("card.yaml/x", b"")])), "card.yaml"),
    "a devkit that climbs": (written(lambda path: make_zip(path, [*GOOD, (
        "ILSVRC2012_devkit_t12.tar.gz", written(lambda inner: make_tar(inner, [("../../evil", b"")])))])), "climbs"),
    "a devkit that is a bomb": (written(lambda path: make_zip(path, [*GOOD, (
        "ILSVRC2012_devkit_t12.tar.gz", gzip.compress(bytes(100_000_000)))])), "unpacks to"),
    "a devkit twice": (written(lambda path: make_zip(path, [*GOOD, ("ILSVRC2012_devkit_t12/x", b""), (
        "ILSVRC2012_devkit_t12.tar.gz", written(lambda inner: make_tar(inner, [("x", b"")])))])), "devkit"),
    "climbing": (tar_with(name="../../evil"), "climbs out"),
    "an absolute path": (tar_with(name="/tmp/ms-vit-evil"), "absolute path"),
    "a line end": (tar_with(name="a\nb"), "character"),
    "a name in no encoding": (tar_with(name="train/a/\udcff.jpg"), "character"),
    "a long name": (tar_with(name="x" * 10_000), "too long"),
    "a deep path": (tar_with(name="x/" * 900 + "y"), "too deep"),
    "a symbolic link": (tar_with(tarfile.SYMTYPE), "a link or a device"),
    "a hard link": (tar_with(tarfile.LNKTYPE), "a link or a device"),
    "a device": (tar_with(tarfile.CHRTYPE), "a link or a device"),
    "a pipe inside": (tar_with(tarfile.FIFOTYPE), "a link or a device"),
    "a sparse file": (tar_with(tarfile.GNUTYPE_SPARSE, size=1 << 40), "a link or a device"),
    "a link, then through it": (written(lambda path: make_tar(path, [
        (linked("train", "../../.."), b""), ("train/evil", b"x")])), "a link or a device"),
    "a size of 8 GB": (patched(RAW_TAR, b"00000000620\0", b"77777777777\0"), "damaged"),
    "a name of 200 MB": (name_of_200_mb, "too long"),
    "a bomb": (written(lambda path: make_tar(path, [("train/a/1.jpg", bytes(100_000_000))])), "unpacks to"),
    "a bomb behind the end": (gzip.compress(RAW_TAR + bytes(100_000_000), 1), "unpacks to"),
    "a wrong CRC": (GOOD_TAR[:-8] + bytes(4) + GOOD_TAR[-4:], "damaged"),
    **{f"zip {name}": case for name, case in cuts(GOOD_ZIP).items()},
    **{f"tar.gz {name}": case for name, case in cuts(GOOD_TAR).items()},
})


# -------------------------------------------------------------------------------------- MNIST's arrays, CIFAR's pickles

IDX_CARD = card(format="idx", files=[{"url": f"https://example.invalid/{split}-{what}.gz"}
                                     for split in ("train", "test") for what in ("images", "labels")])


def idx(here: Path, content: Content) -> list[str]:
    """A data set of idx files, the training images of which are `content`."""
    argv = download(here, IDX_CARD)
    (here / "raw").mkdir()
    for split in ("train", "test"):
        idx_file(here / "raw" / f"{split}-images.gz", np.zeros((3, 2, 2), np.uint8))
        idx_file(here / "raw" / f"{split}-labels.gz", np.zeros(3, np.uint8))
    (here / "raw" / "train-images.gz").unlink()
    put(here / "raw" / "train-images.gz", content)
    return [*argv[:-1], "raw"]


GOOD_IDX = written(lambda path: idx_file(path, np.arange(12, dtype=np.uint8).reshape(3, 2, 2)))
family("idx", idx, {
    "empty": (b"", "begins with nothing"),
    "no gzip": (gzip.decompress(GOOD_IDX), "damaged"),
    "gzip of nothing": (gzip.compress(b""), "begins with nothing"),
    "another magic": (gzip.compress(b"\0\0\x0d\x03" + bytes(24)), "begins with 00000d03"),
    "two dimensions": (gzip.compress(b"\0\0\x08\x02" + bytes(8)), "begins with 00000802"),
    "no dimensions": (gzip.compress(b"\0\0\x08\x03" + bytes(5)), "cut short in its header"),
    "2^96 pixels": (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "claims"),
    "a bomb of 100 MB": (lambda path: path.write_bytes(idx_bomb()), "claims"),
    "no pixels": (written(lambda path: idx_file(path, np.zeros((3, 0, 2), np.uint8))), "holds no pixels"),
    "more images than labels": (written(lambda path: idx_file(path, np.zeros((4, 2, 2), np.uint8))), "3 labels"),
    "labels in its place": (written(lambda path: idx_file(path, np.zeros(3, np.uint8))), "one idx file of images"),
    "a header that lies": (written(lambda path: idx_file(path, np.zeros((3, 2, 2), np.uint8), (3, 2, 3))), "doesn't"),
    "a wrong CRC": (GOOD_IDX[:-8] + bytes(4) + GOOD_IDX[-4:], "damaged"),
    **cuts(GOOD_IDX),
    **{name: (oddity, "there is no file") for name, oddity in ODDITIES.items()},
})


def idx_bomb() -> bytes:
    """A hundred images of a megabyte each, in 100 kB."""
    packer = zlib.compressobj(9, wbits=31)
    blocks = [packer.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 100, 1000, 1000))]
    blocks += [packer.compress(bytes(1_000_000)) for _ in range(100)]
    return b"".join([*blocks, packer.flush()])


def cifar10(here: Path, content: Content) -> list[str]:
    """CIFAR-10's archive, one batch of which is `content`."""
    put(here / "my.yaml", card(format="cifar-pickles", classes=[
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]))
    (here / "data").mkdir()
    with tempfile.TemporaryDirectory() as folder:
        put(here / "x.tar.gz", cifar(Path(folder), content=content).read_bytes())      # type: ignore[arg-type]
    return ["download", "my.yaml", "--root", "data", "--source", "x.tar.gz"]


def cifar10_names(here: Path, content: Content) -> list[str]:
    """The same; what is hostile are its class names."""
    argv = cifar10(here, b"")
    with tempfile.TemporaryDirectory() as folder:
        put(here / "x.tar.gz", cifar(Path(folder), "batches.meta", content).read_bytes())   # type: ignore[arg-type]
    return argv


def laughs(levels: int = 9) -> bytes:
    """Pickle: lists of ten times the list before; two hundred bytes that hold a billion entries."""
    deep = b"](]U\x03lola"
    for level in range(levels):
        deep += b"q" + bytes([level]) + b"](" + (b"h" + bytes([level])) * 10 + b"e"
    return deep + b"e"


family("cifar", cifar10, {
    "empty": (b"", "damaged"),
    "text": (b"hello", "damaged"),
    "a list": (b"\x80\x02].", "holds no dictionary"),
    "no array": (b"\x80\x02}.", "holds no array"),
    "an array of objects": (pickle.dumps({"data": np.array([None], object)}, 2), "is refused"),
    "floats": (pickle.dumps({"data": np.zeros((2, 3072))}, 2), "is refused"),
    **{f"a call of {function.__module__}.{function.__name__}": (
        pickle.dumps({"data": Calls(function, *arguments)}, 2), "is refused: it asks for")
       for function, *arguments in ((os.system, "touch ../hacked"), (eval, HACK), (exec, HACK),
                                    (open, "../hacked", "w"), (os.mkdir, "../hacked"), (getattr, "x", "upper"),
                                    (compile, "1", "", "eval"))},
    "a module's function": (b"\x80\x02cos\nsystem\n(U\x0ftouch ../hackedtR.", "asks for os.system"),
    "an instance": (b"(ios\nsystem\n.", "damaged"),
    "an extension": (b"\x80\x02\x82\x01.", "damaged"),
    "a memo of 2^31": (b"\x80\x02}r\xff\xff\xff\x7f.", "holds no array"),
    "a text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "damaged"),
    "a number of 2 GB": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
    "a deep list": (b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b".", "holds no dictionary"),
    "a million lists": (b"\x80\x02(" + b"]" * 1_999_990 + b"t.", "too many objects"),
    "a type that laughs": (b"\x80\x02cnumpy\ndtype\n(" + laughs() + b"tR.", "is refused"),
    "a key that laughs": (b"\x80\x02}(" + laughs() + b"K\x01u.", "is refused"),
})
family("cifar's names", cifar10_names, {
    "none": (b"\x80\x02}.", "names the classes"),
    "another's": (b"\x80\x02}U\x0blabel_names]U\x03../as.", "names the classes"),
    "laughing": (b"\x80\x02}U\x0blabel_names" + laughs() + b"s.", "names the classes"),
    "deep": (b"\x80\x02}U\x0blabel_names" + b"]" * 100_000 + b"a" * 99_999 + b"s.", "names the classes"),
    "an escape": (b"\x80\x02}U\x0blabel_names]U\x04\x1b[2Jas.", "names the classes"),
})


# ------------------------------------------------------------------------------------------------------- weight files

def export(here: Path, content: Content) -> list[str]:
    put(here / "w", content)
    return ["export", "w", "--format", "safetensors", "--out", "out/w.safetensors", "--model", "vit_tiny_patch16_224"]


def safetensors(header: Any, data: bytes = SIX, length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def entry(shape: list[Any] | Any = (6,), offsets: Any = (0, 24), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def npz(member: str = "w.npy", content: bytes | None = None, **header: Any) -> bytes:
    """A zip of one .npy of six numbers, with another header or another content."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (6,)} | header)
    return written(lambda path: make_zip(path, [(member, buffer.getvalue() + SIX if content is None else content)]))


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def torch_call(name: str, *arguments: bytes) -> bytes:
    return name_of(name) + b"(" + b"".join(arguments) + b"tR"


def terabyte(path: Path) -> None:
    """A file as large as it says, which takes no room on the disk."""
    size = 1 << 40
    header = safetensors({"w": entry([size // 4], [0, size])}, b"")
    sparse(header, len(header) + size)(path)


def sparse(header: bytes, size: int) -> Callable[[Path], None]:
    """A file that claims and seems to have a size, and takes no room on the disk."""
    def make(path: Path) -> None:
        path.write_bytes(header)
        os.truncate(path, size)
    return make


FILES = {
    "safetensors": written(lambda path: write_safetensors(path, {"a": ("F32", [2, 3], SIX), "b": ("I8", [2], b"ab")})),
    "npz": npz(),
    "ckpt": written(lambda path: write_ckpt(path, [("a", "Float32", [2, 3], SIX)])),
    "pth": written(lambda path: write_zip(path, ONE_TENSOR, {"0": SIX})),
    "old pth": written(lambda path: write_stream(path, ONE_TENSOR, {"0": SIX})),
}
for kind, content in FILES.items():
    family(kind, export, cuts(content))
family("weights", export, {
    "empty": (b"", "is empty"),
    "text": ("hello", "is no safetensors"),
    "a web page": ("<!DOCTYPE html>", "is a web page"),
    "zeros": (bytes(10_000), "is no safetensors"),
    "a pickle": (pickle.dumps({"w": 1}), "not one of torch.save"),
    "a pickle that calls": (pickle.dumps(Calls(os.system, "touch ../hacked")), "not one of torch.save"),
    **{name: (oddity, "none of" if name == "a folder" else "is not there") for name, oddity in ODDITIES.items()
       if name != "a folder"},
})
family("safetensors", export, {
    "a header of 2^60": (safetensors({}, length=1 << 60), ""),
    "a header of 2 GB": (safetensors({}, length=1 << 31), "header claims"),
    "a header longer than the file": (safetensors({"w": entry()}, length=5000), "cut short"),
    "no header": (safetensors(b""), ""),
    "a list for a header": (safetensors(b"[]"), ""),
    "a header of no JSON": (safetensors(b"{w}"), "damaged"),
    "a header in no encoding": (safetensors(b'{"\xff": 1}'), "damaged"),
    "a deep header": (safetensors(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "damaged"),
    "a deep header of objects": (safetensors(b'{"w":' * 100_000 + b"1" + b"}" * 100_000), "damaged"),
    "overlapping tensors": (safetensors({"a": entry(), "b": entry()}), "damaged"),
    "a hole": (safetensors({"a": entry([3], [0, 12]), "b": entry([3], [24, 36])}, bytes(36)), "damaged"),
    "offsets beyond the file": (safetensors({"w": entry([600], [0, 2400])}), "damaged"),
    "offsets of 2^60": (safetensors({"w": entry([1 << 58], [0, 1 << 60])}), "damaged"),
    "offsets backwards": (safetensors({"w": entry([6], [24, 0])}), "damaged"),
    "offsets below 0": (safetensors({"w": entry([6], [-24, 0])}), "damaged"),
    "a shape that isn't the size": (safetensors({"w": entry([7])}), "damaged"),
    "a shape below 0": (safetensors({"w": entry([-6])}), "damaged"),
    "a shape that overflows": (safetensors({"w": entry([1 << 32, 1 << 32])}), "damaged"),
    "a shape of fractions": (safetensors({"w": entry([6.0])}), "damaged"),
    "a shape of no numbers": (safetensors({"w": entry([0, 1 << 62], [0, 0])}, b""), ""),
    "an unknown type": (safetensors({"w": entry(dtype="F7")}), "damaged"),
    "a type that is none": (safetensors({"w": entry(dtype=[1])}), "damaged"),
    "a type that we don't know": (safetensors({"w": entry([24], dtype="F8_E5M2")}), "not supported"),
    "a tensor without a type": (safetensors({"w": {"shape": [6]}}), "damaged"),
    "a tensor that is a number": (safetensors({"w": 1}), "damaged"),
    "a name with an escape": (safetensors({"\x1b[2J": entry()}), "holds no ViT"),
    "a name with a line end": (safetensors({"\nms-vit: all is well": entry()}), "holds no ViT"),
    "a name of 100,000 letters": (safetensors({"w" * 100_000: entry()}), "holds no ViT"),
    "a tensor twice": (safetensors(b'{"w":%b,"w":%b}' % ((json.dumps(entry()).encode(),) * 2)), ""),
    "metadata of numbers": (safetensors({"__metadata__": {"ms_vit": 1}, "w": entry()}), "damaged"),
    "a terabyte of nothing": (terabyte, "more memory"),
    "no tensors": (safetensors({}, b""), "holds no tensors"),
})
family("npz", export, {
    "an array of objects": (written(lambda path: np.savez(path.open("wb"), w=np.array([{}], object))), "is refused"),
    "an object that calls": (written(lambda path: np.savez(
        path.open("wb"), w=np.array([Calls(os.system, "touch ../hacked")], object))), "is refused"),
    "an object under a number's name": (npz(descr="|O"), "is refused"),
    "complex numbers": (npz(descr="<c8", shape=(3,)), "is refused"),
    "long doubles": (npz(descr="<f16", shape=(1,), content=None) if np.dtype("f16").itemsize == 16 else b"", ""),
    "dates": (npz(descr="<M8[s]", shape=(3,)), "is refused"),
    "records": (npz(descr=[("a", "<f4")]), "is refused"),
    "a header that calls": (npz(content=npy_header(f"{{'descr': {HACK}, 'shape': (6,), 'fortran_order': 0}}") + SIX),
                            "no header of NumPy's"),
    "a deep header": (npz(content=npy_header("(" * 9000) + SIX), "damaged"),
    "a header of 4 GB": (npz(content=b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "no header of NumPy's"),
    "another version": (npz(content=b"\x93NUMPY\x09\x00"), "no header of NumPy's"),
    "a shape of 2^60": (npz(shape=(1 << 60,)), "impossible shape"),
    "a shape below 0": (npz(shape=(-6,)), "impossible shape"),
    "a shape that isn't the size": (npz(shape=(7,)), "another size"),
    "a shape of 40 dimensions": (npz(shape=(1,) * 40), "impossible shape"),
    "a member without content": (npz(content=b""), "no header of NumPy's"),
    "a member that climbs": (npz("../../evil.npy"), "holds no ViT"),
    "a bomb": (written(lambda path: np.savez_compressed(path.open("wb"), w=np.zeros(90_000_000, np.uint8))),
               "unpacks to more"),
    "a name twice": (written(lambda path: make_zip(path, [("w.npy", b""), ("w.npy", b"")])), "a member twice"),
    "nothing of ours": (written(lambda path: make_zip(path, [("x", b"")])), "zip without weights"),
})
family("ckpt", export, {
    "a line end": ("\n", "no MindSpore checkpoint"),
    "a message of 2^60": (b"\n" + varint(1 << 60) + b"x", "no MindSpore checkpoint"),
    "a number without end": (b"\n" + b"\xff" * 30, "no MindSpore checkpoint"),
    "a group": (message(1, b"\x0b\x0c"), "no MindSpore checkpoint"),
    "a tag in no encoding": (message(1, message(1, b"\xff\xfe") + message(2, message(2, b"Int8"))), "damaged"),
    "a tag of 100,000 letters": (message(1, message(1, b"x" * 100_000)), "no MindSpore checkpoint"),
    "a shape of 2^62": (written(lambda path: write_ckpt(path, [("w", "Float32", [1 << 62], SIX)])), "impossible shape"),
    "a shape that isn't the size": (written(lambda path: write_ckpt(path, [("w", "Float32", [7], SIX)])), "size"),
    "no size, and a shape of 2^47": (written(lambda path: write_ckpt(path, [("w", "Float32", [0, 1 << 47], b"")])), ""),
    "200 dimensions": (written(lambda path: write_ckpt(path, [("w", "Float32", [1] * 200, SIX)])), "no MindSpore"),
    "an unknown type": (written(lambda path: write_ckpt(path, [("w", "Int4", [6], SIX)])), "holds w as Int4"),
    "a type with an escape": (written(lambda path: write_ckpt(path, [("w", "\x1b[2J", [6], SIX)])), "not supported"),
    "a name twice": (written(lambda path: write_ckpt(path, [("w", "Int8", [2], b"ab"), ("v", "Int8", [2], b"ab"),
                                                            ("w", "Int8", [2], b"ab")])), "twice"),
    "200,000 fields": (message(1, b"\x18\x01" * 200_000), "no MindSpore checkpoint"),
    "a wrong CRC": (FILES["ckpt"] + b"crc_num" + bytes(10), "its CRC is another"),
    "text alone": (written(lambda path: write_ckpt(path, [("w", "str", [0], b"x")])), "holds no tensors"),
})
for kind, write in (("pth", write_zip), ("old pth", write_stream)):
    family(kind, export, {name: (written(lambda path, write=write, content=content: write(path, content, {})), says)
                          for name, (content, says) in {
        "a call of os.system": (torch_call("os.system", text("touch ../hacked")), "asks for os.system"),
        "a call of eval": (torch_call("builtins.eval", text(HACK)), "asks for builtins.eval"),
        "a call of exec": (torch_call("builtins.exec", text(HACK)), "asks for builtins.exec"),
        "a call of open": (torch_call("io.open", text("../hacked"), text("w")), "asks for io.open"),
        "a call of PyTorch's hub": (torch_call("torch.hub.load", text("x")), "asks for torch.hub.load"),
        "a storage of storages": (torch_call("torch.storage._load_from_bytes", text("x")), "_load_from_bytes"),
        "a nested name": (torch_call("torch.os.system", text("touch ../hacked")), "asks for torch.os.system"),
        "a name with an escape": (torch_call("os.\x1b[2J"), "asks for os."),
        "a class that is made": (name_of("subprocess.Popen") + b")\x81", "asks for subprocess.Popen"),
        "a persistent name that is none": (number(1) + b"Q", "can't be read"),
        "a storage of 2^60": (mapping({"w": tensor(storage("0", 1 << 60), (6,), (1,))}), ""),
        "a shape that laughs": (torch_call("torch._utils._rebuild_tensor_v2", storage("0", 6), number(0), laughs(),
                                           laughs(), b")", b")"), ""),
        "a key that is a tuple": (b"})\x85\x85" + number(1) + b"s", "asks for a tuple for a key"),
        "nothing": (b"}", "it has nothing"),
        "a list": (b"]", "holds no dictionary"),
        "no stop": (b"}" * 10 + b"(" * 10, "can't be read"),
        "a text of 4 GB": (b"X\xff\xff\xff\xff", "can't be read"),
        "a deep list": (b"]" * 400_000 + b"a" * 399_999, "holds no dictionary"),
        "seven million lists": (b"(" + b"]" * 7_000_000 + b"t", "too many objects"),
        "another protocol": (b"\x8c\x01a", "another protocol"),
    }.items()})
family("pth", export, {name: (written(lambda path, inner=inner, storages=storages: write_zip(path, inner, storages)),
                              says) for name, (inner, storages, says) in {
    "a tensor beyond its storage": (mapping({"w": tensor(storage("0", 6), (7,), (1,))}), {"0": SIX}, "beyond"),
    "a tensor before its storage": (mapping({"w": tensor(storage("0", 6), (2,), (1,), -1)}), {"0": SIX}, "else than"),
    "strides backwards": (mapping({"w": tensor(storage("0", 6), (2,), (-1,), 1)}), {"0": SIX}, "else than a storage"),
    "a tensor of 2^40 copies": (mapping({"w": tensor(storage("0", 6), (1 << 40,), (0,))}), {"0": SIX}, "expand"),
    "a thousand tensors of one": (mapping({f"w{each}": tensor(storage("0", 100_000), (100_000,), (1,))
                                           for each in range(900)}), {"0": bytes(400_000)}, "expand"),
    "a storage that climbs": (mapping({"w": tensor(storage("../../../canary", 6), (6,), (1,))}), {}, "is missing"),
    "a storage too small": (ONE_TENSOR, {"0": SIX[:20]}, "another size"),
}.items()})
family("pth", export, {
    "a bomb": (written(lambda path: write_zip(path, ONE_TENSOR, {"0": bytes(90_000_000)},
                                              compression=zipfile.ZIP_DEFLATED)), "more than its own size"),
    "a program": (written(lambda path: make_zip(path, [("x/data.pkl", b""), ("x/constants.pkl", b"")])), "TorchScript"),
    "two of them": (written(lambda path: make_zip(path, [("x/data.pkl", b""), ("y/data.pkl", b"")])), "damaged"),
    "a pickle of 9 MB": (written(lambda path: write_zip(path, b"0" * 9_000_000, {})), "more than 8,000,000"),
})


# --------------------------------------------------------------------------- what a weight file of ours says of itself

def predict(here: Path, spec: dict[str, Any] | str, arrays: dict[str, np.ndarray] | None = None) -> list[str]:
    """A weight file with `spec` in its metadata, asked for what is on a picture."""
    arrays = {parameter.name: parameter.asnumpy() for parameter in ViT(**SMALL).get_parameters()} | (arrays or {})
    save_file(arrays, here / "w.safetensors", {"ms_vit": spec if isinstance(spec, str) else json.dumps(spec)})
    Image.new("RGB", (8, 8)).save(here / "a.png")
    return ["infer", "w.safetensors", "a.png", "--out", "out"]


def changed(**sections: Any) -> dict[str, Any]:
    """The spec of a small network, with other values; None leaves one out."""
    spec = json.loads(SPEC.to_json())
    for section, values in sections.items():
        spec[section] = {key: value for key, value in (spec[section] | values).items() if value is not None} \
            if isinstance(values, dict) else values
    return spec


SPECS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "damaged metadata"),
    "nothing": ("", "damaged metadata"),
    "a list": ("[]", "damaged metadata"),
    "a number": ("1", "damaged metadata"),
    "deep lists": ("[" * 100_000, "damaged metadata"),
    "deep objects": ('{"config":' * 100_000, "damaged metadata"),
    "an endless number": ('{"config": ' + "9" * 100_000 + "}", "damaged metadata"),
    "sections that are lists": (changed(config=[], labels=[], preprocessing=[]), "damaged metadata"),
    "sections that are text": (changed(config="x", labels="y", preprocessing="z"), "damaged metadata"),
    **{f"config.{key} is {value!r}": (changed(config={key: value}), key) for key, value in {
        "dim": 0, "depth": 10 ** 9, "mlp_dim": 10 ** 12, "num_heads": 0, "patch_size": 0, "image_size": 10 ** 9,
        "num_classes": 10 ** 12, "channels": -1, "registers": 10 ** 9}.items()},
    **{f"config.{key} is {value!r}, too": (changed(config={key: value}), key) for key, value in {
        "dim": "24", "depth": -1, "mlp_dim": 0.5, "num_heads": [3], "patch_size": "x", "image_size": [16],
        "num_classes": True, "channels": {}, "head_dim": 10 ** 9, "epsilon": "x", "gelu": "relu", "pool": "max",
        "stem": [10 ** 9, 10 ** 9], "run": "x"}.items()},
    "config.depth is missing": (changed(config={"depth": None}), "depth"),
    "config.epsilon is no number": (changed(config={"epsilon": float("nan")}), "epsilon"),
    "config of another depth": (changed(config={"depth": 3}), "lacks blocks.2"),
    "config of a network of terabytes": (changed(config={"dim": 8192, "depth": 300, "mlp_dim": 65536}), ""),
    "too few ids": (changed(labels={"ids": ["a"], "names": ["ant"]}), "classes"),
    "too many ids": (changed(labels={"ids": list("abc"), "names": list("abc")}), "classes"),
    "too few names": (changed(labels={"names": ["ant"]}), "classes"),
    "ids that are numbers": (changed(labels={"ids": [1, 2]}), "damaged metadata"),
    "ids that are a text": (changed(labels={"ids": "ab"}), "damaged metadata"),
    "names that are lists": (changed(labels={"names": [["a"], ["b"]]}), "damaged metadata"),
    "an unknown key": (changed(labels={"run": "x"}), "damaged metadata"),
    "transforms that are a text": (changed(preprocessing={"transforms": "Decode()"}), "damaged metadata"),
    "no transforms": (changed(preprocessing={"transforms": []}), "transforms"),
    "transforms that are numbers": (changed(preprocessing={"transforms": [1, 2]}), "damaged metadata"),
    "a mean of text": (changed(preprocessing={"mean": "abc"}), "damaged metadata"),
    "a mean that is no number": (changed(preprocessing={"mean": [float("nan")] * 3}), "mean"),
    "a std of 0": (changed(preprocessing={"std": [0, 0, 0]}), "std"),
    "a std of two": (changed(preprocessing={"std": [1, 1]}), "std"),
    "a crop_pct of 0": (changed(preprocessing={"crop_pct": 0}), "crop_pct"),
    "a crop_pct of nearly 0": (changed(preprocessing={"crop_pct": 1e-9}), "crop_pct"),
    "a crop_pct of text": (changed(preprocessing={"crop_pct": "x"}), "damaged metadata"),
    **{f"transform {text[:40]}": (changed(preprocessing={"transforms": ["Decode()", text, "HWC2CHW()"]}), says)
       for text, says in {
        "__import__('os').system('touch ../hacked')": "is no call", "eval(\"1\")": "no operation",
        "os.system('x')": "is no call",
        "open('../hacked', 'w')": "no operation", "parse('x')": "no operation", "Inter('x')": "no operation",
        "Resize(lambda: 1)": "Resize", "Resize(10 ** 10)": "Resize", "Resize(999999)": "Resize",
        "Pad(999999)": "Pad", "Resize(image_size.__class__)": "Resize", "Resize(Inter.mro)": "Resize",
        "Resize(size=[image_size] * 9)": "Resize", "Resize()": "Resize", "Resize": "is no call",
        "(" * 1000: "is no call", "Resize(" + "-" * 5000 + "1)": "", "Resize(" + "(" * 150 + "1" + ")" * 150 + ")": "",
        "Resize(0)": "Resize", "Resize(\0)": "", "HWC2CHW()": "", "CenterCrop(5)": "5", "Grayscale(1)": "",
        "Decode()": "", "Resize('\\ud800')": ""}.items()},
}
for name, (spec, says) in SPECS.items():
    CASES.append(Case(f"spec: {name}", lambda here, spec=spec: predict(here, spec), says))
for name, arrays, says in (
        ("a head of another width", {"head.weight": np.zeros((2, 25), np.float32)}, "head.weight"),
        ("positions of another width", {"pos_embed": np.zeros((1, 17, 25), np.float32)}, "pos_embed"),
        ("positions of no size", {"pos_embed": np.zeros((1, 1 << 40, 0), np.float32)}, "pos_embed"),
        ("a patch kernel of 700 x 700", {"patch_embed.proj.weight": np.zeros((24, 3, 700, 700), np.int8)}, "patch_emb"),
        ("a tensor too many", {"x": np.zeros(1, np.float32)}, "has too many x"),
        ("weights that are no numbers", {"head.bias": np.full(2, np.nan, np.float32)}, "head.bias"),
        ("weights beyond all numbers", {"norm.weight": np.full(24, np.inf, np.float32)}, "norm.weight")):
    CASES.append(Case(f"ours: {name}", lambda here, arrays=arrays: predict(here, changed(), arrays), says))


# ------------------------------------------------------------------------- other libraries' weights, and their folders

def timm(**changes: Any) -> dict[str, np.ndarray]:
    """The least that is known as timm's."""
    shapes = {"cls_token": (1, 1, 24), "pos_embed": (1, 17, 24), "patch_embed.proj.weight": (24, 3, 4, 4),
              "blocks.0.norm1.weight": (24,), "blocks.0.mlp.fc1.weight": (40, 24), "head.weight": (2, 24)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays |= {name: np.zeros(shape, np.float32) for name, shape in changes.items() if shape is not None}
    return {name: array for name, array in arrays.items() if changes.get(name, 0) is not None}


def foreign(here: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    save_file(arrays, here / "w.safetensors")
    return ["export", "w.safetensors", "--format", "safetensors", "--out", "out/w.safetensors", "--model",
            "vit_tiny_patch16_224"]


for name, arrays, says in (
        ("no positions", timm(pos_embed=None), "lacks pos_embed"),
        ("positions in no square", timm(pos_embed=(1, 12, 24)), "no square grid"),
        ("positions of no size", timm(pos_embed=(1, (1 << 40) + 1, 0)), "image_size"),
        ("positions of two dimensions", timm(pos_embed=(17, 24)), "no ViT has"),
        ("patches of no size", timm(**{"patch_embed.proj.weight": (24, 3, 0, 0)}), "_size must be"),
        ("patches in no square", timm(**{"patch_embed.proj.weight": (24, 3, 4, 2)}), "no squares"),
        ("a block of a billion", timm(**{"blocks.999999999.norm1.weight": (24,)}), "depth"),
        ("a block of a number without end", timm(**{f"blocks.{'9' * 5000}.norm1.weight": (24,)}), "no ViT has"),
        ("a block below 0", timm(**{"blocks.-5.norm1.weight": (24,)}), ""),
        ("a block of no number", timm(**{"blocks.x.norm1.weight": (24,)}), "no ViT has"),
        ("no blocks", {"embedding/kernel": np.zeros((4, 4, 3, 24), np.float32)}, "lacks"),
        ("Google's of another rank", {"embedding/kernel": np.zeros(3, np.float32)}, "no ViT has"),
        ("a million tensors", {str(index): np.zeros(0, np.float32) for index in range(50_000)}, "no ViT that we know"),
        ("tensors of two widths", timm(**{"cls_token": (1, 1, 30)}), "")):
    CASES.append(Case(f"foreign: {name}", lambda here, arrays=arrays: foreign(here, arrays), says))

DEEP_JSON = "[" * 100_000


def hub(here: Path, content: Content) -> list[str]:
    """A folder as timm's hub has it; its config.json is `content`."""
    arrays = {parameter.name: parameter.asnumpy() for parameter in ViT(**SMALL | {"num_heads": 3}).get_parameters()}
    (here / "hub").mkdir()
    save_file(arrays, here / "hub" / "model.safetensors")
    put(here / "hub" / "config.json", content)
    return ["export", "hub", "--format", "safetensors", "--out", "out/w.safetensors", "--model", "vit_tiny_patch16_224"]


family("config.json", hub, {
    "empty": ("", "config.json is damaged"),
    "a list": ("[]", "config.json is damaged"),
    "no JSON": ("{", "config.json is damaged"),
    "deep": (DEEP_JSON, "config.json is damaged"),
    "an endless number": ('{"num_classes": ' + "9" * 100_000 + "}", "config.json is damaged"),
    "UTF-16": ('{"a": "ü"}'.encode("utf-16"), ""),
    "Latin-1": ('{"a": "ü"}'.encode("latin1"), "config.json is damaged"),
    "9 MB": ("{}" + " " * 9_000_000, "more than 8,000,000 bytes"),
    "a pooling of nobody's": ('{"global_pool": "x"}', "pooling by x"),
    "a pooling that is a list": ('{"global_pool": ["avg"]}', "pooling by"),
    "arguments that are a list": ('{"model_args": [1]}', "no ViT has"),
    "an activation of nobody's": ('{"model_args": {"act_layer": "relu"}}', "where a ViT has GELU"),
    "heads that are text": ('{"model_args": {"num_heads": "3"}}', "num_heads"),
    "heads that are none": ('{"model_args": {"num_heads": 0}}', "num_heads"),
    "a billion heads": ('{"model_args": {"num_heads": 1000000000}}', "num_heads"),
    "a crop_pct that is none": ('{"pretrained_cfg": {"crop_pct": NaN}}', "crop_pct"),
    "a crop_pct that is text": ('{"pretrained_cfg": {"crop_pct": "x"}}', "no ViT has"),
    "a mean that is text": ('{"pretrained_cfg": {"mean": "abc"}}', "no ViT has"),
    "a mean without end": ('{"pretrained_cfg": {"mean": [Infinity, 0, 0]}}', "mean"),
    "a std of 0": ('{"pretrained_cfg": {"std": [0, 0, 0]}}', "std"),
    "labels too few": ('{"label_names": ["x"]}', "names 1 classes"),
    "descriptions that are a list": ('{"label_names": ["x", "y"], "label_descriptions": ["a"]}', "no ViT has"),
})


def hugging_face(here: Path, content: Content) -> list[str]:
    """The same of Hugging Face's, whose tensors are few: it is read no further than its config."""
    (here / "hub").mkdir()
    save_file({"vit.embeddings.patch_embeddings.projection.weight": np.zeros((24, 3, 4, 4), np.float32)},
              here / "hub" / "model.safetensors")
    config, pictures = content if isinstance(content, tuple) else (content, "{}")
    put(here / "hub" / "config.json", config)
    put(here / "hub" / "preprocessor_config.json", pictures)
    return ["export", "hub", "--format", "safetensors", "--out", "out/w.safetensors", "--model", "vit_tiny_patch16_224"]


family("Hugging Face's config.json", hugging_face, {
    "an epsilon that is text": ('{"layer_norm_eps": "x"}', "no ViT has"),
    "an epsilon that is a list": ('{"layer_norm_eps": [1]}', "no ViT has"),
    "labels that are a list": ('{"id2label": ["a"]}', "no ViT has"),
    "labels by no number": ('{"id2label": {"x": "a"}}', "no ViT has"),
    "an activation that is a list": ('{"hidden_act": [1]}', "where a ViT has GELU"),
})
family("preprocessor_config.json", lambda here, content: hugging_face(here, ("{}", content)), {  # type: ignore[arg-type]
    "empty": ("", "preprocessor_config.json is damaged"),
    "deep": (DEEP_JSON, "preprocessor_config.json is damaged"),
    "a filter of nobody's": ('{"resample": 99}', "no ViT has"),
    "a filter that is text": ('{"resample": "bicubic"}', "no ViT has"),
    "a size of 0": ('{"do_center_crop": true, "size": 0}', "no ViT has"),
    "a size that is text": ('{"do_center_crop": true, "size": "x"}', "no ViT has"),
    "a mean that is a number": ('{"image_mean": 1, "image_std": 2}', "no ViT has"),
})


def index(here: Path, content: Content) -> list[str]:
    put(here / "model.safetensors.index.json", content)
    save_file({"w": np.zeros(2, np.float32)}, here / "x")
    return ["export", "model.safetensors.index.json", "--format", "safetensors", "--out", "out/w.safetensors"]


family("index", index, {
    "no index": ("{}", "no index of weights"),
    "deep": ('{"weight_map": ' + DEEP_JSON, "no valid JSON"),
    "a list": ('{"weight_map": []}', "no index of weights"),
    "numbers": ('{"weight_map": {"w": 1}}', "no index of weights"),
    "a shard that climbs": ('{"weight_map": {"w": "../canary"}}', "no plain file name"),
    "an absolute shard": ('{"weight_map": {"w": "/etc/passwd"}}', "no plain file name"),
    "a shard with a NUL": ('{"weight_map": {"w": "x\\u0000"}}', "no plain file name"),
    "a shard with a line end": ('{"weight_map": {"w": "x\\nms-vit: fine"}}', "no plain file name"),
    "itself": ('{"weight_map": {"w": "model.safetensors.index.json"}}', "look at what it is"),
    "a shard that isn't there": ('{"weight_map": {"w": "y"}}', "which is missing"),
    "a tensor that isn't there": ('{"weight_map": {"v": "x"}}', "which lacks it"),
    **{f"a shard that is {name}": (lambda path, oddity=oddity: (path.write_text('{"weight_map": {"w": "odd"}}'),
                                                                oddity(path.with_name("odd"))), "which is missing")
       for name, oddity in ODDITIES.items()},
})


# -------------------------------------------------------------------------------------------------------------- images

def infer(here: Path, content: Content) -> list[str]:
    save_parameters(here / "w.safetensors", ViT(**SMALL).parameters_dict(), SPEC)
    put(here / "a.png", content)
    return ["infer", "w.safetensors", "a.png", "--out", "out"]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int = 8, height: int = 8, *, bits: int = 8, colour: int = 2, data: bytes | None = None,
        extra: bytes = b"") -> bytes:
    data = zlib.compress(bytes((3 * width + 1) * height)) if data is None else data
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
            + extra + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def image(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(../hacked) (w) file closefile\nshowpage\n"
IMAGES: dict[str, tuple[Content, str]] = {
    "empty": (b"", "is no image"),
    "text": ("hello", "is no image"),
    "zeros": (bytes(10_000), "is no image"),
    "50,000 x 50,000 pixels": (png(50_000, 50_000, data=b""), "pixels"),
    "2^31 x 2^31 pixels": (png((1 << 31) - 1, (1 << 31) - 1, data=b""), ""),
    "no pixels": (png(0, 0), ""),
    "a bomb in a text": (png(data=b"", extra=chunk(b"zTXt", b"x\0\0" + zlib.compress(
        bytes(100_000_000), 9))), ""),
    "a bomb for a colour profile": (png(data=b"", extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(
        bytes(100_000_000)))), ""),
    "no data": (png(data=b""), "can't be read"),
    "data that is none": (png(data=b"hello"), "can't be read"),
    "half its data": (png(64, 64, data=zlib.compress(bytes(100))), "can't be read"),
    "a colour type of nobody's": (png(colour=7), ""),
    "a wrong CRC": (png().replace(b"IHDR", b"IHDX"), ""),
    "PostScript": (EPS, "is no image"),
    "a BMP that lies": (b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, *[0] * 6), ""),
    "a PPM that lies": (b"P6 100000 100000 255 ", ""),
    "a PPM of no numbers": (b"P6 x y 255 ", ""),
    "a TIFF of itself": (b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1, 8) + struct.pack("<I", 8), ""),
    "a GIF that lies": (b"GIF89a" + b"\xff" * 20, ""),
    **{name: (oddity, "a.png") for name, oddity in ODDITIES.items() if name != "a folder"},
    **{f"{format} {name}": (content, "") for format in ("JPEG", "PNG", "BMP", "TIFF", "PPM")
       for name, (content, _) in list(cuts(image(format)).items())[:9:2]},
}
family("image", infer, IMAGES, ("out/predictions.jsonl",))
for verb, *options in (("infer", "w", "a.png", "--batch-size", "0"), ("infer", "w", "a.png", "--batch-size", "-1"),
                       ("infer", "w", "a.png", "--top-k", "0"), ("eval", "w", "--data", ".", "--batch-size", "0"),
                       ("eval", "w", "--data", ".", "--workers", "-1")):
    CASES.append(Case(f"option: {verb} {' '.join(options[-2:])}",
                      lambda here, argv=(verb, *options): list(argv), "must be at least 1"))
family("image", infer, {"a folder": (a_folder, "no pictures in a.png")})


# ---------------------------------------------------------------------------- what lies beside a data set that is there

def verify(here: Path, content: Content) -> list[str]:
    argv = download(here, card())
    put(here / "data" / "mine" / "SHA256SUMS", content)
    return argv


family("SHA256SUMS", verify, {
    "text": ("hello", "is damaged at line 1"),
    "a hash of another": ("0" * 64 + "  SHA256SUMS", "has changed"),
    "no encoding": (b"\xff\xfe", "is damaged"),
    "a path that climbs": ("0" * 64 + "  ../../canary", "is damaged at line 1"),
    "an absolute path": ("0" * 64 + "  /etc/passwd", "is damaged at line 1"),
    "a device": ("0" * 64 + "  /dev/zero", "is damaged at line 1"),
    **{f"{name} that it lists": (lambda path, oddity=oddity: (
        path.write_text("0" * 64 + "  odd"), oddity(path.with_name("odd"))), "odd ")
       for name, oddity in ODDITIES.items()},
    "an escape": ("0" * 64 + "  \x1b[2J", "is missing"),
    "a name of 100,000 letters": ("0" * 64 + "  " + "x" * 100_000, "too long"),
    **{name: (oddity, "no download of ours") for name, oddity in ODDITIES.items()},
})


def recorded(here: Path, content: Content) -> list[str]:
    argv = unpack(here, GOOD_ZIP)
    put(here / "data" / "mine.sha256", content)
    return argv


family("record", recorded, {
    "text": ("hello", "is damaged at line 1"),
    "no encoding": (b"\xff\xfe", "is damaged"),
    "another hash": ("0" * 64 + "  x.zip", "differs from the x.zip that was good before"),
})


def devkit(here: Path, content: Content) -> list[str]:
    argv = train(here, "train: {epochs: 1}")
    put(here / "data" / "photos" / "ILSVRC2012_devkit_t12" / "data" / "meta.mat", content)
    return argv


def mat(**values: Any) -> bytes:
    return written(lambda path: scipy.io.savemat(path.open("wb"), values, do_compression=True))


family("meta.mat", devkit, {
    "empty": (b"", "is damaged"),
    "text": ("hello", "is damaged"),
    "another's": (mat(x=1), "is damaged"),
    "numbers": (mat(synsets=[1, 2]), "is damaged"),
    "a call": (mat(synsets=np.array([{"WNID": "x"}], object)), "is damaged"),
    "a bomb": (mat(synsets=np.zeros(100_000_000, np.uint8)), "is damaged"),
    "cut": (mat(synsets=np.arange(99.0))[:-20], "is damaged"),
    "50 MB of nothing": (sparse(b"", 60_000_000), "is damaged"),
})


# ---------------------------------------------------------------------------------------------------------- the tests

def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a folder; of folders their mode alone."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            info = os.lstat(os.path.join(root, name))
            dated = (0, 0) if stat.S_ISDIR(info.st_mode) else (info.st_size, info.st_mtime_ns)
            found[os.path.relpath(os.path.join(root, name), folder)] = (info.st_mode, *dated)
    return found


def peak_memory(reset: bool = False) -> int:
    """Bytes of memory that this process has had at once since the last reset; 0 where the system doesn't tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return 0


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A user's folder, within one that nothing may change in."""
    folder = tmp_path / "around" / "here"
    folder.mkdir(parents=True)
    (tmp_path / "around" / "canary").write_text("still here")
    (tmp_path / "around" / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "around" / "tmp"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_input_gets_one_line_and_leaves_nothing(case, here, capfd):
    argv = case.make(here)
    before = state_of(here.parent)
    capfd.readouterr()
    memory = peak_memory(reset=True)
    code = cli.main(argv)
    memory = peak_memory() - memory
    told = capfd.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("ms-vit:")]
    assert code in (1, 2), told
    assert "Traceback" not in told and len(lines) == 1, told
    assert lines[0].isprintable() and len(lines[0]) < 2100 and case.says in lines[0], told
    after = state_of(here.parent)
    for name in case.leaves:
        assert after.pop(f"here/{name}", None), "is not written"
    for folder in {str(parent) for name in case.leaves for parent in Path("here", name).parents[:-1]}:
        after[folder] = before.get(folder, after[folder])
    changes = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changes <= {str(parent) for name in case.leaves for parent in Path("here", name).parents}
    assert memory < MEMORY, f"{memory:,} bytes"


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name, (content, _) in IMAGES.items() if isinstance(content, (bytes, str))])
def test_check_names_a_hostile_image_and_goes_on(name, here, tmp_path_factory, capfd):
    photos(here / "data")
    put(here / "data" / "train" / "a" / "x.png", IMAGES[name][0])
    before = state_of(here.parent)
    memory = peak_memory(reset=True)
    code = cli.main(["check", "data", "--out", str(tmp_path_factory.mktemp("out") / "check.json")])
    memory = peak_memory() - memory
    told = capfd.readouterr().err
    (line,) = [line for line in told.splitlines() if "train/a/x.png: " in line]
    assert code == 1 and "Traceback" not in told and line.isprintable(), told
    assert state_of(here.parent) == before and memory < MEMORY


def test_a_name_of_a_file_cannot_write_to_the_terminal(here, capfd):
    photos(here / "data")
    (here / "data" / "train" / "a").rename(here / "data" / "train" / "\x1b[2J\rms-vit: all is well\nms-vit: yes")
    assert cli.main(["check", "data"]) == 1
    told = capfd.readouterr().err
    assert "\x1b" not in told and "\r" not in told and not any(
        line.startswith("ms-vit:") for line in told.splitlines()), told
    assert "\\x1b[2J\\rms-vit: all is well" in told


# -------------------------------------------------------------------------------------- an export that is kept, damaged

@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A weight file that was used by --engine onnx once, with its export beside it."""
    pytest.importorskip("onnxruntime", reason="the export is for: pip install -e .[onnx]")
    file = tmp_path_factory.mktemp("used") / "w.safetensors"
    save_parameters(file, ViT(**SMALL).parameters_dict(), SPEC)
    Image.new("RGB", (8, 8)).save(file.with_name("a.png"))
    assert cli.main(["infer", str(file), str(file.with_name("a.png")), "--engine", "onnx"]) == 0
    shutil.rmtree(file.with_name("predictions"))
    return file


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name, content", [
    ("empty", b""), ("text", "hello"), ("zeros", bytes(10_000)), ("a pickle", pickle.dumps(Calls(eval, HACK))),
    ("a terabyte", sparse(b"\x08\x08", 1 << 34)), *[(name, oddity) for name, oddity in ODDITIES.items()],
    *[(f"cut at {tenth}0 %", tenth / 10) for tenth in (1, 5, 9)]])
def test_a_kept_export_that_is_damaged_is_made_anew_and_the_answer_is_right(name, content, used, here, capfd):
    shutil.copytree(used.parent, here, dirs_exist_ok=True)
    (kept,) = here.glob("*.onnx")
    good = kept.read_bytes()
    kept.unlink()
    put(kept, good[:int(content * len(good))] if isinstance(content, float) else content)
    before = state_of(here.parent)
    code = cli.main(["infer", "w.safetensors", "a.png", "--engine", "onnx", "--out", "out"])
    told = capfd.readouterr().err
    assert code == 0 and "Traceback" not in told and "ant 50.0 %" in told, told
    assert kept.is_dir() or kept.read_bytes() == good       # what is no file is left alone, and the export used once
    after = state_of(here.parent)
    changes = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changes <= {f"here/{kept.name}", "here/out", *(f"here/out/{each}" for each in (
        "a.png", "gallery.png", "predictions.jsonl"))}


# ------------------------------------------------------------------------------------------------- damage by chance

GOOD_SPEC = written(lambda path: save_file({"w": np.zeros(6, np.float32)}, path, {"ms_vit": SPEC.to_json()}))
BATCH = pickle.dumps({"data": "x" * 30, "labels": [0, 9], "filenames": ["a.png", "b.png"]}, 2)
PARSERS: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "recipe": (Recipe.load, (RECIPES / "imagenet_mini.yaml").read_bytes()),
    "card": (Card.load, (CARDS / "mnist.yaml").read_bytes()),
    "zip": (lambda path: unpack_archive(path, path.with_name("out")), GOOD_ZIP),
    "tar": (lambda path: unpack_archive(path, path.with_name("out")), RAW_TAR),
    "tar.gz": (lambda path: unpack_archive(path, path.with_name("out")), GOOD_TAR),
    "idx": (read_idx, GOOD_IDX),
    "cifar": (lambda path: read_cifar(path, 10), BATCH),
    "manifest": (manifest.parse, ("0" * 64 + "  train/a/1.jpg\n" + "1" * 64 + "  val/b/2.jpg\n").encode()),
    "meta.mat": (lambda path: devkit_labels(path.parents[2]), mat(synsets=np.array(
        [("n01", "tench, fish", 0), ("n02", "crane", 0)],
        [("WNID", object), ("words", object), ("num_children", int)]))),
    "transforms": (lambda path: Preprocessing(image_size=8, transforms=path.read_text("latin1").split("|")).check(),
                   "|".join(SPEC.preprocessing.transforms).encode()),
    "spec": (read_pretrained, GOOD_SPEC),
    "our weights": (read_pretrained, written(
        lambda path: save_parameters(path, ViT(**SMALL | {"dim": 3, "num_heads": 1}).parameters_dict(), SPEC))),
    **{format: (read_image, image(format)) for format in ("JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP")},
    **{kind: (read_pretrained, content) for kind, content in FILES.items()},
}
DAMAGE = st.lists(st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.integers(1, 64)),
    st.tuples(st.just("end"), st.floats(0, 1), st.none()),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("put"), st.floats(0, 1), st.sampled_from([
        b"\xff" * 8, bytes(8), b"\x7f", b"-1", b"999999999", b"[[[[", b"{}", b"&a *a ", b"!!", b"nan", b"../", b"\n"])),
    st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 64))), min_size=1, max_size=4)


def damaged(content: bytes, damage: list[tuple[str, float, Any]]) -> bytes:
    for kind, where, what in damage:
        at = int(where * len(content))
        if kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << what]) + content[at + 1:]
        elif kind == "cut":
            content = content[:at] + content[at + what:]
        elif kind == "end":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + what + content[at:]
        elif kind == "put":
            content = content[:at] + what + content[at + len(what):]
        elif kind == "repeat":
            content = content[:at] + content[at:at + what] * 3 + content[at + what:]
    return content


def answers(kind: str, damage: list[tuple[str, float, Any]]) -> None:
    """A reader makes something of a damaged file, or says in a line what is wrong; it raises nothing else."""
    read, content = PARSERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder, META) if kind == "meta.mat" else Path(folder, "x.yaml")
        put(inner, damaged(content, damage))
        before = set(Path(folder).iterdir())
        try:
            read(inner)
        except UserError as error:
            assert one_line(str(error)).isprintable()
        assert {path.name for path in set(Path(folder).iterdir()) - before} <= {"out"}


@pytest.mark.filterwarnings("ignore")       # Pillow's, of damaged files
@pytest.mark.parametrize("kind", PARSERS)
@settings(max_examples=20, deadline=None)
@given(damage=DAMAGE)
def test_a_damaged_file_is_read_or_told_in_a_line(kind, damage):
    answers(kind, damage)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PARSERS)
@settings(max_examples=5000, deadline=None)
@given(damage=DAMAGE)
def test_files_damaged_in_thousands_of_ways_are_read_or_told_in_a_line(kind, damage):
    answers(kind, damage)
