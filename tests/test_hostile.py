"""Inputs that mean harm, one of each kind as a user types it, and every kind of input damaged by chance.

Whatever the file, the answer is one line and exit code 1 or 2; nothing of it runs, and nothing is written but what a
verb says it writes. Each parser's own test has the tables.
"""

import io
import itertools
import json
import os
import pickle
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import packing
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import make_tar, make_zip, put
from PIL import Image

from ms_vit import cli
from ms_vit.data.images import read_image
from ms_vit.data.labels import META, Labels, devkit_labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.data.sets import manifest
from ms_vit.data.sets.archives import unpack
from ms_vit.data.sets.cards import CARDS, Card
from ms_vit.data.sets.sources.cifar_pickles import read as read_cifar
from ms_vit.data.sets.sources.idx import read as read_idx
from ms_vit.errors import UserError, one_line
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.recipe import RECIPES, Recipe
from ms_vit.weights.files import ModelSpec, save_parameters
from ms_vit.weights.loading import read_pretrained

SMALL = {"image_size": 16, "patch_size": 4, "num_classes": 2, "dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40}
SPEC = ModelSpec(config=ViTConfig(**SMALL), labels=Labels(["a", "b"], ["ant", "bee"]),
                 preprocessing=Preprocessing(image_size=16))
TOUCH = packing.Calls(os.system, "touch ../hacked")
ESCAPE = "\x1b[2J\rms-vit: all is well\nms-vit: yes"     # what would clear a terminal and write two lines of its own
CARD = {"name": "mine", "title": "t", "format": "image-archive", "licence": "none", "classes": Card.load(
    "cifar10").class_ids, "files": [{"url": "https://example.invalid/x.zip"}]}
GOOD = [("train/a/1.jpg", b"1" * 400), ("train/b/1.jpg", b"2"), ("val/a/2.jpg", b"3"), ("val/b/2.jpg", b"4")]


def photos(folder: Path, name: str = "a") -> None:
    """A data folder that is in order."""
    for split, each, index in itertools.product(("train", "val"), (name, "b"), range(8)):
        put(folder / split / each / f"{index}.png", packing.png(bytes(72), width=8, height=8))


def recipe(text: str) -> None:
    put(Path("my.yaml"), text)
    photos(Path("data/photos"))


def archive(write: Callable[..., Any], *content: Any, **changes: Any) -> None:
    put(Path("my.yaml"), json.dumps(CARD | changes))
    write(Path("x.zip"), *content)
    Path("data").mkdir()


def pickled(path: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        return put(path, packing.cifar(Path(folder), content=pickle.dumps({"data": TOUCH}, 2)).read_bytes())


def weights(path: Path, spec: ModelSpec | None = SPEC, **changes: int) -> Path:
    """A small network of ours, or, without a spec, of timm's."""
    save_parameters(path, ViT(ViTConfig(**SMALL | changes)).parameters_dict(), spec)
    return path


TRAIN = "train --recipe my.yaml --run runs/x --data.name photos"
FETCH = "download my.yaml --root data --source x.zip"
EXPORT = "export w --format safetensors --out out/w.safetensors --model vit_tiny_patch16_224"
CASES: dict[str, tuple[str, str, Callable[[], Any]]] = {     # name: what is typed, what is told, what is there
    "a recipe that calls": (TRAIN, "no valid YAML", lambda: recipe("name: !!python/object/apply:os.system [x]")),
    "a recipe with an escape": (TRAIN, "unknown key", lambda: recipe(json.dumps({ESCAPE: 1}))),
    "an operation that calls": (TRAIN, "is no call", lambda: recipe(
        json.dumps({"augment": {"eval": ["__import__('os').system('touch ../hacked')"]}}))),
    "a card that climbs": (FETCH, '"name" in my.yaml', lambda: archive(make_zip, GOOD, name="../mine")),
    "a zip that climbs": (FETCH, "climbs out", lambda: archive(make_zip, [*GOOD, ("../../evil", b"x")])),
    "a tar that is a bomb": (FETCH, "unpacks to more", lambda: archive(
        make_tar, [*GOOD, ("train/a/zeros.jpg", bytes(100_000_000))])),
    "a pickle that calls": (FETCH, "asks for posix.system", lambda: archive(pickled, format="cifar-pickles")),
    "weights that call": (EXPORT, "not one of torch.save", lambda: put(Path("w"), pickle.dumps(TOUCH))),
    "weights that are a pipe": (EXPORT, "w is not there", lambda: os.mkfifo("w")),
    "weights of a terabyte": (EXPORT, "more memory", lambda: packing.terabyte(Path("w"))),
    "a name of a tensor that is an escape": (EXPORT, "holds no ViT", lambda: packing.write_safetensors(
        Path("w"), {ESCAPE: ("F32", [1], bytes(4))})),
    "a folder of weights": (EXPORT.replace("w", "hub", 1), "pooling by x", lambda: weights(
        put(Path("hub/config.json"), '{"global_pool": "x"}').with_name("model.safetensors"), None)),
    "an image": ("infer w a.png --out out", "a.png has more than 178,956,970 pixels", lambda: (
        weights(Path("w")), put(Path("a.png"), packing.png(b"", width=50_000, height=50_000)))),
    **{f"an option: {argv}": (argv, "must be at least 1", lambda: None) for argv in (
        "infer w a.png --batch-size 0", "infer w a.png --top-k 0", "eval w --data . --batch-size 0",
        "eval w --data . --workers -1")},
}


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a folder; of folders their mode alone."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        dated = (0, 0) if stat.S_ISDIR(info.st_mode) else (info.st_size, info.st_mtime_ns)
        found[str(path.relative_to(folder))] = (info.st_mode, *dated)
    return found


@pytest.fixture
def around(tmp_path, monkeypatch) -> Path:
    """The folder around a user's own, in which nothing may change."""
    (tmp_path / "around/here").mkdir(parents=True)
    (tmp_path / "around/tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "around/tmp"))
    monkeypatch.chdir(tmp_path / "around/here")
    return tmp_path / "around"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_input_gets_one_line_and_leaves_nothing(name, around, capfd):
    command, says, make = CASES[name]
    make()
    before = state_of(around)
    capfd.readouterr()
    memory = packing.peak_memory(reset=True)
    code = cli.main(command.split())
    memory = packing.peak_memory() - memory
    told = capfd.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("ms-vit:")]
    assert code in (1, 2) and "Traceback" not in told and len(lines) == 1, told
    assert lines[0].isprintable() and says in lines[0], told
    made = state_of(around).keys() - before.keys()
    assert made <= ({"here/out", "here/out/predictions.jsonl"} if name == "an image" else {"here/runs", "here/runs/x"})
    assert before.items() <= state_of(around).items() and memory < packing.MEMORY, f"{memory:,} bytes"


def test_a_name_of_a_file_cannot_write_to_the_terminal(around, capfd):
    photos(Path("data"), ESCAPE)
    assert cli.main(["check", "data"]) == 1
    told = capfd.readouterr().err
    assert "\x1b" not in told and "\r" not in told and not any(
        line.startswith("ms-vit:") for line in told.splitlines()), told
    assert "\\x1b[2J\\rms-vit: all is well" in told


@pytest.mark.parametrize("oddity", ["a folder", "a pipe"])
def test_whatever_lies_where_an_export_is_kept_the_answer_is_right(oddity, around, capfd):
    pytest.importorskip("onnxruntime", reason="the export is for: pip install -e .[onnx]")
    weights(Path("w.safetensors"))
    put(Path("a.png"), packing.png(bytes(72), width=8, height=8))
    command = ["infer", "w.safetensors", "a.png", "--engine", "onnx", "--out", "out"]
    assert cli.main(command) == 0
    (kept,) = Path().glob("*.onnx")
    kept.unlink()
    packing.ODDITIES[oddity](kept)
    capfd.readouterr()
    assert cli.main(command) == 0 and "ant 50.0 %" in capfd.readouterr().err
    assert kept.is_dir() if oddity == "a folder" else kept.is_file()


# ------------------------------------------------------------------------------------------------- damage by chance

def image(format: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


SIX = np.arange(6, dtype="<f4").tobytes()
ONE_TENSOR = packing.mapping({"w": packing.tensor(packing.storage("0", 6), (2, 3), (3, 1))})
SYNSETS = np.array([("n01", "tench, fish", 0), ("n02", "crane", 0)],
                   [("WNID", object), ("words", object), ("num_children", int)])
PARSERS: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "recipe": (Recipe.load, (RECIPES / "imagenet_mini.yaml").read_bytes()),
    "card": (Card.load, (CARDS / "mnist.yaml").read_bytes()),
    **{kind: (lambda path: unpack(path, path.with_name("out")), packing.written(make)) for kind, make in {
        "zip": lambda path: make_zip(path, GOOD), "tar": lambda path: make_tar(path, GOOD, "w"),
        "tar.gz": lambda path: make_tar(path, GOOD)}.items()},
    "idx": (read_idx, packing.written(lambda path: packing.idx_file(path, np.ones((3, 2, 2), np.uint8)))),
    "cifar": (lambda path: read_cifar(path, 10), pickle.dumps({"data": "x" * 30, "labels": [0, 9]}, 2)),
    "manifest": (manifest.parse, ("0" * 64 + "  train/a/1.jpg\n" + "1" * 64 + "  val/b/2.jpg\n").encode()),
    "meta.mat": (lambda path: devkit_labels(path.parents[2]), packing.written(
        lambda path: scipy.io.savemat(path.open("wb"), {"synsets": SYNSETS}, do_compression=True))),
    "transforms": (lambda path: Preprocessing(image_size=8, transforms=path.read_text("latin1").split("|")).check(),
                   "|".join(SPEC.preprocessing.transforms).encode()),
    "our weights": (read_pretrained, packing.written(lambda path: weights(path, dim=3, num_heads=1))),
    **{format: (read_image, image(format)) for format in ("JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP")},
    **{kind: (read_pretrained, packing.written(write)) for kind, write in {
        "safetensors": lambda path: packing.write_safetensors(path, {"a": ("F32", [6], SIX), "b": ("I8", [2], b"ab")}),
        "spec": lambda path: packing.write_safetensors(path, {"w": ("F32", [6], SIX)}, ms_vit=SPEC.to_json()),
        "npz": lambda path: make_zip(path, [("w.npy", packing.npy(SIX))]),
        "ckpt": lambda path: packing.write_ckpt(path, [("a", "Float32", [2, 3], SIX)]),
        "pth": lambda path: packing.write_zip(path, ONE_TENSOR, {"0": SIX}),
        "old pth": lambda path: packing.write_stream(path, ONE_TENSOR, {"0": SIX})}.items()},
}
WHERE = st.floats(0, 1)
DAMAGE = st.lists(st.one_of(      # where, how many bytes go there, what comes in their place
    st.tuples(WHERE, st.integers(1, 64), st.just(b"")), st.tuples(WHERE, st.just(1 << 30), st.just(b"")),
    st.tuples(WHERE, st.just(0), st.binary(min_size=1, max_size=8)), st.tuples(WHERE, st.just(1), st.integers(0, 7)),
    st.tuples(WHERE, st.integers(1, 64), st.just(3)), st.tuples(WHERE, st.just(8), st.sampled_from([
        b"\xff" * 8, bytes(8), b"\x7f", b"-1", b"999999999", b"[[[[", b"{}", b"&a *a ", b"!!", b"nan", b"../", b"\n"])),
), min_size=1, max_size=4)


def damaged(content: bytes, damage: list[tuple[float, int, Any]]) -> bytes:
    for where, count, new in damage:
        at = int(where * len(content))
        old = content[at:at + count]
        if isinstance(new, int):        # a bit flipped, or a piece three times
            new = bytes(byte ^ 1 << new for byte in old) if count == 1 else old * new
        content = content[:at] + new + content[at + count:]
    return content


def answers(kind: str, damage: list[tuple[float, int, Any]]) -> None:
    """A reader makes something of a damaged file, or says in a line what is wrong; it raises nothing else."""
    read, content = PARSERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder, META if kind == "meta.mat" else "x.yaml"), damaged(content, damage))
        before = set(Path(folder).iterdir())
        try:
            read(path)
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
