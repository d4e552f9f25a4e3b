"""The verb download: verified or nothing, resumed where it broke off, and one clear line when it can't be."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from conftest import wait_for
from packing import ODDITIES, cifar, make_zip, put

from ms_vit.data.labels import read_labels
from ms_vit.data.sets import fetch as fetching
from ms_vit.data.sets.cards import Card, RemoteFile
from ms_vit.data.sets.fetch import fetch
from ms_vit.data.sets.sources import image_archive
from ms_vit.download import download, main
from ms_vit.errors import DataError, UsageError

CONTENT = os.urandom(300_000)  # what the servers serve; it doesn't compress


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def remote(tmp_path) -> Path:
    """A folder to serve, with one file."""
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote/file.bin").write_bytes(CONTENT)
    return tmp_path / "remote"


def file_at(url: str, **known: object) -> RemoteFile:
    return RemoteFile(url=f"{url}/file.bin", **({"sha256": sha256(CONTENT)} | known))  # type: ignore[arg-type]


def told(error: Exception) -> str:
    """An error's text, which must be one line."""
    text = str(error)
    assert "\n" not in text
    return text


# ------------------------------------------------------------------------------------------------- fetching a file

def test_a_file_is_fetched_and_nothing_else_is_left(serve, remote, tmp_path):
    path = fetch(file_at(serve(remote).url, bytes=len(CONTENT), md5=hashlib.md5(CONTENT).hexdigest()), None,
                 tmp_path / "out")
    assert path.read_bytes() == CONTENT
    assert not path.with_name("file.bin.part").exists()


def test_its_progress_goes_to_stderr(serve, remote, tmp_path, capsys):
    fetch(file_at(serve(remote).url), None, tmp_path / "out")
    assert capsys.readouterr().out == ""


def test_progress_in_a_log_file_is_a_plain_line_now_and_then(serve, remote, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetching, "LOG_EVERY", 0.0)
    fetch(file_at(serve(remote).url), None, tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("file.bin: ") and "\r" not in line for line in lines)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_drops_keeps_the_part_and_the_next_run_ends_it(serve, remote, tmp_path, ranges):
    server = serve(remote)
    server.drop_at, server.ranges = 100_000, ranges
    with pytest.raises(DataError, match="broke off after 100,000 bytes, which are kept; run the same command again"):
        fetch(file_at(server.url), None, tmp_path / "out")
    assert (tmp_path / "out/file.bin.part").read_bytes() == CONTENT[:100_000]
    server.drop_at = None
    server.asked.clear()
    assert fetch(file_at(server.url), None, tmp_path / "out").read_bytes() == CONTENT
    assert ("/file.bin", "bytes=100000-") in server.asked


def test_a_server_that_tells_no_length_works(serve, remote, tmp_path):
    server = serve(remote)
    server.lengths = False
    assert fetch(file_at(server.url), None, tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("lengths", [True, False])
def test_a_part_larger_than_the_remote_file_is_thrown_away(serve, remote, tmp_path, lengths):
    server = serve(remote)
    server.lengths = lengths
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(file_at(server.url), None, tmp_path / "out").read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_completed(serve, remote, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file.bin.part").write_bytes(CONTENT)
    assert fetch(file_at(serve(remote).url), None, tmp_path / "out").read_bytes() == CONTENT


def test_tampered_bytes_are_deleted_and_told_with_both_hashes(serve, remote, tmp_path):
    (remote / "file.bin").write_bytes(tampered := CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(DataError) as caught:
        fetch(file_at(serve(remote).url), None, tmp_path / "out")
    assert f"expected sha256 {sha256(CONTENT)}, got {sha256(tampered)}; it was deleted" in told(caught.value)
    assert not list(tmp_path.glob("out/file.bin*[!l]"))


@pytest.mark.parametrize(("known", "text"), [
    ({"sha256": None, "md5": "0" * 32}, "expected md5 0{32}, got [0-9a-f]{32}; it was deleted"),
    ({"bytes": 299_999}, "expected 299,999 bytes, got 300,000; it was deleted"),
])
def test_a_wrong_md5_or_size_is_told(serve, remote, tmp_path, known, text):
    with pytest.raises(DataError, match=text):
        fetch(file_at(serve(remote).url, **known), None, tmp_path / "out")
    assert not (tmp_path / "out/file.bin").exists()


def test_a_part_of_other_bytes_is_found_out_by_the_hash(serve, remote, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file.bin.part").write_bytes(b"x" * 1000)
    server = serve(remote)
    with pytest.raises(DataError, match="it was deleted - run the same command again"):
        fetch(file_at(server.url), None, tmp_path / "out")
    assert fetch(file_at(server.url), None, tmp_path / "out").read_bytes() == CONTENT


def test_without_a_hash_a_part_from_another_address_is_not_gone_on_with(serve, remote, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file.bin").write_bytes(b"o" * 200_000)
    first = serve(other)
    first.drop_at = 50_000
    with pytest.raises(DataError, match="broke off"):
        fetch(file_at(first.url, sha256=None), None, tmp_path / "out")
    assert fetch(file_at(serve(remote).url, sha256=None), None, tmp_path / "out").read_bytes() == CONTENT


def test_404_is_told(serve, remote, tmp_path):
    with pytest.raises(DataError, match=r"can't fetch http://127.*/none: the server says 404 Not Found; check"):
        fetch(RemoteFile(url=f"{serve(remote).url}/none"), None, tmp_path / "out")


def test_an_overloaded_server_is_told(serve, remote, tmp_path):
    server = serve(remote)
    server.status = 503
    with pytest.raises(DataError, match="the server says 503"):
        fetch(file_at(server.url), None, tmp_path / "out")


def test_a_refused_connection_is_told(tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        with pytest.raises(DataError, match="the connection was refused; check the address, or give another"):
            fetch(file_at(f"http://127.0.0.1:{bound.getsockname()[1]}"), None, tmp_path / "out")


def test_what_is_no_answer_of_a_web_server_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(b"220 mail.example.org ready\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(DataError, match=r"can't fetch http://127.*220 mail\.example\.org ready; check the"):
            fetch(file_at(f"http://127.0.0.1:{server.getsockname()[1]}"), None, tmp_path / "out")


def test_an_unknown_host_is_told(tmp_path):
    with pytest.raises(DataError, match="there is no such host, or no network"):
        fetch(file_at("http://no-such-host.invalid"), None, tmp_path / "out")


def test_a_server_that_falls_silent_is_given_up_and_its_part_kept(serve, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.5)
    server = serve(remote)
    server.stall_at = 100_000
    with pytest.raises(DataError, match=r"no answer within 0\.5 s; run the same command again to go on from there, or"):
        fetch(file_at(server.url), None, tmp_path / "out")
    assert (tmp_path / "out/file.bin.part").stat().st_size > 0
    server.stall_at = None
    assert fetch(file_at(server.url), None, tmp_path / "out").read_bytes() == CONTENT
    assert socket.getdefaulttimeout() is None


def test_an_address_that_is_none_is_told(tmp_path):
    with pytest.raises(DataError, match=r"can't fetch http://127\.0\.0\.1:99999/file\.bin: "):
        fetch(file_at("http://127.0.0.1:99999"), None, tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told(serve, remote, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file.bin.part").symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(DataError, match=r"the disk is full: .*out can't take file\.bin; free some space, then run"):
        fetch(file_at(serve(remote).url), None, tmp_path / "out")


# --------------------------------------------------------------------------------------------------------- --source

@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_local_source_is_used_in_place(remote, tmp_path, form):
    source = remote / "file.bin" if form == "file" else remote
    path = fetch(file_at("http://no-such-host.invalid"), str(source), tmp_path / "out")
    assert path == remote / "file.bin" and not (tmp_path / "out").exists()


def test_a_local_source_of_other_bytes_is_told_and_stays(remote, tmp_path):
    with pytest.raises(DataError, match=r"file\.bin is not the card's file\.bin: expected sha256 0{64}, got "):
        fetch(file_at("http://a.invalid", sha256="0" * 64), str(remote), tmp_path / "out")
    assert (remote / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_local_source_that_is_no_file_is_told(tmp_path, oddity):
    ODDITIES[oddity](tmp_path / "file.bin")
    for source in (tmp_path, tmp_path / "file.bin"):
        with pytest.raises(DataError, match=r"there is no file .*file\.bin; --source takes"):
            fetch(file_at("http://a.invalid"), str(source), tmp_path / "out")


def test_a_local_source_is_held_to_the_cards_size(remote, tmp_path):
    assert fetch(file_at("http://a.invalid", bytes=len(CONTENT)), str(remote), tmp_path / "out") == remote / "file.bin"
    with pytest.raises(DataError, match="expected 0 bytes, got 300,000; give the right file with --source"):
        fetch(file_at("http://a.invalid", bytes=0), str(remote), tmp_path / "out")


@pytest.mark.parametrize("end", ["/file.bin", "/", "/renamed.bin"])
def test_a_source_can_be_the_url_of_a_file_or_of_a_folder(serve, remote, tmp_path, end):
    (remote / "renamed.bin").write_bytes(CONTENT)
    path = fetch(file_at("http://no-such-host.invalid"), serve(remote).url + end, tmp_path / "out")
    assert path.name == "file.bin" and path.read_bytes() == CONTENT


# ---------------------------------------------------------------------------------------------------------- the verb

IMAGES = {"top/train/a/1.png": b"one", "top/val/a/2.png": b"two", "top/infer/3.png": os.urandom(200_000)}


@pytest.fixture
def archive(remote) -> Path:
    """An archive of images to serve, with no hash known of it."""
    return make_zip(remote / "pets.zip", IMAGES.items())


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


def card(folder: Path, url: str, **known: object) -> str:
    path = folder / "pets.yaml"
    path.write_text(yaml.safe_dump({"name": "pets", "title": "pets", "format": "image-archive", "licence": "CC0",
                                    "files": [{"url": f"{url}/pets.zip", **known}]}))
    return str(path)


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in [root, *root.rglob("*")]}


def test_a_data_set_is_fetched_laid_out_and_listed(serve, archive, tmp_path, root):
    result = download(card(tmp_path, serve(archive.parent).url), root)
    assert (result.card, result.folder, result.files, result.new) == ("pets", root / "pets", 4, True)
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["pets.sha256", "pets/SHA256SUMS", "pets/card.yaml", "pets/infer/3.png", "pets/train/a/1.png",
                     "pets/val/a/2.png"]
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=root / "pets", check=True)
    assert Card.load(root / "pets/card.yaml").name == "pets"


def test_a_second_run_verifies_and_does_nothing_else(serve, archive, tmp_path, root):
    server = serve(archive.parent)
    name = card(tmp_path, server.url)
    download(name, root)
    before = snapshot(root)
    server.asked.clear()
    result = download(name, root)
    assert not result.new and result.files == 4 and server.asked == []
    assert snapshot(root) == before


def test_a_folder_that_was_changed_is_told(serve, archive, tmp_path, root):
    name = card(tmp_path, serve(archive.parent).url)
    download(name, root)
    (root / "pets/train/a/1.png").write_bytes(b"1ne")
    (root / "pets/val/a/2.png").unlink()
    with pytest.raises(DataError) as caught:
        download(name, root)
    assert told(caught.value) == (f"{root}/pets is not as it was downloaded: train/a/1.png has changed, "
                                  "val/a/2.png is missing; delete the folder and run the same command again")


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_folder_that_is_not_ours_is_left_alone(root, oddity):
    (root / "digits").mkdir(parents=True)
    ODDITIES[oddity](root / "digits/SHA256SUMS")
    with pytest.raises(DataError, match="exists and is no download of ours; move it away, or give another --root"):
        download("digits", root)
    assert left(root) == ["digits"]


def test_a_transfer_that_broke_off_leaves_its_part_and_the_next_run_goes_on(serve, archive, tmp_path, root):
    server = serve(archive.parent)
    server.drop_at = 100_000
    name = card(tmp_path, server.url)
    with pytest.raises(DataError, match="broke off after 100,000 bytes"):
        download(name, root)
    assert left(root) == [".pets.part"]
    server.drop_at = None
    download(name, root)
    assert ("/pets.zip", "bytes=100000-") in server.asked
    assert left(root) == ["pets", "pets.sha256"]


def test_a_run_that_is_interrupted_leaves_only_the_part(serve, archive, tmp_path, root):
    server = serve(archive.parent)
    server.stall_at = 100_000
    command = [sys.executable, "-m", "ms_vit.download", card(tmp_path, server.url), "--root", str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        part = root / ".pets.part/pets.zip.part"
        wait_for(lambda: part.exists() and len(server.asked) == 3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert left(root) == [".pets.part"]
    server.stall_at = None
    download(str(tmp_path / "pets.yaml"), root)
    assert left(root) == ["pets", "pets.sha256"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, RuntimeError])
def test_a_run_that_fails_as_it_lays_out_leaves_nothing_half_made(serve, archive, tmp_path, root, monkeypatch, error):
    def fail(files: list[Path], out: Path, card: Card) -> None:
        (out / "train").mkdir()
        raise error("x")

    content = archive.read_bytes()
    name = card(tmp_path, serve(archive.parent).url, sha256=sha256(content))
    with monkeypatch.context() as patched:
        patched.setattr(image_archive, "lay_out", fail)
        with pytest.raises(error):
            download(name, root)
    assert left(root) == [".pets.part"], "the download was verified; it needn't be fetched again"
    assert (root / ".pets.part/pets.zip").read_bytes() == content
    archive.unlink()
    download(name, root)
    assert left(root) == ["pets"]


def test_what_a_killed_run_left_is_cleared_away(serve, archive, tmp_path, root):
    (root / ".pets.work/train/a").mkdir(parents=True)
    (root / ".pets.work/train/a/stale.png").touch()
    download(card(tmp_path, serve(archive.parent).url), root)
    assert left(root) == ["pets", "pets.sha256"] and not list(root.rglob("stale.png"))


def test_a_full_disk_while_laying_out_is_told_and_the_download_kept(serve, archive, tmp_path, root, monkeypatch):
    def fail(files: list[Path], out: Path, card: Card) -> None:
        (out / "train").mkdir()
        (out / "train/1.png").symlink_to("/dev/full")
        (out / "train/1.png").write_bytes(b"x")

    with monkeypatch.context() as patched:
        patched.setattr(image_archive, "lay_out", fail)
        with pytest.raises(DataError, match=f"the disk is full: {root} can't take pets; free some space, then run"):
            download(card(tmp_path, serve(archive.parent).url), root)
    assert left(root) == [".pets.part"] and (root / ".pets.part/pets.zip").exists()


def test_a_bad_archive_without_a_known_hash_is_fetched_anew(serve, archive, tmp_path, root):
    good = archive.read_bytes()
    archive.write_bytes(good[:1000] + bytes(1000) + good[2000:])
    name = card(tmp_path, serve(archive.parent).url)
    with pytest.raises(DataError, match=r"pets\.zip is damaged"):
        download(name, root)
    archive.write_bytes(good)
    assert download(name, root).new
    assert left(root) == ["pets", "pets.sha256"]


def test_a_hostile_archive_leaves_nothing(serve, archive, tmp_path, root):
    make_zip(archive, [*IMAGES.items(), ("../../evil.sh", b"")])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"'\.\./\.\./evil\.sh' climbs out of its folder"):
        download(card(tmp_path, serve(archive.parent).url), root)
    assert set(tmp_path.rglob("*")) - set(before) == {tmp_path / "pets.yaml", root} and left(root) == []


def test_without_a_published_hash_the_first_good_download_is_held_to(serve, archive, tmp_path, root):
    name = card(tmp_path, serve(archive.parent).url)
    download(name, root)
    assert (root / "pets.sha256").read_text() == f"{sha256(archive.read_bytes())}  pets.zip\n"
    (root / "pets").rename(tmp_path / "away")
    make_zip(archive, [*IMAGES.items(), ("top/train/a/new.png", b"new")])
    with pytest.raises(DataError) as caught:
        download(name, root)
    assert "differs from the pets.zip that was good before" in told(caught.value)
    assert f"delete {root}/pets.sha256 and run the command again" in told(caught.value)
    assert not (root / "pets").exists() and not (root / ".pets.part/pets.zip").exists()
    (root / "pets.sha256").unlink()
    assert download(name, root).files == 5


@pytest.mark.parametrize("content", ["hello", b"\xff\xfe", "0" * 64 + "  ../pets.zip"])
def test_a_damaged_record_of_the_first_download_is_told(archive, tmp_path, root, content):
    put(root / "pets.sha256", content)
    with pytest.raises(DataError, match=r"pets\.sha256 is damaged( at line 1)?; delete"):
        download(card(tmp_path, "http://a.invalid"), root, str(archive))
    assert left(root) == ["pets.sha256"] and archive.exists()


def test_a_record_of_other_files_holds_nobody(archive, tmp_path, root):
    put(root / "pets.sha256", other := "0" * 64 + "  other.zip\n")
    download(card(tmp_path, "http://a.invalid"), root, str(archive))
    assert (root / "pets.sha256").read_text() == f"{other}{sha256(archive.read_bytes())}  pets.zip\n"


@pytest.mark.parametrize("name", ["SHA256SUMS", "card.yaml"])
def test_an_archive_with_a_folder_where_we_write_is_an_error_and_leaves_nothing(archive, tmp_path, root, name):
    make_zip(archive, [*IMAGES.items(), (f"top/{name}/x", b"")])
    assert main([card(tmp_path, "http://a.invalid"), "--root", str(root), "--source", str(archive)]) == 1
    assert left(root) == []


def test_a_local_source_survives_failure_and_success(archive, tmp_path, root):
    good = archive.read_bytes()
    name = card(tmp_path, "http://no-such-host.invalid")
    archive.write_bytes(good[:-100])
    with pytest.raises(DataError):
        download(name, root, str(archive))
    assert archive.read_bytes() == good[:-100]
    archive.write_bytes(good)
    assert download(name, root, str(archive)).new
    assert archive.read_bytes() == good and left(root) == ["pets", "pets.sha256"]


def test_two_downloads_of_one_card_dont_write_into_one_another(serve, archive, tmp_path, root):
    server = serve(archive.parent)
    server.stall_at = 1000
    name = card(tmp_path, server.url)
    command = [sys.executable, "-m", "ms_vit.download", name, "--root", str(root)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1]) as process:
        wait_for(lambda: bool(server.asked))
        with pytest.raises(DataError, match=f"another download of pets is writing to {root}; wait for it"):
            download(name, root)
        process.kill()
    server.stall_at = None
    assert download(name, root).new, "the lock of a killed process is gone"


def test_the_imagenet_subset_comes_from_a_mirror(serve, shared_data, root):
    server = serve(shared_data)
    result = download("imagenet-subset", root, f"{server.url}/imagenet_mini.zip")
    folder = root / "imagenet-subset"
    assert result.folder == folder and result.files == 1412
    assert sorted(path.name for path in folder.iterdir()) == [
        "ILSVRC2012_devkit_t12", "SHA256SUMS", "card.yaml", "infer", "train", "val"]
    labels = read_labels(folder)
    assert labels.names[labels.ids.index("n02102040")] == "English springer"
    assert left(root) == ["imagenet-subset", "imagenet-subset.sha256"]


def test_cifar10s_hash_is_held_to(shared_data, root):
    # The rebuilt tar.gz has the publisher's files in it and is not the publisher's tar.gz.
    with pytest.raises(DataError, match=r"expected 170,498,071 bytes, got [0-9,]+; give the right file with --source"):
        download("cifar10", root, str(shared_data))
    assert left(root) == []


@pytest.fixture
def batches(tmp_path) -> Path:
    """A small data set like CIFAR-10, packed and unpacked, alone in a folder."""
    (tmp_path / "own").mkdir()
    cifar(tmp_path / "own")
    return tmp_path / "own/cifar-10-batches-py"


def card_of(batches: Path) -> str:
    """Its card, with MD5s and SHA-256s of what is in the archive, and none of the archive itself."""
    hashes = {f"{batches.name}/{path.name}": (hashlib.sha256 if path.name > "data_batch_3" else hashlib.md5)(
        path.read_bytes()).hexdigest() for path in batches.iterdir()}
    values = {"name": "tiny", "title": "tiny", "format": "cifar-pickles", "licence": "CC0",
              "files": [{"url": "http://no-such-host.invalid/cifar.tar.gz", "unpacked": hashes}],
              "classes": Card.load("cifar10").class_ids}
    (path := batches.parents[1] / "tiny.yaml").write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("given", ["the folder", "the one around it", "under another name", "with its archive"])
def test_what_a_file_unpacks_to_stands_in_for_it_and_stays_as_it_is(batches, root, tmp_path, given):
    name = card_of(batches)
    assert main([name, "--root", str(tmp_path / "packed"), "--source", str(batches.parent / "cifar.tar.gz")]) == 0
    if given != "with its archive":
        (batches.parent / "cifar.tar.gz").unlink()
    source = batches.parent if given in ("the one around it", "with its archive") else batches
    if given == "under another name":
        source = batches.rename(batches.with_name("cifar"))
    before = snapshot(batches.parent)
    assert main([name, "--root", str(root), "--source", str(source)]) == 0
    assert snapshot(batches.parent) == before
    sums = [(folder / "tiny/SHA256SUMS").read_text() for folder in (root, tmp_path / "packed")]
    assert sums[0] == sums[1] and len(sums[0].splitlines()) == 13
    assert left(root) == ["tiny", "tiny.sha256"] if given == "with its archive" else ["tiny"]
    assert main([name, "--root", str(root)]) == 0, "it verifies"


@pytest.mark.parametrize(("damage", "says"), [
    ("differs", r"data_batch_2 is not the card's: expected md5 [0-9a-f]{32}, got [0-9a-f]{32}; unpack cifar"),
    ("differs later", r"test_batch is not the card's: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}; unpack"),
    ("is missing", r"data_batch_2 is missing; give all that cifar\.tar\.gz unpacks to with --source"),
    ("is a folder", r"data_batch_2 is missing"),
    ("all missing", r"there is no file .*/cifar\.tar\.gz; --source takes a file, a folder that holds cifar\.tar\.gz or "
                    r"its files unpacked, or a URL"),
])
def test_unpacked_files_that_are_not_the_cards_are_told_in_one_line(batches, root, capsys, damage, says):
    name = card_of(batches)
    (batches.parent / "cifar.tar.gz").unlink()
    changed = batches / ("test_batch" if damage == "differs later" else "data_batch_2")
    if damage.startswith("differs"):
        changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    elif damage == "all missing":
        for path in batches.iterdir():
            path.unlink()
    else:
        changed.unlink()
        if damage == "is a folder":
            changed.mkdir()
    for source in (batches, batches.parent):
        assert main([name, "--root", str(root), "--source", str(source)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.match(f"ms-vit: .*{says}", line), line
        assert left(root) == []


def test_a_source_must_hold_all_files_of_a_card(tmp_path, root):
    with pytest.raises(UsageError, match="mnist has 4 files; --source must be a folder that holds them"):
        download("mnist", root, "http://a.invalid/train-images-idx3-ubyte.gz")
    with pytest.raises(UsageError, match="digits comes with scikit-learn and is not fetched; leave out --source"):
        download("digits", root, str(tmp_path))
    assert not root.exists()


def test_digits_need_no_network_and_the_command_prints_json(root, capsys, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it went to the network"))
    assert main(["digits", "--root", str(root), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["card"] == "digits" and result["folder"] == f"{root}/digits" and result["files"] == 1798
    assert main(["digits", "--root", str(root)]) == 0
    assert capsys.readouterr().err.rstrip().endswith("1,798 files verified")


def test_the_command_tells_a_mistake_in_one_line(root, capsys):
    assert main(["digts", "--root", str(root)]) == 2
    assert capsys.readouterr().err.startswith('ms-vit: no card "digts"; give one of cifar10, digits')
