"""Formats: every pixel of the publisher's files arrives, each under its label; hostile files don't get anywhere."""

import gzip
import hashlib
import os
import pickle
import re
import struct
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import (
    HACK,
    Calls,
    cases,
    cifar,
    idx_file,
    laughs,
    make_tar,
    make_zip,
    patched,
    put,
    python2_pickle,
    refusal,
    written,
)
from PIL import Image

from ms_vit import limits
from ms_vit.data.sets import manifest
from ms_vit.data.sets.cards import Card
from ms_vit.data.sets.sources import cifar_pickles, digits, idx, image_archive
from ms_vit.download import main
from ms_vit.errors import DataError
from ms_vit.unpickling import Program

MNIST = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
         "t10k-labels-idx1-ubyte.gz"]
VAL_SPLIT = "b72fbfc7a0c8d1e06bfe26898ed0cd57097d97101f997e87320264d8d62c4390"


def laid_out(split: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Every image of a split in the order of its index, decoded, and its class folder."""
    files = sorted(split.glob("*/*.png"), key=lambda path: int(path.stem))
    assert [int(path.stem) for path in files] == list(range(shape[0]))
    pixels = np.empty(shape, np.uint8)
    for index, file in enumerate(files):
        with Image.open(file) as image:
            pixels[index] = np.asarray(image)
    return pixels, [file.parent.name for file in files]


def hash_of(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


# --------------------------------------------------------------------------------------------------------- digits

@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    digits.lay_out([], out, Card.load("digits"))
    return out


def test_each_digit_is_used_once_and_nothing_of_it_is_lost(digits_folder):
    from sklearn.datasets import load_digits

    source = load_digits()
    labelled = {int(path.stem): path for split in ("train", "val") for path in digits_folder.glob(f"{split}/*/*.png")}
    infer = {int(path.stem.removeprefix("digit_")): path for path in digits_folder.glob("infer/*.png")}
    assert sorted([*labelled, *infer]) == list(range(1797))
    for index, path in (labelled | infer).items():
        with Image.open(path) as image:
            assert np.array_equal(np.rint(np.asarray(image) / 255 * 16), source.images[index])
    assert all(path.parent.name == str(source.target[index]) for index, path in labelled.items())


def test_digits_are_split_in_like_shares_of_each_class(digits_folder):
    from sklearn.datasets import load_digits

    target = load_digits().target
    infer = Counter(target[int(path.stem.removeprefix("digit_"))] for path in digits_folder.glob("infer/*.png"))
    assert infer == dict.fromkeys(range(10), 2)
    for name, count in Counter(map(str, target)).items():
        assert len(list(digits_folder.glob(f"val/{name}/*.png"))) == pytest.approx(count / 5, abs=0.5)


def test_digits_are_split_the_same_each_time(digits_folder, tmp_path):
    digits.lay_out([], tmp_path, Card.load("digits"))
    again, before = (sorted(str(path.relative_to(out)) for path in out.rglob("*")) for out in (tmp_path, digits_folder))
    assert again == before
    # Of the sorted names: results are published on this split, so it must stay what it is.
    names = "\n".join(name for name in again if name.startswith("val/") and name.endswith(".png"))
    assert hashlib.sha256(names.encode()).hexdigest() == VAL_SPLIT


# ---------------------------------------------------------------------------------------------------------- MNIST

def test_all_of_mnist_arrives_bit_for_bit(shared_data, tmp_path):
    idx.lay_out([shared_data / name for name in MNIST], tmp_path, Card.load("mnist"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]
    for split, prefix, count in (("train", "train", 60000), ("val", "t10k", 10000)):
        raw = gzip.decompress((shared_data / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((shared_data / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        pixels, classes = laid_out(tmp_path / split, (count, 28, 28))
        assert hash_of(pixels) == hashlib.sha256(raw[16:]).hexdigest()
        assert classes == [str(label) for label in labels]
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert [len(list(tmp_path.glob(f"train/{digit}/*"))) for digit in range(10)] == published


GOOD_IDX = written(lambda path: idx_file(path, np.arange(12, dtype=np.uint8).reshape(3, 2, 2)))


def idx_files(folder: Path, images: int = 3, labels: int = 3, label: int = 1) -> list[Path]:
    arrays = {"images": np.zeros((images, 2, 2), np.uint8), "labels": np.full(labels, label, np.uint8)}
    return [idx_file(folder / f"{split}-{what}.gz", array) for split in ("train", "t10k")
            for what, array in arrays.items()]


@given(array=st.one_of(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), st.tuples(st.integers(0, 50)),
), seed=st.integers(0, 99), cut=st.integers(-3, 3))
@settings(max_examples=100, deadline=None)
def test_an_idx_file_is_read_whole_or_not_at_all(array, seed, cut):
    wanted = np.random.RandomState(seed).randint(0, 256, array).astype(np.uint8)
    content = wanted.tobytes()
    stored = content[:len(content) + cut] if cut < 0 else content + bytes(cut)
    with tempfile.TemporaryDirectory() as folder:
        path = idx_file(Path(folder, "x.gz"), np.frombuffer(stored, np.uint8), wanted.shape)
        if len(stored) == len(content):
            assert np.array_equal(idx.read(path), wanted)
        else:
            with pytest.raises(DataError, match="doesn't hold"):
                idx.read(path)


@given(content=st.binary(max_size=40), packed=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_as_an_idx_file_are_an_array_or_one_line(content, packed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gz")
        path.write_bytes(gzip.compress(content) if packed else content)
        try:
            array = idx.read(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert packed and content.endswith(array.tobytes())


@pytest.mark.parametrize(("content", "text"), cases({
    "two dimensions": (gzip.compress(b"\0\0\x08\x02" + bytes(8)), "is no idx file of images or labels: it begins"),
    "floats": (gzip.compress(b"\0\0\x0d\x01" + bytes(4)), "begins with 00000d01"),
    "no zeros": (gzip.compress(b"\1\0\x08\x01" + bytes(4)), "begins with 01000801"),
    "gzip of nothing": (gzip.compress(b""), "begins with nothing"),
    "three bytes": (gzip.compress(b"\0\0\x08"), "begins with 000008"),
    "empty": (b"", "begins with nothing"),
    "no gzip": (b"\0\0\x08\x01" + bytes(4), "is damaged"),
    "half a header": (gzip.compress(b"\0\0\x08\x03" + bytes(11)), "cut short in its header"),
    "2^96 pixels": (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "claims"),
    "a byte more than it may": (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", limits.FREE_ARCHIVE_BYTES + 1)),
                                "claims 64,000,001 bytes; more than 64,000,000 can't be in a file of its size"),
    "as much as it may, and lacks it": (
        gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", limits.FREE_ARCHIVE_BYTES)), "doesn't hold the 64,000,000"),
    **{f"cut to {share:.0%}": (GOOD_IDX[:int(share * len(GOOD_IDX))], "") for share in (0.1, 0.4, 0.7, 0.99)},
}))
def test_what_is_no_idx_file_is_told(tmp_path, content, text):
    assert text in refusal(idx.read, put(tmp_path / "x.gz", content), DataError)


def test_a_gzip_bomb_as_an_idx_file_fills_no_memory(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 10) + bytes(200_000_000), 9))
    tracemalloc.start()
    with pytest.raises(DataError, match="doesn't hold the 10 bytes"):
        idx.read(tmp_path / "x.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_wrong_bit_in_an_idx_file_is_caught_by_its_checksum(tmp_path):
    path = idx_file(tmp_path / "x.gz", np.zeros((9, 4, 4), np.uint8))
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        idx.read(path)


@pytest.mark.parametrize(("files", "text"), [
    ({"images": 3, "labels": 4}, "has 3 images, .* has 4 labels"),
    ({"images": 4}, "has 4 images, .* has 3 labels"),
    ({"label": 10}, "has label 10; the card mnist names 10 classes"),
    ({"images": 0, "labels": 0}, "holds no pixels"),
])
def test_idx_files_that_dont_fit_one_another_or_the_card_are_told(tmp_path, files, text):
    with pytest.raises(DataError, match=text):
        idx.lay_out(idx_files(tmp_path, **files), tmp_path / "out", Card.load("mnist"))


@pytest.mark.parametrize(("chosen", "text"), [
    ([0, 1, 2], r"named t10k\*; it has 1 and 0"), ([0, 1, 3], r"named t10k\*; it has 0 and 1"),
    ([0, 1, 2, 2, 3], r"named t10k\*; it has 2 and 1"), ([1, 2, 3], r"named train\*; it has 0 and 1")])
def test_an_idx_file_too_few_or_too_many_is_told(tmp_path, chosen, text):
    files = idx_files(tmp_path)
    with pytest.raises(DataError, match=text):
        idx.lay_out([files[each] for each in chosen], tmp_path / "out", Card.load("mnist"))


def test_the_last_label_that_a_card_names_is_taken_and_test_files_are_for_validation(tmp_path):
    files = [file.rename(file.with_name(file.name.replace("t10k", "test"))) for file in idx_files(tmp_path, label=9)]
    idx.lay_out(files, tmp_path / "out", Card.load("mnist"))
    assert len(list(tmp_path.glob("out/train/9/*"))) == len(list(tmp_path.glob("out/val/9/*"))) == 3


# -------------------------------------------------------------------------------------------------------- CIFAR-10

@pytest.fixture(scope="module")
def cifar10_folder(shared_data, tmp_path_factory) -> Path:
    """CIFAR-10, laid out from its tar.gz."""
    out = tmp_path_factory.mktemp("cifar10")
    cifar_pickles.lay_out([shared_data / "cifar-10-python.tar.gz"], out, Card.load("cifar10"))
    return out


def test_all_of_cifar10_arrives_bit_for_bit(shared_data, cifar10_folder):
    card = Card.load("cifar10")
    assert sorted(path.name for path in cifar10_folder.iterdir()) == ["train", "val"]
    train = [f"data_batch_{number}" for number in range(1, 6)]
    for split, names, count in (("train", train, 50000), ("val", ["test_batch"], 10000)):
        batches = [pickle.loads((shared_data / "cifar-10-batches-py" / name).read_bytes(), encoding="latin1")
                   for name in names]
        raw = np.concatenate([batch["data"] for batch in batches])
        pixels, classes = laid_out(cifar10_folder / split, (count, 32, 32, 3))
        assert hash_of(pixels.transpose(0, 3, 1, 2)) == hash_of(raw)
        assert classes == [card.class_ids[label] for batch in batches for label in batch["labels"]]
        assert Counter(classes) == dict.fromkeys(card.class_ids, count // 10)


def test_cifar10_unpacked_as_tutorials_have_it_gives_the_very_same_files(shared_data, cifar10_folder, tmp_path):
    source = shared_data / "cifar-10-batches-py"
    before = {path: path.stat().st_mtime_ns for path in [source, *source.iterdir()]}
    assert main(["cifar10", "--root", str(tmp_path), "--source", str(source)]) == 0
    assert {path: path.stat().st_mtime_ns for path in [source, *source.iterdir()]} == before
    found = manifest.parse(tmp_path / "cifar10" / manifest.NAME)
    assert found.pop("card.yaml")
    assert found == {path.relative_to(cifar10_folder).as_posix(): manifest.digest(path)
                     for path in cifar10_folder.glob("*/*/*.png")}
    assert len(found) == 60000


def test_a_small_archive_like_cifars_is_laid_out(tmp_path):
    cifar_pickles.lay_out([cifar(tmp_path)], tmp_path / "out", Card.load("cifar10"))
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/*/*"))
    assert len(names) == 12 and names[0] == "train/airplane/00000.png" and names[-1] == "val/truck/00001.png"


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return cifar_pickles.read(path, 10)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(("value", "text"), [
    ({"data": Calls(os.system, "touch hacked")}, "posix.system"),
    ({"data": Calls(eval, HACK)}, "builtins.eval"),
    ({"data": Calls(open, "hacked", "w")}, "io.open"),
    ({"data": Calls(getattr, "x", "upper")}, "builtins.getattr"),
    ({"data": np.array([Calls(os.system, "touch hacked")], dtype=object)}, "numpy.dtype('O8')"),
    ({"data": np.zeros((2, 3072), np.float32)}, "numpy.dtype('f4')"),
    ({"data": np.zeros(3, [("a", "u1")])}, "numpy.dtype('V1')"),
    ({"data": np.float64(1)}, "numpy.core.multiarray.scalar"),
    ({"data": np.asfortranarray(PIXELS)}, "an array of something else than bytes"),
    (b"\x80\x02cos\nsystem\n(U\x0ctouch hackedtR.", "os.system"),
    (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x01K\x01tR.", "an array of another class"),
    (b"\x80\x02}cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00K\x01tR(K\x01K\x03K\x01K\x00U\x03abctb.",
     "an array of something else than bytes"),
    (b"\x80\x02cnumpy\ndtype\n(" + laughs() + b"tR.", "a numpy.dtype that has no name"),
    (b"\x80\x02}(" + laughs() + b"K\x01u.", "a list for a key"),
    (b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.", "a tuple for a key"),    # its hash would exhaust the process's stack
])
def test_a_pickle_that_asks_for_more_than_bytes_is_refused_and_nothing_runs(tmp_path, value, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "data_batch_2", value if isinstance(value, bytes) else lambda to: python2_pickle(to, value))
    told = refusal(read_batch, path, DataError)
    assert told.startswith("cifar-10-batches-py/data_batch_2 is refused: it asks for ") and text in told


@pytest.mark.parametrize(("value", "text"), [
    (b"", "is damaged (EOFError)"), (b"\x80\x02}", "is damaged"), (b"not a pickle", "is damaged"),
    (b"(ios\nsystem\n.", "is damaged"), (b"\x80\x02\x82\x01.", "is damaged"),           # an instance, an extension
    (b"\x80\x02X\xff\xff\xff\xff.", "is damaged"), (b"\x80\x02\x8b\xff\xff\xff\x7f.", "is damaged"),     # 4 GB, 2 GB
    (b"\x80\x02].", "holds no dictionary"), (b"\x80\x02" + b"]" * 9999 + b"a" * 9998 + b".", "holds no dictionary"),
    (b"\x80\x02}.", "holds no array of 3072 bytes an image"),
    # LONG_BINPUT 2**31 - 1: the unpickler in C makes room for twice as many entries.
    (b"\x80\x02}r\xff\xff\xff\x7f.", "holds no array"),
    ({"data": [1, 2]}, "holds no array"), ({"data": np.zeros((2, 3000), np.uint8)}, "holds no array"),
    ({"data": np.zeros(6144, np.uint8)}, "holds no array"), ({"data": PIXELS}, "one label for each of its 2 images"),
    ({"data": PIXELS, "labels": [1]}, "one label for each"), ({"data": PIXELS, "labels": "ab"}, "one label for each"),
    *[({"data": PIXELS, "labels": [0, label]}, "labels outside 0..9") for label in (10, -1, True, "cat", 1.0)],
])
def test_a_batch_that_is_not_what_it_should_be_is_told(tmp_path, value, text):
    path = put(tmp_path / "data_batch_2", value if isinstance(value, bytes) else lambda to: python2_pickle(to, value))
    told = refusal(read_batch, path, DataError)
    assert text in told and "data_batch_2" in told


def test_a_batch_gives_its_pixels_and_labels(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    images, labels = read_batch(python2_pickle(tmp_path / "x", {"data": rows, "labels": [0, 9]}))
    assert images.shape == (2, 32, 32, 3) and labels.tolist() == [0, 9]
    assert np.array_equal(images[1, 2, 3], rows[1].reshape(3, 32, 32)[:, 2, 3])


def test_a_pickle_may_have_as_many_instructions_as_its_bound(tmp_path, monkeypatch):
    path = python2_pickle(tmp_path / "x", {"data": PIXELS, "labels": [0, 9]})
    program = Program(path.read_bytes())
    cifar_pickles.Unpickler(program, encoding="latin1").load()
    monkeypatch.setattr(limits, "MAX_PICKLE_READS", program.reads)
    assert len(read_batch(path)[1]) == 2
    monkeypatch.setattr(limits, "MAX_PICKLE_READS", program.reads - 1)
    assert "it asks for too many objects" in refusal(read_batch, path, DataError)


def test_a_batch_may_be_as_large_as_its_bound(tmp_path, monkeypatch):
    path = python2_pickle(tmp_path / "x", {"data": PIXELS, "labels": [0, 9]})
    monkeypatch.setattr(limits, "MAX_CIFAR_BYTES", path.stat().st_size)
    assert len(read_batch(path)[1]) == 2
    monkeypatch.setattr(limits, "MAX_CIFAR_BYTES", path.stat().st_size - 1)
    assert "is too large for a batch" in refusal(read_batch, path, DataError)


def test_a_pickle_cannot_change_the_stand_ins(tmp_path):
    before = dict(vars(cifar_pickles.Dtype))
    program = b"\x80\x02}U\x01xcnumpy\ndtype\n(N}U\x04codeK\x01stbs."        # a state that would set attributes
    assert "holds no array" in refusal(read_batch, put(tmp_path / "x", program), DataError)
    assert dict(vars(cifar_pickles.Dtype)) == before


def test_an_array_whose_shape_and_bytes_disagree_is_told(tmp_path):
    path = python2_pickle(tmp_path / "x", {"data": PIXELS, "labels": [0, 1]})
    path.write_bytes(patched(path.read_bytes(), b"M\x00\x0c", b"M\x01\x0c"))      # BININT2 3072 -> 3073
    assert "is damaged" in refusal(read_batch, path, DataError)


LONG = b"U\x63" + b"x" * 99


@pytest.mark.parametrize(("names", "told"), [
    (b"]U\x03../a", "../"), (b"]U\x04\x1b[2Ja", "\x1b[2J"), (b"N", "that are no names"),
    (laughs(), "that are no names"),
    (b"]" * 9999 + b"a" * 9998, "that are no names"), (b"](" + LONG + LONG + b"e", f"{'x' * 99}, {'x' * 99}"),
    (b"](" + LONG + LONG + b"U\x01xe", f"{'x' * 99}, {'x' * 99}...")])
def test_class_names_that_arent_the_cards_are_told(tmp_path, names, told):
    archive = cifar(tmp_path, name="batches.meta", content=b"\x80\x02}U\x0blabel_names" + names + b"s.")
    with pytest.raises(DataError, match=re.escape(f"names the classes {told}, but its card airplane, automobile")):
        cifar_pickles.lay_out([archive], tmp_path / "out", Card.load("cifar10"))


def test_a_batch_too_few_is_told(tmp_path):
    with pytest.raises(DataError, match=r"has no cifar-10-batches-py/batches\.meta"):
        cifar_pickles.lay_out([make_tar(tmp_path / "x.tar.gz", [("a", b"")])], tmp_path / "out", Card.load("cifar10"))


# ------------------------------------------------------------------------------------------------- image archives

def test_the_imagenet_subset_is_laid_out_as_it_lies_in_its_zip(shared_data, tmp_path):
    image_archive.lay_out([shared_data / "imagenet_mini.zip"], tmp_path, Card.load("imagenet-subset"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ILSVRC2012_devkit_t12", "infer", "train", "val"]
    assert (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").is_file()
    assert [len(list(tmp_path.glob(f"{split}/*/*.JPEG"))) for split in ("train", "val", "infer")] == [1000, 400, 10]


IMAGES = [("train/a/1.jpg", b"1"), ("val/a/2.jpg", b"2")]


@pytest.mark.parametrize("top", ["", "dataset/", "x/"])
@pytest.mark.parametrize("inner", ["", "ILSVRC2012_devkit_t12/"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_top_folder_is_stripped_and_a_devkit_unpacked_with_or_without_its_own(tmp_path, top, inner, make):
    devkit = make_tar(tmp_path / "devkit", [(f"{inner}data/meta.mat", b"meta"), (f"{inner}readme.txt", b"hi")])
    members = [*IMAGES, ("ILSVRC2012_devkit_t12.tar.gz", devkit.read_bytes()), (".DS_Store", b"")]
    extra = [("__MACOSX/train/a/._1.jpg", b"")]
    archive = make(tmp_path / "x", [(top + name, content) for name, content in members] + extra)
    image_archive.lay_out([archive], tmp_path / "out", Card.load("imagenet-subset"))
    files = sorted(str(file.relative_to(tmp_path / "out")) for file in tmp_path.glob("out/**/*") if file.is_file())
    assert files == ["ILSVRC2012_devkit_t12/data/meta.mat", "ILSVRC2012_devkit_t12/readme.txt", "train/a/1.jpg",
                     "val/a/2.jpg"]


@pytest.mark.parametrize(("members", "says"), [
    ([("data/train/a/1.jpg", b"1")], "x.zip should hold a folder val/, at the top or one folder below"),
    ([("data/val/a/2.jpg", b"2")], "x.zip should hold a folder train/"),
    ([("train", b""), IMAGES[1]], "x.zip should hold a folder train/"), ([], "x.zip should hold a folder train/"),
    ([("x/y/train/a/1.jpg", b"1"), ("x/y/val/a/2.jpg", b"2")], "x.zip should hold a folder train/"),
])
def test_an_archive_without_a_split_is_told(tmp_path, members, says):
    archive = make_zip(tmp_path / "x.zip", members)
    with pytest.raises(DataError, match=says):
        image_archive.lay_out([archive], tmp_path / "out", Card.load("imagenet-subset"))


def test_two_archives_of_one_data_set_are_put_together_and_may_not_meet(tmp_path):
    archives = [make_zip(tmp_path / "1.zip", IMAGES[:1]), make_zip(tmp_path / "2.zip", IMAGES[1:])]
    image_archive.lay_out(archives, tmp_path / "out", Card.load("imagenet-subset"))
    assert sorted(path.name for path in tmp_path.glob("out/*/*/*")) == ["1.jpg", "2.jpg"]
    with pytest.raises(DataError, match=r"2\.zip holds 'val' as another file of imagenet-subset does; mend the card"):
        image_archive.lay_out([*archives, archives[1]], tmp_path / "other", Card.load("imagenet-subset"))


@pytest.mark.parametrize(("packed", "says"), [
    (lambda path: make_tar(path, [("../../evil", b"")]), "climbs out"),
    (lambda path: path.write_bytes(gzip.compress(bytes(100_000_000))), "unpacks to more than"),
    (lambda path: path.write_bytes(b"hello"), "is no zip, tar or tar.gz")])
def test_a_hostile_devkit_inside_an_honest_archive_is_refused(tmp_path, packed, says):
    archive = make_zip(tmp_path / "x.zip", [*IMAGES, ("ILSVRC2012_devkit_t12.tar.gz", written(packed))])
    with pytest.raises(DataError, match=says):
        image_archive.lay_out([archive], tmp_path / "out", Card.load("imagenet-subset"))
    assert not list(tmp_path.glob("**/evil"))
