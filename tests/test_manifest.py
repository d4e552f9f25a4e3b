"""SHA256SUMS: sha256sum agrees with it, and no change goes unseen."""

import os
import subprocess
from pathlib import Path

import pytest

from ms_vit.data.sets import manifest
from ms_vit.errors import DataError


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("train/a/1.png", "train/a/with space.png", "train/b/é.png", "card.yaml"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(name.encode())
    return tmp_path / "data"


def test_sha256sum_itself_agrees(folder):
    assert manifest.write(folder) == 4
    told = subprocess.run(["sha256sum", "-c", manifest.NAME], cwd=folder, check=True, capture_output=True, text=True)
    assert told.stdout.count(": OK") == 4


def test_an_unchanged_folder_has_no_problems(folder):
    manifest.write(folder)
    assert manifest.verify(folder) == []


def test_what_is_missing_or_changed_is_listed_and_what_is_new_is_fine(folder):
    manifest.write(folder)
    (folder / "train/a/1.png").write_bytes(b"other")
    (folder / "train/b/é.png").unlink()
    (folder / "notes.txt").touch()
    assert manifest.verify(folder) == ["train/a/1.png has changed", "train/b/é.png is missing"]


def test_a_change_that_keeps_size_and_time_is_seen(folder):
    manifest.write(folder)
    path = folder / "card.yaml"
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert manifest.verify(folder) == ["card.yaml has changed"]


@pytest.mark.parametrize("line", ["garbage", "0" * 63 + "  x", "0" * 64 + " x", "\udcff"])
def test_a_damaged_list_is_told_in_one_line(folder, line):
    manifest.write(folder)
    with open(folder / manifest.NAME, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match="SHA256SUMS is damaged"):
        manifest.verify(folder)


def test_many_files_are_hashed_in_their_order(tmp_path):
    for number in range(2500):  # more than one batch of the thread pool
        (tmp_path / f"{number:04d}").write_text(str(number))
    assert manifest.write(tmp_path) == 2500
    (tmp_path / "1700").write_text("")
    assert manifest.verify(tmp_path) == ["1700 has changed"]
