"""Unpacking: what is honest comes out whole, what is not is refused and leaves nothing."""

import gzip
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import make_tar, make_zip

from ms_vit import limits
from ms_vit.data.sets import archives
from ms_vit.data.sets.archives import unpack
from ms_vit.errors import DataError

LONG = "/".join(["x" * 199] * 9 + ["x" * 200])    # a path of 2,000 bytes
HONEST = {"top/train/a/1.txt": b"one" * 1000, "top/train/b/2.txt": b"two", "top/empty.txt": b""}


def make(kind: str, path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    return make_zip(path, members) if kind == "zip" else make_tar(path, members, "w" if kind == "tar" else "w:gz")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(archive: Path, text: str) -> None:
    """Unpacking is refused with one line that names the archive; nothing is written anywhere."""
    around = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError, match=text) as caught:
        unpack(archive, archive.parent / "out")
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(archive.parent.rglob("*")) == around


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_honest_archive_comes_out_whole_whatever_it_is_called(tmp_path, kind):
    unpack(make(kind, tmp_path / "data.bin", HONEST.items()), tmp_path / "out")
    assert contents(tmp_path / "out") == HONEST


def test_folders_that_a_tar_lists_are_fine_even_twice(tmp_path):
    folders = []
    for name in ("./", "./a/", "a"):
        folders.append(tarfile.TarInfo(name))
        folders[-1].type = tarfile.DIRTYPE
    unpack(make_tar(tmp_path / "x.tar.gz", [*((info, b"") for info in folders), ("./a/1", b"1")]), tmp_path / "out")
    assert contents(tmp_path / "out") == {"a/1": b"1"}


def test_files_get_usual_permissions_and_not_the_archives(tmp_path):
    info = tarfile.TarInfo("run.sh")
    info.mode = 0o6777
    unpack(make_tar(tmp_path / "x.tar", [(info, b"x")], "w"), tmp_path / "out")
    (tmp_path / "usual").touch()
    assert (tmp_path / "out/run.sh").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(("name", "text"), [
    ("../evil", "climbs out"),
    ("a/../../evil", "climbs out"),
    ("a/..", "climbs out"),
    ("/etc/evil", "absolute path"),
    ("C:/evil", "absolute path"),
    ("c:evil", "absolute path"),
    ("a\\..\\evil", "character"),
    ("a\nb", "character"),
    ("a\x1b[2J", "character"),
    ("a\u2028b", "character"),
    ("x" * 256, "too long"),
    ("é" * 128, "too long"),
    (LONG + "x", "too long"),
    ("x/" * 32 + "y", "too deep"),
])
def test_a_member_with_a_bad_name_is_refused_and_leaves_nothing(tmp_path, kind, name, text):
    refused(make(kind, tmp_path / "x", [("good", b"1"), (name, b"2")]), text)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["x" * 255, "x/" * 31 + "y", LONG, "a..b", "..a", "ab:c"])
def test_a_name_at_the_bounds_is_taken(tmp_path, kind, name):
    unpack(make(kind, tmp_path / "x", [(name, b"1")]), tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"1"}


def test_a_tar_name_in_no_encoding_is_refused(tmp_path):
    refused(make_tar(tmp_path / "x.tar", [("a/\udcff.jpg", b"1")], "w"), "character")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["a/.", "."])
def test_a_file_without_a_name_is_refused(tmp_path, kind, name):
    refused(make(kind, tmp_path / "x", [(name, b"1")]), "has no file name")


def test_a_zip_name_that_hides_behind_a_nul_is_refused(tmp_path):
    content = make_zip(tmp_path / "x.zip", [("a.jpg_.exe", b"1")]).read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(b"a.jpg_.exe", b"a.jpg\0.exe"))
    refused(tmp_path / "x.zip", "character")


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, type):
    info = tarfile.TarInfo("a/link")
    info.type, info.linkname = type, "/etc/passwd"
    refused(make_tar(tmp_path / "x.tar.gz", [("good", b"1"), (info, b"")]), "'a/link' is a link or a device")


def test_a_sparse_file_in_a_tar_is_refused(tmp_path):
    info = tarfile.TarInfo("huge")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 1 << 40
    refused(make_tar(tmp_path / "x.tar.gz", [(info, b"")]), "'huge' is a link or a device")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    info = zipfile.ZipInfo("a/link")
    info.external_attr = (mode | 0o777) << 16
    refused(make_zip(tmp_path / "x.zip", [("good", b"1"), (info, b"/etc/passwd")]), "'a/link' is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("twin", ["a/1", "./a/1", "a//1"])
def test_a_member_that_is_there_twice_is_refused(tmp_path, kind, twin):
    refused(make(kind, tmp_path / "x", [("a/1", b"1"), (twin, b"2")]), "there twice")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_member_that_is_file_and_folder_is_refused(tmp_path, kind):
    refused(make(kind, tmp_path / "x", [("a", b"1"), ("a/b", b"2")]), "a file and a folder")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path, kind):
    refused(make(kind, tmp_path / "x", [("zeros", bytes(100_000_000))]), "unpacks to more than 64,000,000 bytes")


def test_a_bomb_behind_the_end_of_a_tar_is_refused(tmp_path):
    content = gzip.decompress(make_tar(tmp_path / "x.tar.gz", HONEST.items()).read_bytes())
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(content + bytes(100_000_000), 1))
    refused(tmp_path / "x.tar.gz", "unpacks to more than 64,000,000 bytes")


def test_a_note_at_its_bound_is_read_and_one_byte_more_is_refused(tmp_path, monkeypatch):
    make_tar(tmp_path / "x.tar", [("y" * 150, b"1")], "w")      # its name is in a note, "160 path=yyy..."
    monkeypatch.setattr(limits, "MAX_TAR_NOTES", 159)
    refused(tmp_path / "x.tar", "a name or note of 160 bytes is too long")
    monkeypatch.setattr(limits, "MAX_TAR_NOTES", 160)
    unpack(tmp_path / "x.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {"y" * 150: b"1"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_may_unpack_to_its_bound_and_no_further(tmp_path, monkeypatch, kind):
    archive = make(kind, tmp_path / "x", [("a", bytes(30_000)), ("b", b"x" * 6_000)])
    whole = 36_000 if kind == "zip" else archive.stat().st_size
    monkeypatch.setattr(limits, "MAX_ARCHIVE_RATIO", 0)
    monkeypatch.setattr(limits, "FREE_ARCHIVE_BYTES", whole - 1)
    refused(archive, f"unpacks to more than {whole - 1:,} bytes")
    monkeypatch.setattr(limits, "FREE_ARCHIVE_BYTES", whole)
    unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": bytes(30_000), "b": b"x" * 6_000}


def test_a_link_that_lies_in_the_way_is_not_written_through(tmp_path):
    (tmp_path / "out/top").mkdir(parents=True)
    (tmp_path / "out/top/empty.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        unpack(make_zip(tmp_path / "x.zip", HONEST.items()), tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


def test_a_zip_that_lies_about_a_size_is_caught(tmp_path):
    path = make_zip(tmp_path / "x.zip", [("a", b"A" * 5000)])
    content = path.read_bytes()
    claimed = (5000).to_bytes(4, "little")
    assert content.count(claimed) == 2
    path.write_bytes(content.replace(claimed, (50).to_bytes(4, "little")))
    with pytest.raises(DataError, match="is damaged"):
        unpack(path, tmp_path / "out")
    assert sum(map(len, contents(tmp_path / "out").values())) <= 50


def test_an_archive_larger_than_the_disk_has_room_for_is_refused(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", HONEST.items())
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    refused(archive, "unpacks to 3,003 bytes and .* has room for 1; free some space")


def test_a_wrong_byte_in_a_zip_is_told_with_the_members_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/photo.jpg", b"pixels" * 100)
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace(b"pixels", b"pixelz", 1))
    with pytest.raises(DataError, match=r"x\.zip is damaged \(Bad CRC-32 for file 'a/photo.jpg'\); download it again"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


def test_a_zip_with_a_password_is_told(tmp_path):
    content = bytearray(make_zip(tmp_path / "x.zip", [("a", b"1")]).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_archive_is_refused(tmp_path, kind, share):
    content = make(kind, tmp_path / "x", [(f"{n}.bin", bytes(range(256)) * 40) for n in range(20)]).read_bytes()
    (tmp_path / "x").write_bytes(content[:int(len(content) * share)])
    refused(tmp_path / "x", "damaged")


def test_a_tar_cut_between_two_members_is_refused(tmp_path):
    content = make_tar(tmp_path / "x.tar", [("a", b"a" * 512), ("b", b"b" * 512)], "w").read_bytes()
    (tmp_path / "x.tar").write_bytes(content[:1024])
    refused(tmp_path / "x.tar", "no end mark")


def test_a_tar_that_ends_in_a_single_block_of_zeros_is_whole(tmp_path):
    content = make_tar(tmp_path / "x.tar", [("a", b"a" * 512)], "w").read_bytes()
    (tmp_path / "x.tar").write_bytes(content[:1536])
    unpack(tmp_path / "x.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"a" * 512}


def test_a_tar_with_a_damaged_header_in_the_middle_is_refused(tmp_path):
    content = bytearray(make_tar(tmp_path / "x.tar", [("a", b"a" * 512), ("b", b"b" * 512)], "w").read_bytes())
    content[1024] ^= 0xFF
    (tmp_path / "x.tar").write_bytes(content)
    refused(tmp_path / "x.tar", "no end mark")


def test_a_gzip_with_a_wrong_checksum_is_refused_before_anything_is_written(tmp_path):
    content = bytearray(make_tar(tmp_path / "x.tar.gz", HONEST.items()).read_bytes())
    content[-6] ^= 1  # in the CRC, behind everything that tar reads
    (tmp_path / "x.tar.gz").write_bytes(content)
    refused(tmp_path / "x.tar.gz", "CRC")


@pytest.mark.parametrize("content", [b"", b"<html>please log in</html>", b"\x7fELF" + bytes(600)])
def test_what_is_no_archive_is_told(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "is no zip, tar or tar.gz")


@pytest.mark.parametrize("content", [
    b"PK\x03\x04" + bytes(99), b"\x1f\x8b" + bytes(99),
    gzip.compress(b"hello", mtime=0), gzip.compress(b"hello" * 200, mtime=0)])
def test_what_begins_like_an_archive_and_is_none_is_told(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", "damaged")


def test_an_archive_of_nothing_is_nothing(tmp_path):
    unpack(make_zip(tmp_path / "x.zip", []), tmp_path / "out")
    assert contents(tmp_path / "out") == {}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("size", "text"), [
    (1000, "damaged"), (limits.FREE_ARCHIVE_BYTES, "damaged"), (limits.FREE_ARCHIVE_BYTES + 1, "unpacks to more than"),
    (0o77777777777, "unpacks to more than"), (1 << 60, "unpacks to more than")])
def test_a_size_that_a_tar_claims_and_lacks_is_told_at_once(tmp_path, size, text):
    info = tarfile.TarInfo("a")
    info.size = size
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path / "x.tar", text)


NAMES = st.lists(st.text(st.sampled_from("ab./\\:\n\0é\udc80"), min_size=1, max_size=8), min_size=1, max_size=4)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=150, deadline=None)
@given(names=NAMES, kind=st.sampled_from(["zip", "tar"]))
def test_whatever_members_are_called_nothing_lands_outside_and_nothing_is_lost(names, kind):
    if kind == "zip":
        names = [name.replace("\udc80", "_") for name in names]  # a zip's names are always text
    with tempfile.TemporaryDirectory() as root:
        archive, out = Path(root, "deep/er/x"), Path(root, "deep/er/out")
        archive.parent.mkdir(parents=True)
        if kind == "zip":
            infos = [zipfile.ZipInfo() for _ in names]
            for info, name in zip(infos, names, strict=True):
                info.filename = name
            make_zip(archive, [(info, b"" if info.is_dir() else b"x") for info in infos])
        else:
            make_tar(archive, [(name, b"x") for name in names], "w")
        try:
            unpack(archive, out)
        except DataError:
            assert not out.exists()
        else:
            files = [name for name in names if kind == "tar" or not name.endswith("/")]
            assert len(contents(out)) == len(files)
        assert {path for path in Path(root).rglob("*") if path.is_file() and out not in path.parents} == {archive}


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(["zip", "tar.gz"]), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_wrong_bit_anywhere_is_an_error_or_does_no_harm(kind, at, bit):
    with tempfile.TemporaryDirectory() as root:
        archive, out = Path(root, "x"), Path(root, "out")
        content = bytearray(make(kind, archive, HONEST.items()).read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        archive.write_bytes(content)
        try:
            unpack(archive, out)
        except DataError:
            return
        assert contents(out) == HONEST
