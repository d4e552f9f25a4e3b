"""SHA256SUMS: sha256sum agrees with it, and no change goes unseen."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from packing import ODDITIES, put

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
    assert manifest.verify(folder) == {}


def test_what_is_missing_or_changed_is_listed_and_what_is_new_is_fine(folder):
    manifest.write(folder)
    (folder / "train/a/1.png").write_bytes(b"other")
    (folder / "train/b/é.png").unlink()
    (folder / "notes.txt").touch()
    assert manifest.verify(folder) == {"train/a/1.png": "has changed", "train/b/é.png": "is missing"}


def test_a_change_that_keeps_size_and_time_is_seen(folder):
    manifest.write(folder)
    path = folder / "card.yaml"
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert manifest.verify(folder) == {"card.yaml": "has changed"}


@pytest.mark.parametrize("line", [
    "garbage", "0" * 63 + "  x", "0" * 65 + "  x", "0" * 64 + " x", "0" * 64 + "  ", "A" * 64 + "  x",
    "0" * 64 + "  ../../canary", "0" * 64 + "  a/../../x", "0" * 64 + "  a/..", "0" * 64 + "  ..",
    "0" * 64 + "  /etc/passwd", "0" * 64 + "  /dev/zero", "\udcff"])
def test_a_damaged_list_is_told_in_one_line(folder, line):
    manifest.write(folder)
    with open(folder / manifest.NAME, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"SHA256SUMS is damaged( at line 5)?; delete"):
        manifest.verify(folder)


def test_names_with_dots_are_names(tmp_path):
    entries = {name: "0" * 64 for name in ("..a", "a..", "a/..b/c", "a b", "\x1b[2J", ".hidden")}
    manifest.save(entries, tmp_path / "x")
    assert manifest.parse(tmp_path / "x") == entries


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_is_no_file_any_more_is_listed_and_not_waited_for(tmp_path, oddity):
    (tmp_path / manifest.NAME).write_text("0" * 64 + "  odd\n")
    ODDITIES[oddity](tmp_path / "odd")
    assert manifest.verify(tmp_path) == {"odd": "is missing" if oddity in ("nothing", "a loop") else "has changed"}


def test_a_file_that_cannot_be_read_is_told_and_nothing_is_listed(tmp_path):
    os.mkfifo(tmp_path / "odd")
    with pytest.raises(DataError, match=r"can't read .*odd; see to its permissions"):
        manifest.write(tmp_path)
    assert not (tmp_path / manifest.NAME).exists()


def test_hashes_are_those_of_hashlib_whatever_the_size(tmp_path):
    for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1):
        put(tmp_path / "x", content := os.urandom(size))
        assert manifest.digest(tmp_path / "x") == hashlib.sha256(content).hexdigest()
        assert manifest.digest(tmp_path / "x", "md5") == hashlib.md5(content).hexdigest()


def test_many_files_are_hashed_in_their_order(tmp_path):
    for number in range(2500):  # more than one batch of the thread pool
        (tmp_path / f"{number:04d}").write_text(str(number))
    assert manifest.write(tmp_path) == 2500
    (tmp_path / "1700").write_text("")
    assert manifest.verify(tmp_path) == {"1700": "has changed"}
