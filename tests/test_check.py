"""The verb check: each defect that a folder can have is found, named and counted; a good folder passes."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from packing import png
from PIL import Image

from ms_vit import limits
from ms_vit.check import check, main
from ms_vit.data import images, survey
from ms_vit.data.sets import manifest
from ms_vit.data.survey import Problem
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


def only_problem(folder: Path) -> Problem:
    result = check(folder)
    assert not result.ok and result.exit_code == 1 and len(result.problems) == 1, result.problems
    assert result.kinds == {result.problems[0].kind: 1}
    return result.problems[0]


def rows(file: Path) -> dict[str, dict]:
    """The files that check.json tells of, by their paths."""
    return {row["path"]: row for row in json.loads(file.read_text())["files"]}


def test_a_good_folder_passes_and_is_counted(folder):
    result = check(folder)
    assert result.ok and result.exit_code == 0 and result.problems == [] and result.kinds == {}
    assert result.counts == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 2, "dog": 2}}
    assert (result.images, result.infer, result.copies) == (11, 1, 0)


# check.json


def test_nothing_but_check_json_is_written(folder):
    def state():
        return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")
                      if path != folder / "check.json" and path.is_file())

    before = state()
    check(folder)
    assert state() == before and (folder / "check.json").is_file()


def test_check_json_tells_of_every_file(folder):
    (folder / "train/cat/1.png").write_bytes(b"")
    (folder / "train/cat/notes.txt").touch()
    shutil.copy(folder / "val/dog/1.png", folder / "train/9.png")
    result = check(folder)
    told = json.loads((folder / "check.json").read_text())
    assert told | {"files": 0} == dataclasses.asdict(result) | {"files": 0}
    assert sorted(row["path"] for row in told["files"]) == sorted(
        str(path.relative_to(folder)) for split in ("train", "val", "infer") for path in (folder / split).rglob("*.*"))
    found = rows(folder / "check.json")
    sums = {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in found}
    assert found["val/cat/2.png"] == {"path": "val/cat/2.png", "split": "val", "class": "cat",
                                      "sha256": sums["val/cat/2.png"]}
    assert found["infer/any.png"] == {"path": "infer/any.png", "split": "infer", "class": None,
                                      "sha256": sums["infer/any.png"]}
    assert found["train/cat/1.png"] == {"path": "train/cat/1.png", "split": "train", "class": "cat", "sha256": None,
                                        "kind": "zero bytes", "text": "has zero bytes; replace or remove it"}
    assert found["train/9.png"]["kind"] == "misplaced" and found["train/9.png"]["sha256"] == sums["train/9.png"]
    assert found["train/cat/notes.txt"]["kind"] == "stray"


def test_check_json_has_a_line_for_each_file_and_each_problem(folder):
    (folder / "train/cat/1.png").write_bytes(b"")
    check(folder)
    lines = (folder / "check.json").read_text().splitlines()
    assert sum(line.startswith('{"path": ') for line in lines) == 11
    assert sum(line.startswith('{"kind": ') for line in lines) == 1


def test_a_second_check_finds_the_same(folder):
    first = check(folder)
    again = check(folder)
    assert again == dataclasses.replace(first, seconds=again.seconds) and again.ok


def test_a_download_is_as_it_was_after_a_check(folder):
    manifest.write(folder)
    check(folder)
    assert (folder / "check.json").is_file() and manifest.verify(folder) == {}


def test_the_result_lands_where_out_says(folder, tmp_path):
    assert check(folder, out=tmp_path / "elsewhere.json").ok
    assert len(rows(tmp_path / "elsewhere.json")) == 11 and not (folder / "check.json").exists()


def test_a_folder_that_cannot_be_written_is_told_and_the_check_is_printed(folder, capsys, monkeypatch):
    monkeypatch.setattr(Path, "replace", raising(OSError(errno.EROFS, "Read-only file system")))
    assert main([str(folder)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == ["nothing is wrong", f"can't write {folder}/check.json (read-only file system); "
                         "give another place with --out"]
    assert not list(folder.glob("*check.json*")) and not list(folder.glob(".*"))


def test_an_out_that_cannot_be_written_is_an_error_after_the_result(folder, capsys):
    assert main([str(folder), "--out", str(folder / "nowhere/check.json")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == ["nothing is wrong", f"ms-vit: can't write {folder}/nowhere/check.json (no such file or "
                         "directory); give another place with --out"]


def raising(error: Exception):
    def fail(*args, **kwargs):
        raise error
    return fail


def test_an_interrupted_check_leaves_an_earlier_result_as_it_was(folder, monkeypatch):
    (folder / "check.json").write_text("earlier")
    monkeypatch.setattr(survey.File, "as_row", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        check(folder)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["check.json"]
    assert (folder / "check.json").read_text() == "earlier"


# Single files


@pytest.mark.parametrize("name", ["train/cat/1.png", "train/cat/2.jpg", "train/cat/3.bmp", "train/dog/2.ppm",
                                  "train/dog/3.JPEG", "val/cat/1.png", "infer/any.png"])
def test_a_truncated_image_is_found(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:len(content) * 2 // 3])
    problem = only_problem(folder)
    assert (problem.kind, problem.path) == ("damaged", name) and problem.text.startswith("can't be read (")


def test_an_image_of_zero_bytes_is_found(folder):
    (folder / "train/cat/9.jpg").touch()
    assert only_problem(folder) == Problem("zero bytes", "train/cat/9.jpg", "has zero bytes; replace or remove it")


def test_damaged_pixels_of_a_png_are_found(folder):
    content = bytearray((folder / "train/cat/1.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "train/cat/1.png").write_bytes(content)
    assert only_problem(folder).text == "can't be read (a checksum is wrong); replace or remove it"


@pytest.mark.parametrize("lifted", [False, True])
def test_a_decompression_bomb_is_found_by_its_header(folder, lifted, monkeypatch):
    if lifted:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (folder / "train/cat/9.png").write_bytes(png(bytes(1000), width=20_000, height=20_000))
    assert only_problem(folder) == Problem("too large", "train/cat/9.png", "claims more than 178,956,970 pixels; "
                                           "make it smaller or remove it")


def test_the_bound_of_pixels_is_the_one_of_infer(folder, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 17 * 17)
    for size in (17, 18):
        picture(folder / f"train/cat/{size}.png", size, size=size)
    assert only_problem(folder).path == "train/cat/18.png"
    assert images.read_image(folder / "train/cat/17.png").size == (17, 17)
    with pytest.raises(DataError, match=r"18.png has more than 289 pixels; make it smaller or leave it out"):
        images.read_image(folder / "train/cat/18.png")


def test_a_large_photo_is_no_bomb_and_warns_of_nothing(folder, recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 * 3 // 4)    # Pillow warns from here, refuses from twice it
    assert check(folder).ok and not recwarn.list


def test_a_file_of_absurd_length_is_not_read(folder):
    with open(folder / "train/cat/9.jpg", "wb") as file:
        file.truncate(1 << 40)      # a hole, without a block on the disk
    assert only_problem(folder) == Problem("too large", "train/cat/9.jpg", "has 1,099,511,627,776 bytes, too many for "
                                           "a photo; make it smaller or remove it")


@pytest.mark.parametrize("format", ["webp", "gif"])
def test_a_format_that_mindspore_doesnt_read_is_found_by_its_extension(folder, format):
    picture(folder / f"train/cat/9.{format}", 99)
    assert only_problem(folder) == Problem("wrong type", f"train/cat/9.{format}", f"MindSpore doesn't read .{format}; "
                                           "convert it to .jpg or .png")


def test_a_format_that_mindspore_doesnt_read_is_found_under_a_false_extension(folder):
    picture(folder / "train/cat/9.jpg", 99, "WEBP")
    assert only_problem(folder) == Problem("wrong type", "train/cat/9.jpg",
                                           "is WEBP inside, which MindSpore doesn't read; convert it")


def test_no_program_is_started_for_an_image(folder, monkeypatch):
    """Pillow decodes EPS by Ghostscript."""
    picture(folder / "train/cat/9.jpg", 99, "EPS")
    monkeypatch.setattr(subprocess, "Popen", raising(AssertionError("a program is started")))
    assert only_problem(folder).text == "is no image inside; replace or remove it"
    with pytest.raises(DataError, match=r"9.jpg is no image"):
        images.read_image(folder / "train/cat/9.jpg")


def test_a_stray_file_is_found_and_hidden_ones_are_not(folder):
    (folder / "train/cat/notes.txt").touch()
    (folder / "train/cat/.DS_Store").touch()
    (folder / "train/cat/._1.png").write_bytes(b"of macOS, beside 1.png")
    (folder / "train/._x.png").touch()
    (folder / "train/.cache").mkdir()
    assert only_problem(folder) == Problem("stray", "train/cat/notes.txt", "is no image; move it elsewhere")


# What is in the way


def test_a_pipe_is_told_and_not_waited_for(folder):
    os.mkfifo(folder / "train/cat/9.png")
    assert only_problem(folder) == Problem("stray", "train/cat/9.png",
                                           "is a pipe, a socket or a device, and no image; remove it")


def test_a_link_to_a_device_is_not_read(folder):
    (folder / "train/cat/9.png").symlink_to("/dev/zero")
    assert only_problem(folder).kind == "stray"


@pytest.mark.parametrize(("target", "reason"), [("nowhere.png", "no such file or directory"),
                                                ("9.png", "too many levels of symbolic links")])
def test_a_link_that_leads_nowhere_is_told(folder, target, reason):
    (folder / "train/cat/9.png").symlink_to(target)
    assert only_problem(folder) == Problem("unreadable", "train/cat/9.png",
                                           f"can't be read ({reason}); see to its permissions, or remove it")


def test_links_to_images_and_to_class_folders_are_followed(folder, tmp_path):
    picture(tmp_path / "elsewhere/1.png", 99)
    (folder / "train/cat/9.png").symlink_to(tmp_path / "elsewhere/1.png")
    (folder / "train/dog").rename(tmp_path / "dog")
    (folder / "train/dog").symlink_to(tmp_path / "dog")
    result = check(folder)
    assert result.ok and result.counts["train"] == {"cat": 4, "dog": 3}


def test_a_link_to_a_folder_within_a_class_is_told_even_if_it_leads_around(folder):
    (folder / "train/cat/up").symlink_to("..")
    assert only_problem(folder) == Problem("misplaced", "train/cat/up", "is a link to a folder, which nothing follows "
                                           "here; put the images in its place")


def test_images_deeper_than_their_class_and_outside_of_every_class_are_found(folder):
    picture(folder / "train/9.png", 98)
    picture(folder / "train/cat/more/9.png", 99)
    assert check(folder).problems == [
        Problem("misplaced", "train/9.png", "lies in no class folder; move it into one"),
        Problem("misplaced", "train/cat/more/9.png", "lies deeper than its class folder; move it up into it")]


@pytest.fixture
def unprivileged(folder):
    """As a user whom permissions hold: root's are beyond them."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.parents):
        if not path.stat().st_mode & 0o001:     # pytest's own folders are for nobody else
            path.chmod(0o755)
    os.chown(folder, 65534, -1)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_permissions_forbid_is_told(folder, unprivileged):
    locked = [folder / "train/cat/1.png", folder / "val/dog"]
    owner = os.geteuid()
    os.seteuid(os.getuid())
    for path in locked:
        path.chmod(0)
    os.seteuid(owner)
    result = check(folder)
    os.seteuid(os.getuid())
    locked[1].chmod(0o755)
    os.seteuid(owner)
    assert result.problems == [
        Problem("unreadable", "train/cat/1.png", "can't be read (permission denied); see to its permissions, or "
                "remove it"),
        Problem("unreadable", "val/dog", "is a folder that can't be opened; see to its permissions")]


def test_names_with_newlines_and_without_an_encoding_stay_on_their_line(folder, capfd):
    odd = os.fsdecode(b"a\nb\xff.png")
    (folder / "train/cat" / odd).touch()
    picture(folder / "train/cat/\n\xe9\u4e2d.png", 99)
    assert only_problem(folder).path == f"train/cat/{odd}"
    assert "  train/cat/a\\nb\\udcff.png: has zero bytes; replace or remove it" in capfd.readouterr().err.splitlines()
    assert {f"train/cat/{odd}", "train/cat/\n\xe9\u4e2d.png"} <= rows(folder / "check.json").keys()


def test_a_class_whose_name_mindspore_cannot_take_is_found(folder):
    for split in ("train", "val"):
        (folder / split / "dog").rename(folder / split / os.fsdecode(b"d\xff"))
    assert [(problem.kind, problem.path) for problem in check(folder).problems] == [
        ("wrong name", "train/d\udcff"), ("wrong name", "val/d\udcff")]


# Classes and copies


def test_an_empty_class_is_found(folder):
    for split in ("train", "val"):
        (folder / split / "ant").mkdir()
    picture(folder / "val/ant/1.png", 99)
    assert only_problem(folder) == Problem("empty class", "train/ant", "is a class without a good image; "
                                           "add some or remove the folder")


def test_a_class_that_train_lacks_is_found(folder):
    for seed in (98, 99):
        picture(folder / f"val/maine_coon/{seed}.png", seed)
    assert only_problem(folder) == Problem("missing class", "val/maine_coon", "is a class that train/ lacks "
                                           "(2 images); remove it or add it to train/")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_val_or_test_lacks_is_found(folder, split):
    picture(folder / split / "cat/9.png", 99)
    shutil.rmtree(folder / split / "dog", ignore_errors=True)
    assert only_problem(folder) == Problem("missing class", f"{split}/dog",
                                           f"is not there, but train/dog is (3 images); add it to {split}/")


def test_the_same_image_in_two_splits_is_found(folder):
    shutil.copy(folder / "train/dog/1.tif", folder / "val/dog/again.tif")
    assert only_problem(folder) == Problem("in two splits", "train/dog/1.tif", "is the same image as "
                                           "val/dog/again.tif; keep it in one split")


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_same_image_under_two_labels_is_found(folder, split):
    shutil.copy(folder / "train/cat/1.png", folder / split / "dog/again.png")
    assert only_problem(folder) == Problem("conflicting labels", "train/cat/1.png", "is the same image as "
                                           f"{split}/dog/again.png, under another label; keep it once, where it "
                                           "belongs")


def test_the_same_image_twice_in_a_class_of_a_split_or_to_look_at_is_only_counted(folder, capsys):
    for name in ("again.tif", "and again.tif"):
        shutil.copy(folder / "train/dog/1.tif", folder / "train/dog" / name)
    shutil.copy(folder / "train/dog/1.tif", folder / "infer/again.tif")
    result = check(folder)
    assert result.ok and result.copies == 2
    assert "14 images read" in (told := capsys.readouterr().err) and "2 of them further copies in their class" in told


def test_an_image_in_many_places_is_one_problem_of_one_line(folder):
    for number in range(1000):
        (folder / f"val/dog/{number}.png").write_bytes((folder / "train/cat/1.png").read_bytes())
    assert only_problem(folder).text == (
        "is the same image as val/dog/0.png, val/dog/1.png, val/dog/10.png and 997 more, under another label; "
        "keep it once, where it belongs")


# For people, and for programs


def test_a_folder_without_splits_is_told(tmp_path):
    with pytest.raises(DataError, match="has no train/, val/ or test/"):
        check(tmp_path)


def test_the_command_prints_counts_and_problems_and_exits_with_1(folder, capsys):
    (folder / "train/cat/1.png").write_bytes(b"")
    (folder / "train/cat/2.jpg").write_bytes(b"")
    (folder / "train/cat/notes.txt").touch()
    assert main([str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["ok"] is False and result["counts"]["train"] == {"cat": 1, "dog": 3}
    assert result["problems"][0] == {"kind": "zero bytes", "path": "train/cat/1.png",
                                     "text": "has zero bytes; replace or remove it"}
    assert result["kinds"] == {"zero bytes": 2, "stray": 1} and len(result["problems"]) == 3
    lines = err.splitlines()
    assert lines[:4] == ["class          train  val", "cat                1    2", "dog                3    2",
                         "all 2 classes      4    4"]
    assert lines[5:] == ["  train/cat/1.png: has zero bytes; replace or remove it",
                         "  train/cat/2.jpg: has zero bytes; replace or remove it",
                         "  train/cat/notes.txt: is no image; move it elsewhere",
                         "3 problems: 2 zero bytes, 1 stray", f"{folder}/check.json tells of each file"]


def test_many_problems_of_a_kind_do_not_hide_another(folder, capsys):
    for number in range(1000):
        (folder / f"train/cat/{number}.txt").touch()
    (folder / "train/dog/9.png").touch()
    assert len(check(folder).problems) == 1001
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 19 and "  and 990 more: stray" in lines
    assert "  train/dog/9.png: has zero bytes; replace or remove it" in lines
    assert lines[-2] == "1,001 problems: 1,000 stray, 1 zero bytes"


def test_the_command_on_a_good_folder_exits_with_0(folder, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().err.splitlines()[-2] == "nothing is wrong"


def test_many_classes_are_summed_up(tmp_path, capsys):
    for number in range(30):
        picture(tmp_path / f"train/c{number}/1.png", number)
    picture(tmp_path / "train/c0/2.png", 99)
    assert check(tmp_path).ok
    assert capsys.readouterr().err.splitlines()[:4] == ["class              train", "fewest in a class      1",
                                                        "most in a class        2", "all 30 classes        31"]


def test_an_imagenet_folders_table_has_names(shared_data, tmp_path, capsys):
    from ms_vit.data.sets.cards import Card
    from ms_vit.data.sets.sources import image_archive

    image_archive.lay_out([shared_data / "imagenet_mini.zip"], tmp_path, Card.load("imagenet-subset"))
    result = check(tmp_path)
    assert result.ok and result.images == 1410 and result.infer == 10
    assert "n02102040 English springer    100   40" in capsys.readouterr().err


def test_more_images_than_wait_for_a_thread_at_once_come_in_order(tmp_path):
    for number in range(1500):
        picture(tmp_path / f"train/a/{number:04d}.png", number, size=4)
    assert check(tmp_path).images == 1500
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / "train/a").iterdir())]
    assert [row["sha256"] for row in rows(tmp_path / "check.json").values()] == sums
