"""The verb pack, and shards in the place of class folders: the same batches to the bit, whatever happens on the way."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_vit.check import check
from ms_vit.data import decoding, packing
from ms_vit.data.labels import Labels, read_labels
from ms_vit.data.layout import Split, find_layout
from ms_vit.data.pipeline import Batches, naming_bad_images, numpy_batches
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.data.stores import PACK, ClassFolders, Shards
from ms_vit.distributed import World
from ms_vit.errors import DataError, UsageError
from ms_vit.pack import pack
from ms_vit.recipe import Augment, Recipe

LABELS = Labels(["bird", "cat", "dog"], ["bird", "cat", "dog"])
WIDER = Labels(["ant", "bird", "cat", "cow", "dog"], ["ant", "bird", "cat", "cow", "dog"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """train/ with 21 pictures of three classes and val/ with 9, JPEG and PNG, no two alike: 5 MB."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    random = np.random.default_rng(0)
    for split, count in (("train", 21), ("val", 9)):
        for number in range(count):
            file = folder / split / LABELS.ids[number % 3] / f"{number:02d}.{'JPG' if number % 2 else 'png'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 255, (260 + number, 350 - number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, quality=95)
    (folder / "train/cat/.hidden.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def packed(photos) -> Path:
    """The same in several shards a split."""
    folder = pack(photos, shard_mb=1).folder
    assert folder == photos.with_name("photos-packed") and len(list((folder / "train").glob("*.mindrecord"))) == 6
    return folder


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(packed, tmp_path / "packed"))


def sums(folder: Path) -> str:
    """A hash of every file."""
    return (folder / "SHA256SUMS").read_text()


def epochs(split: Split | Path, *, labels: Labels = LABELS, training: bool = True, **options) -> list[np.ndarray]:
    """The batches of two epochs, images and labels by turns."""
    prepared = Preprocessing(image_size=32, **({"transforms": Augment().train} if training else {}))
    made = Batches(split, labels, prepared, batch_size=4, training=training, seed=3, workers=2, **options)
    return [array for epoch in (0, 1) for batch in numpy_batches(made.epoch(epoch)) for array in batch]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    assert one
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


# --- what is packed is what was there

@pytest.mark.parametrize("options", [
    {}, {"training": False}, {"labels": WIDER}, {"keep": 10**9}, {"alternate_flip": True}, {"repeats": 2},
    {"world": World(1, 2)}], ids=str)
def test_batches_are_the_folders_to_the_bit(photos, packed, options):
    assert_same(epochs(packed / "train", **options), epochs(photos / "train", **options))


def test_parts_of_a_split_are_the_folders(photos, packed):
    parts = [find_layout(folder, holdout=0.3) for folder in (photos, packed)]
    for one, other in zip(*([part.train, part.val, part.final] for part in parts), strict=True):
        assert_same(epochs(other, training=False), epochs(one, training=False))
    names = [[file.name for file in part.val.images()["cat"]] for part in parts]
    assert names[0] == names[1] and names[0]


def test_jpegs_take_the_fast_decoder_from_shards_too(packed, monkeypatch):
    """MindRecord hands them on as texts of n bytes."""
    decoded = []
    monkeypatch.setattr(decoding, "jpeg_pixels", lambda *arguments, before=decoding.jpeg_pixels: decoded.append(
        before(*arguments)) or decoded[-1])
    store = Shards(packed / "train")
    row = store.names.index("cat/01.JPG")
    list(numpy_batches(store.dataset([row], LABELS.index, 1).map(decoding.Decode(), "image")))
    assert [pixels.shape for pixels in decoded] == [(261, 349, 3)]


def test_a_flat_folder_packs_and_trains_as_one(photos, tmp_path):
    flat = Path(shutil.copytree(photos / "train", tmp_path / "flat"))
    (flat / "infer").mkdir()
    (flat / "infer/look.png").write_bytes((flat / "bird/00.png").read_bytes())
    made = pack(flat, tmp_path / "out", shard_mb=1)
    assert (made.images, made.left_out, made.shards, made.new) == (21, 0, 6, True)
    assert read_labels(made.folder) == read_labels(flat) == LABELS
    assert_same(epochs(find_layout(made.folder).val, training=False), epochs(find_layout(flat).val, training=False))
    assert check(made.folder).ok and check(made.folder).counts == {"all": {"bird": 7, "cat": 7, "dog": 7}}


def test_class_names_come_along(photos, tmp_path):
    folder = Path(shutil.copytree(photos, tmp_path / "named"))
    (folder / "card.yaml").write_text("""{name: named, title: t, format: image-folder, licence: none,
        class_names: {bird: Vogel, cat: Katze, dog: Hund}, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}""")
    made = pack(folder)
    assert (made.folder / "card.yaml").read_bytes() == (folder / "card.yaml").read_bytes()


def test_who_names_no_recipe_gets_that_of_the_packed_images_size(packed):
    assert Recipe.load("default", {"data.name": str(packed)}) == Recipe.load(
        "default-photos", {"data.name": str(packed)})


def test_a_run_trained_from_shards_has_the_weights_of_one_from_the_folder(photos, packed, run, tmp_path):
    tiny = ["--model.depth", 1, "--model.dim", 16, "--model.mlp_dim", 32, "--model.num_heads", 2, "--model.image_size",
            32, "--model.patch_size", 16, "--train.epochs", 1, "--train.batch_size", 4, "--augment.mixup", 0]
    for name, folder in (("files", photos), ("shards", packed)):
        code, result, _ = run("train", "--recipe", "digits", *tiny, "--data.name", folder, "--run", tmp_path / name)
        assert code == 0 and result["steps"] == 5
    one, other = (next((tmp_path / name).glob("checkpoints/*/model.safetensors")) for name in ("files", "shards"))
    assert one.read_bytes() == other.read_bytes()
    code, result, _ = run("eval", tmp_path / "shards", "--data", packed)
    assert code == 0 and result["images"] == 9


# --- on the way

def test_an_interrupted_packing_goes_on_and_ends_in_the_same_bytes(photos, packed, tmp_path, monkeypatch):
    written = []
    write = packing.write_shard

    def interrupted(out, number, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(number)
        return write(out, number, *rest)

    monkeypatch.setattr(packing, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(photos, tmp_path / "out", shard_mb=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(packing, "write_shard", lambda out, number, *rest: written.append(number) or write(
        out, number, *rest))
    made = pack(photos, tmp_path / "out", shard_mb=1)
    assert written == [0, 1, 2, 3, 4, 5, 0, 1, 2] and made.new
    assert sums(made.folder) == sums(packed)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not any(path.name.startswith(".") for path in made.folder.rglob("*"))


def test_a_split_that_is_done_is_not_packed_again_and_another_plan_leaves_no_shard(photos, tmp_path, monkeypatch):
    written, write = [], packing.write_shard
    monkeypatch.setattr(packing, "write_shard", lambda out, number, *rest: written.append(out.name) or write(
        out, number, *rest))
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr("ms_vit.data.sets.manifest.write", lambda folder: (_ for _ in ()).throw(OSError("full")))
            patch.setattr("ms_vit.data.packing.tidy", lambda out: None)
            pack(photos, tmp_path / "out", shard_mb=1)
    assert written == 6 * ["train"] + 3 * ["val"]
    made = pack(photos, tmp_path / "out", shard_mb=100)
    assert made.shards == 2 and sorted(path.name for path in (made.folder / "train").iterdir()) == [
        "00000.mindrecord", "00000.mindrecord.db", PACK]


def test_a_disk_that_is_too_small_is_told(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 0, 10**6))
    with pytest.raises(DataError, match=r"train needs [\d.]+ MB more, and .* has 1.0; free some space"):
        pack(photos, tmp_path / "out")


def test_images_that_changed_meanwhile_are_packed_anew(photos, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(photos, tmp_path / "folder"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("ms_vit.data.sets.manifest.write", lambda folder: (_ for _ in ()).throw(OSError("full")))
        pack(folder, shard_mb=1)
    Image.new("RGB", (300, 300), "red").save(folder / "train/dog/02.png")
    made = pack(folder, shard_mb=1)
    store = Shards(made.folder / "train")
    with store.open(store.names.index("dog/02.png")) as file:
        assert file.read() == (folder / "train/dog/02.png").read_bytes()


def test_images_that_cannot_be_read_stop_it_or_are_left_out(photos, tmp_path, run):
    folder = Path(shutil.copytree(photos, tmp_path / "folder"))
    (folder / "train/cat/01.JPG").write_bytes((photos / "train/cat/01.JPG").read_bytes()[:5000])
    (folder / "train/cat/10.png").write_bytes(b"")
    code, _, err = run("pack", folder, "--shard-mb", 1)
    assert code == 1 and "train/cat/01.JPG can't be read" in err and "--bad-images skip" in err
    assert not (tmp_path / "folder-packed").exists()
    code, result, err = run("pack", folder, "--shard-mb", 1, "--bad-images", "skip")
    assert code == 0 and (result["images"], result["left_out"]) == (28, 2)
    assert "left out:" in err and "cat/10.png has zero bytes" in err
    found = Shards(tmp_path / "folder-packed/train").images()
    assert len(found["cat"]) == 5 and len(found["bird"]) == 7


def test_shards_left_without_bad_images_are_packed_anew_for_who_wants_all(photos, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(photos, tmp_path / "folder"))
    (folder / "train/bird/00.png").write_bytes(b"no image at all")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("ms_vit.data.sets.manifest.write", lambda folder: (_ for _ in ()).throw(OSError("full")))
        pack(folder, shard_mb=1, bad_images="skip")
    with pytest.raises(DataError, match=r"bird/00.png is no image inside"):
        pack(folder, shard_mb=1)


def test_two_do_not_pack_into_one_folder(photos, tmp_path):
    (tmp_path / ".out.part").mkdir()
    lock = os.open(tmp_path / ".out.part", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(DataError, match="another process packs"):
            pack(photos, tmp_path / "out")
    finally:
        os.close(lock)


# --- once it is there

def test_what_is_there_is_verified(photos, copy, run):
    code, result, err = run("pack", photos, "--out", copy)
    assert code == 0 and not result["new"] and result["images"] == 30 and "verified" in err
    flip(copy / "train/00001.mindrecord", -40_000)
    code, _, err = run("pack", photos, "--out", copy)
    assert code == 1 and "train/00001.mindrecord has changed; remove it" in err


def test_everybody_may_read_it(packed):
    assert {path.stat().st_mode & 0o444 for path in packed.rglob("*.mindrecord*")} == {0o444}


@pytest.mark.parametrize(("make", "says", "error"), [
    (lambda folder: folder / "nowhere", "has no train/", DataError),
    (lambda folder: Path(shutil.copytree(folder / "train/cat", folder.parent / "one")), "has no train/", DataError),
    (lambda folder: pack(folder, folder.parent / "again").folder, "is packed already", UsageError)])
def test_what_cannot_be_packed_is_told(photos, make, says, error):
    with pytest.raises(error, match=says):
        pack(make(photos), photos.parent / "never")
    assert not (photos.parent / "never").exists()


def test_another_folder_in_its_place_is_left_alone(photos, tmp_path):
    with pytest.raises(DataError, match="wasn't made by ms-vit pack"):
        pack(photos, tmp_path)


def test_an_image_too_large_for_a_page_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LARGEST_PAGE", packing.PAGE - 1)
    with pytest.raises(DataError, match=r"train/\w+/\d\d.\w+ has [\d,]+ bytes, more than a shard's page takes"):
        pack(photos, tmp_path / "out")


def test_an_image_larger_than_a_page_of_most_is_packed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 255, (1300, 1300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name / "large.bmp")
    assert (tmp_path / "data/a/large.bmp").stat().st_size > packing.PAGE
    store = Shards(pack(tmp_path / "data").folder)
    with store.open(1) as file:
        assert file.read() == (tmp_path / "data/b/large.bmp").read_bytes()


# --- damage

def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    for byte in range(64):
        content[at + byte] ^= 0x55
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, 100_000)


@pytest.mark.parametrize(("damage", "says"), [
    (lambda train: (train / "00002.mindrecord").unlink(), r"00002.mindrecord is missing; bring it back"),
    (lambda train: (train / "00002.mindrecord.db").unlink(), r"00002.mindrecord.db is missing; bring it back"),
    (lambda train: cut(train / "00002.mindrecord"), r"00002.mindrecord is damaged, or its .db is"),
    (lambda train: flip(train / "00002.mindrecord", 20), r"00002.mindrecord is damaged, or its .db is"),
    (lambda train: flip(train / "00002.mindrecord.db", 8200), r"00002.mindrecord is damaged, or its .db is"),
    (lambda train: (train / PACK).write_text("{}"), "pack.json is damaged"),
    (lambda train: (train / PACK).write_text(json.dumps({"classes": ["cat"], "shards": [
        {"file": "../x", "bytes": 1, "seal": "x", "images": []}]})), "pack.json is damaged"),
    (lambda train: (train / PACK).write_bytes(b"\xff"), "pack.json is damaged")])
def test_a_damaged_shard_is_named_and_found_by_check(copy, damage, says, capsys):
    damage(copy / "train")
    with pytest.raises(DataError, match=says):
        epochs(copy / "train")
    result = check(copy)
    assert result.exit_code == 1 and result.kinds == {"changed": 1} and result.problems[0].path.startswith("train/")
    assert "bring back what was packed" in capsys.readouterr().err


def test_a_damaged_image_is_told_and_its_shard_found_by_check(copy):
    shard = copy / "train/00001.mindrecord"
    flip(shard, shard.read_bytes().index(b"IDAT"))
    with pytest.raises(DataError, match=r"can't be decoded, so a shard is damaged.*check"), naming_bad_images():
        epochs(copy / "train", training=False)
    assert [problem.path for problem in check(copy).problems] == ["train/00001.mindrecord"]


def test_a_class_folder_that_came_or_went_is_told_without_listing_a_folder_that_is_as_it_was(photos, tmp_path,
                                                                                            monkeypatch):
    folder = Path(shutil.copytree(photos / "train", tmp_path / "train"))
    store = ClassFolders(folder)
    assert len(store.names) == 22
    listed = []
    before = ClassFolders.listed
    monkeypatch.setattr(ClassFolders, "listed", lambda self: listed.append(1) or before(self))
    store.dataset([0, 1], LABELS.index, 1)
    assert not listed
    (folder / "cat/new.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/new.png came or went"):
        store.dataset([0, 1], LABELS.index, 1)
