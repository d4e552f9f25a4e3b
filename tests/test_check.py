"""The verb check: each fault that a folder can have is found, named and counted; a good folder passes."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_vit.check import check, main
from ms_vit.errors import DataError


def picture(path: Path, seed: int, format: str | None = None, size: int = 16) -> Path:
    """A picture of its own for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, format)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, three training and two validation pictures each, and one to look at."""
    data = tmp_path / "data"
    for seed, name in enumerate(["train/cat/1.png", "train/cat/2.jpg", "train/cat/3.bmp", "train/dog/1.tif",
                                 "train/dog/2.ppm", "train/dog/3.JPEG", "val/cat/1.png", "val/cat/2.png",
                                 "val/dog/1.png", "val/dog/2.png", "infer/any.png"]):
        picture(data / name, seed, "JPEG" if name.endswith("JPEG") else None)
    return data


def only_problem(folder: Path) -> str:
    result = check(folder)
    assert not result.ok and result.exit_code == 1 and len(result.problems) == 1, result.problems
    return result.problems[0]


def test_a_good_folder_passes_and_is_counted(folder):
    result = check(folder)
    assert result.ok and result.exit_code == 0 and result.problems == []
    assert result.counts == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 2, "dog": 2}}
    assert (result.images, result.infer) == (11, 1)


def test_nothing_is_written(folder):
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    check(folder)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["train/cat/1.png", "train/cat/2.jpg", "train/cat/3.bmp", "train/dog/2.ppm",
                                  "train/dog/3.JPEG", "val/cat/1.png", "infer/any.png"])
def test_a_truncated_image_is_found(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:len(content) * 2 // 3])
    assert only_problem(folder).startswith(f"{name}: can't be read (")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(1000)])
def test_a_file_that_is_no_image_inside_is_found(folder, content):
    (folder / "train/cat/9.jpg").write_bytes(content)
    assert only_problem(folder) == ("train/cat/9.jpg: can't be read (it is empty or no image inside); "
                                    "replace or remove it")


def test_damaged_pixels_of_a_png_are_found(folder):
    content = bytearray((folder / "train/cat/1.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "train/cat/1.png").write_bytes(content)
    assert "can't be read" in only_problem(folder)


def test_an_image_of_absurd_size_is_found_before_it_fills_memory(folder, monkeypatch):
    # Above the limit Pillow warns, above twice the limit it raises.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17 * 17 - 1)
    picture(folder / "train/cat/8.png", 98, size=17)
    picture(folder / "train/cat/9.png", 99, size=100)
    reason = "can't be read (it claims more pixels than a photo has); replace or remove it"
    assert check(folder).problems == [f"train/cat/8.png: {reason}", f"train/cat/9.png: {reason}"]


@pytest.mark.parametrize("format", ["webp", "gif"])
def test_a_format_that_mindspore_doesnt_read_is_found_by_its_extension(folder, format):
    picture(folder / f"train/cat/9.{format}", 99)
    assert only_problem(folder) == (f"train/cat/9.{format}: MindSpore doesn't read .{format}; "
                                    "convert it to .jpg or .png")


def test_a_format_that_mindspore_doesnt_read_is_found_under_a_false_extension(folder):
    picture(folder / "train/cat/9.jpg", 99, "WEBP")
    assert only_problem(folder) == "train/cat/9.jpg: is WEBP inside, which MindSpore doesn't read; convert it"


def test_a_stray_file_is_found_and_hidden_ones_are_not(folder):
    (folder / "train/cat/notes.txt").touch()
    (folder / "train/cat/.DS_Store").touch()
    (folder / "train/.cache").mkdir()
    assert only_problem(folder) == "train/cat/notes.txt: is no image; move it elsewhere"


def test_an_image_outside_of_every_class_is_found(folder):
    picture(folder / "train/9.png", 99)
    assert only_problem(folder) == "train/9.png: lies in no class folder; move it into one"


def test_an_empty_class_is_found(folder):
    for split in ("train", "val"):
        (folder / split / "ant").mkdir()
    picture(folder / "val/ant/1.png", 99)
    assert only_problem(folder) == "train/ant: is a class without a readable image; add some or remove the folder"


def test_a_class_that_train_lacks_is_found(folder):
    for seed in (98, 99):
        picture(folder / f"val/maine_coon/{seed}.png", seed)
    assert only_problem(folder) == ('val/ has a class that train/ lacks: "maine_coon" (2 images); '
                                    "remove it or add it to train/")


def test_a_class_that_val_lacks_is_found(folder):
    shutil.rmtree(folder / "val/dog")
    assert only_problem(folder) == 'val/ lacks a class of train/: "dog" (3 images there); add it to val/'


def test_a_test_split_is_held_to_train_as_well(folder):
    picture(folder / "test/cat/1.png", 99)
    assert only_problem(folder) == 'test/ lacks a class of train/: "dog" (3 images there); add it to test/'


def test_the_same_image_in_two_splits_is_found(folder):
    shutil.copy(folder / "train/dog/1.tif", folder / "val/cat/again.tif")
    assert only_problem(folder) == ("val/cat/again.tif: is the same image as train/dog/1.tif; keep it in one split")


def test_the_same_image_twice_in_a_split_or_to_look_at_is_no_problem(folder):
    shutil.copy(folder / "train/dog/1.tif", folder / "train/dog/again.tif")
    shutil.copy(folder / "train/dog/1.tif", folder / "infer/again.tif")
    assert check(folder).ok


def test_a_folder_without_splits_is_told(tmp_path):
    with pytest.raises(DataError, match="has no train/, val/ or test/"):
        check(tmp_path)


def test_the_command_prints_counts_and_problems_and_exits_with_1(folder, capsys):
    (folder / "train/cat/1.png").write_bytes(b"")
    assert main([str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["ok"] is False and result["counts"]["train"] == {"cat": 2, "dog": 3} and len(result["problems"]) == 1
    lines = err.splitlines()
    assert lines[:4] == ["class          train  val", "cat                2    2", "dog                3    2",
                         "all 2 classes      5    4"]
    assert any("train/cat/1.png: can't be read" in line for line in lines) and lines[-1] == "1 problem"


def test_the_command_on_a_good_folder_exits_with_0(folder, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "nothing is wrong"


def test_many_classes_are_summed_up(tmp_path, capsys):
    for number in range(30):
        picture(tmp_path / f"train/c{number}/1.png", number)
    picture(tmp_path / "train/c0/2.png", 99)
    assert check(tmp_path).ok
    assert capsys.readouterr().err.splitlines()[:4] == ["class              train", "fewest in a class      1",
                                                        "most in a class        2", "all 30 classes        31"]


def test_an_imagenet_folders_table_has_names(shared_data, tmp_path, capsys):
    from ms_vit.data.cards import Card
    from ms_vit.data.sources import image_archive

    image_archive.lay_out([shared_data / "imagenet_mini.zip"], tmp_path, Card.load("imagenet-subset"))
    result = check(tmp_path)
    assert result.ok and result.images == 1410 and result.infer == 10
    assert "n02102040 English springer    100   40" in capsys.readouterr().err


def test_500_small_images_take_less_than_a_second(tmp_path):
    for number in range(1000):
        picture(tmp_path / f"train/a/{number}.png", number, size=28)
    began = time.monotonic()
    assert check(tmp_path).images == 1000
    assert time.monotonic() - began < 2
