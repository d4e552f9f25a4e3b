"""What trains and what validates, in folders as people have them."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_vit import cli
from ms_vit.check import check
from ms_vit.data.labels import Labels, read_labels
from ms_vit.data.layout import Split, find_layout, find_split, held_out, number_of
from ms_vit.data.pipeline import Batches, numpy_batches
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import DataError
from ms_vit.recipe import Recipe

CLASSES = ["ant", "bee", "cat"]
LABELS = Labels(CLASSES, CLASSES)
PREPROCESSING = Preprocessing(image_size=8)
NUMBER = 0x634a07bf9def / 2**48     # by another tool: printf cat/1.jpg | sha256sum
TRAIN = ["train", "--recipe", "digits", "--model.depth", 1, "--model.dim", 16, "--model.mlp_dim", 32,
         "--model.num_heads", 2, "--train.batch_size", 8, "--train.epochs", 1, "--schedule.warmup_epochs", 0]


def classes(folder: Path, count: int = 20, start: int = 0) -> Path:
    """`count` pictures of each of three classes, no two of which are alike."""
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            pixels = np.random.default_rng((index, number)).integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:04d}.png")
    return folder


def names(split: Split) -> set[str]:
    return {f"{name}/{file.name}" for name, files in split.images().items() for file in files}


def touched(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.fixture
def run(capfd):
    """The command line: its exit code, its result, and what it told."""
    def run(*argv: object):
        code = cli.main([*map(str, argv), "--json"])
        out, err = capfd.readouterr()
        return code, json.loads(out.splitlines()[-1]) if out else None, err
    return run


# What is found


def test_train_and_val_are_what_they_are_called(tmp_path):
    touched(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "test/a/3.png", "infer/4.png")
    layout = find_layout(tmp_path)
    assert (layout.train, layout.val, layout.final) == (Split(tmp_path / "train"), Split(tmp_path / "val"), None)
    assert layout.said == [] and [file.name for file in layout.files()] == ["1.png", "1.png", "2.png"]


@pytest.mark.parametrize(("others", "taken"), [
    (["validation"], "validation"), (["valid"], "valid"), (["test"], "test"), (["valid", "test"], "valid")])
def test_what_others_call_val_is_understood_and_told(tmp_path, others, taken):
    touched(tmp_path, "train/a/1.png", "train/b/1.png", *(f"{name}/a/2.png" for name in others))
    layout = find_layout(tmp_path)
    assert (layout.train, layout.val, layout.final) == (Split(tmp_path / "train"), Split(tmp_path / taken), None)
    assert layout.said == [f"{tmp_path} has no val/; {taken}/ is taken for it"]
    assert find_split(tmp_path, "val", 0.5) == (Split(tmp_path / taken), layout.said[0])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("share", [None, 0.1, 0.5])
def test_without_val_a_share_of_each_class_is_held_out(tmp_path, flat, share):
    files = [f"{name}/{number}.jpg" for name in "abc" for number in range(400)]
    folder = touched(tmp_path if flat else tmp_path / "train", *files)
    layout = find_layout(tmp_path, share)
    train, val = names(layout.train), names(layout.val)
    assert train | val == set(files) and not train & val and layout.final is None
    for count in Counter(name[0] for name in val).values():
        assert count == pytest.approx(400 * (share or 0.2), abs=25)
    assert len(layout.said) == 1 and f"{100 * (share or 0.2):.0f} % of each class" in layout.said[0]
    assert find_split(tmp_path, "val", share)[0] == layout.val
    rest, told = find_split(tmp_path, "train", share)
    assert (rest, told != "") == ((layout.train, True) if flat else (Split(folder), False))


def test_with_val_a_share_that_is_asked_for_is_held_out_and_val_is_for_the_end(tmp_path):
    files = [f"{name}/{number}.jpg" for name in "ab" for number in range(100)]
    touched(tmp_path / "train", *files)
    touched(tmp_path, "val/a/x.jpg", "val/b/x.jpg")
    layout = find_layout(tmp_path, 0.1)
    assert names(layout.train) | names(layout.val) == set(files) and 10 <= len(names(layout.val)) <= 30
    assert layout.final == Split(tmp_path / "val") and len(layout.files()) == len(set(layout.files())) == 202
    assert f"which is scored on {tmp_path / 'val'} at the end" in layout.said[0]
    assert find_split(tmp_path, "val", 0.1) == (Split(tmp_path / "val"), "")


def test_an_image_stays_where_it_is_when_others_come_and_go(tmp_path):
    touched(tmp_path, *(f"{name}/{number}.jpg" for name in "ab" for number in range(100)))
    before = names(find_layout(tmp_path).val)
    touched(tmp_path, *(f"{name}/{number}.jpg" for name in "abc" for number in range(100, 300)))
    for number in range(0, 100, 3):
        (tmp_path / f"a/{number}.jpg").unlink()
    layout = find_layout(tmp_path)
    gone = {name for name in before if not (tmp_path / name).exists()}
    assert before - gone <= names(layout.val) and not (before & names(layout.train))
    assert len(names(layout.val) - before) > 50


def test_a_class_of_few_images_has_one_at_least_on_either_side(tmp_path):
    for share in (0.001, 0.999):
        for count in (2, 3):
            files = [Path("c", f"{number}.jpg") for number in range(count)]
            held = held_out(files, share)
            assert len(held) == (1 if share < 0.5 else count - 1)
            assert min(files, key=number_of) in held and max(files, key=number_of) not in held
    assert held_out([Path("c/0.jpg")], 0.999) == set()


def test_what_is_held_out_follows_from_the_names_alone():
    """SHA-256 of CLASS/NAME, of which the first 48 bits are a number from 0 to 1."""
    assert number_of(Path("/anywhere/cat/1.jpg")) == number_of(Path("elsewhere/cat/1.jpg")) == pytest.approx(NUMBER)
    assert 0 <= number_of(Path(os.fsdecode(b"d\xff/\xff.jpg"))) < 1

def test_a_flat_folders_classes_are_the_folders_with_images_but_for_those_to_look_at(tmp_path):
    touched(tmp_path, "b/1.png", "a/1.JPG", "infer/1.png", "docs/notes.txt", ".cache/1.png", "empty/.1.png", "x.txt")
    assert read_labels(tmp_path).ids == ["a", "b"]
    assert names(find_layout(tmp_path).train) == {"a/1.JPG", "b/1.png"}


@pytest.mark.parametrize(("files", "says"), [
    ([], "has no train/, and no class folders with images"),
    (["1.png", "2.png"], "holds images in no class folders; put each class's images into a folder of their own"),
    (["a/1.txt"], "has no train/, and no class folders with images"),
    (["a/1.png"], 'has one class only, "a"; a classifier needs two or more'),
    (["train/a/1.png"], 'train has one class only, "a"; a classifier needs two or more'),
    (["train/1.png"], "train has no class folders; put each class's images into a folder of their own"),
    (["images/a/1.png", "images/b/1.png"], "has no train/, and no class folders with images; did you mean .*images[?]"),
    (["val/a/1.png"], "has val/ and no train/; put images to train on into train/CLASS/, too"),
    (["test/a/1.png"], "has test/ and no train/"),
])
def test_a_folder_that_is_none_is_told_with_what_to_do(tmp_path, files, says):
    with pytest.raises(DataError, match=says) as error:
        find_layout(touched(tmp_path, *files))
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="none is not there; give a folder"):
        find_layout(tmp_path / "none")


# What comes out of the pipeline


def test_the_batches_of_a_part_hold_its_images_and_labels(tmp_path):
    layout = find_layout(classes(tmp_path))
    classes(tmp_path / "infer")
    seen = []
    for split in (layout.train, layout.val):
        made = Batches(split, LABELS, PREPROCESSING, batch_size=1, training=False)
        expected = [made.files[index] for index in made.order(0)]
        assert {f"{file.parent.name}/{file.name}" for file in expected} == names(split)
        transforms = PREPROCESSING.operations()
        for (images, labels), file in zip(numpy_batches(made.epoch()), expected, strict=True):
            pixels = np.fromfile(file, np.uint8)
            for each in transforms:
                pixels = each(pixels)
            assert CLASSES[labels[0]] == file.parent.name and (images[0] == pixels).all()
        seen += expected
    assert len(seen) == len(set(seen)) == 60


def test_a_classic_split_comes_in_the_order_that_it_always_had(tmp_path):
    """Resumed runs and published results follow from it."""
    made = Batches(classes(tmp_path / "train"), LABELS, PREPROCESSING, batch_size=4, training=True, seed=7)
    assert made.order(3) == np.random.default_rng((7, 3)).permutation(60).tolist()
    assert made.fingerprint == Batches(Split(tmp_path / "train"), LABELS, PREPROCESSING, batch_size=4, training=False
                                       ).fingerprint


# As a user types it


def test_a_flat_folder_is_checked_trained_on_and_evaluated(tmp_path, run):
    data = classes(tmp_path / "insects")
    touched(data, "readme.txt")
    shutil.copytree(data / "ant", data / "infer")
    code, checked, told = run("check", data)
    assert code == 0 and checked["counts"] == {"all": dict.fromkeys(CLASSES, 20)}
    assert (checked["images"], checked["infer"]) == (80, 20)
    assert run("check", data)[0] == 0       # with check.json there
    code, trained, told = run(*TRAIN, "--data.name", data, "--run", tmp_path / "run", "--data.holdout", 0.3)
    assert code == 0, told
    line = f"{data} has no train/ and no val/, but class folders; 30 % of each class is held out as val (data.holdout)"
    assert line in told.splitlines()
    layout = find_layout(data, 0.3)
    assert trained["steps"] == len(names(layout.train)) // 8
    code, val, told = run("eval", tmp_path / "run", "--data", data)
    assert code == 0 and val["images"] == len(names(layout.val)) and val["top1"] == pytest.approx(trained["best"])
    assert f"{data} has no val/; val is the 30 % that training holds out of each class of {data}" in told
    code, train, told = run("eval", tmp_path / "run", "--data", data, "--split", "train")
    assert code == 0 and train["images"] == len(names(layout.train)) == 60 - val["images"]
    code, every, told = run("eval", tmp_path / "run", "--data", data, "--split", "all")
    assert code == 0 and every["images"] == 60 and f"{data}: top-1" in told
    assert Recipe.load(tmp_path / "run/recipe.yaml").data.holdout == 0.3


def test_bad_images_of_a_part_are_left_out(tmp_path, run):
    data = classes(tmp_path / "insects")
    for name in ("ant/0003.png", "bee/0004.png"):
        (data / name).write_bytes(b"no image")
    code, _, told = run(*TRAIN, "--data.name", data, "--run", tmp_path / "run", "--data.bad_images", "skip")
    assert code == 0 and "images left out because they can't be read: 2" in told
    bad = json.loads((tmp_path / "run/bad_images.json").read_text())
    assert sorted(bad) == [str(data / "ant/0003.png"), str(data / "bee/0004.png")]


def test_a_share_that_is_none_is_told(tmp_path, run):
    classes(tmp_path)
    code, _, told = run(*TRAIN, "--data.name", tmp_path, "--run", tmp_path / "run", "--data.holdout", 1)
    assert code == 2 and '"data.holdout" must be above 0 and below 1' in told


# check


def test_a_flat_folder_is_checked_as_one_split(tmp_path):
    data = classes(tmp_path, 3)
    (data / "ant/0001.png").write_bytes(b"")
    shutil.copy(data / "bee/0001.png", data / "loose.png")
    shutil.copy(data / "bee/0001.png", data / "cat/copy.png")
    touched(data, "dog/notes.txt", "readme.txt")
    result = check(data)
    assert result.counts == {"all": {"ant": 2, "bee": 3, "cat": 4, "dog": 0}}
    assert [(problem.kind, problem.path) for problem in result.problems] == [
        ("zero bytes", "ant/0001.png"), ("stray", "dog/notes.txt"), ("misplaced", "loose.png"), ("empty class", "dog"),
        ("conflicting labels", "bee/0001.png")]
    rows = {row["path"]: row for row in json.loads((data / "check.json").read_text())["files"]}
    assert rows["bee/0000.png"]["split"] == "all" and rows["bee/0000.png"]["class"] == "bee"
    assert "readme.txt" not in rows and rows["loose.png"]["class"] is None


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_what_others_call_val_is_checked(tmp_path, name):
    classes(tmp_path / "train", 3)
    classes(tmp_path / name, 2, start=3)
    assert check(tmp_path).counts[name] == dict.fromkeys(CLASSES, 2)
    shutil.rmtree(tmp_path / name / "cat")
    shutil.copy(tmp_path / "train/ant/0000.png", tmp_path / name / "ant/copy.png")
    assert [(problem.kind, problem.path) for problem in check(tmp_path).problems] == [
        ("missing class", f"{name}/cat"), ("in two splits", "train/ant/0000.png")]
