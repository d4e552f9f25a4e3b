"""Fetching a file of a card: from its publisher, a mirror or this machine; resumed where it broke off; verified."""

import contextlib
import errno
import http.client
import io
import socket
import ssl
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

from download import download

from ms_vit.data.sets import manifest
from ms_vit.data.sets.cards import RemoteFile
from ms_vit.errors import DataError

TIMEOUT = 30.0  # seconds without a byte after which a transfer counts as broken off
LOG_EVERY = 10.0  # seconds between two lines of progress in a log file
FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(file: RemoteFile, source: str | None, folder: Path) -> Path:
    """Gets `file` and returns where it is.

    `source` stands in for its address: a file or a folder that holds it, which is used in place, or the URL of the file
    or (ending in "/") of a folder. Where the card tells what the file unpacks to, a folder with that will do, too, and
    is what is returned. A transfer goes to `folder`; one that breaks off leaves NAME.part there, from which the next
    goes on. Raises DataError where the file can't be had or isn't what the card says.
    """
    if source and not is_url(source):
        path = local(file, Path(source).expanduser())
        if path.is_dir():
            hold_to_card(file, path)
            return path
        if problem := difference(file, path):
            raise DataError(f"{path} is not the card's {file.name}: {problem}; give the right file with --source")
        return path
    url = file.url if not source else source + file.name if source.endswith("/") else source
    path = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    forget_others(file, url, path)
    if not path.exists():
        transfer(url, path)
    if problem := difference(file, path):
        path.unlink()
        raise DataError(f"{url} is not the card's {file.name}: {problem}; it was deleted - run the same command again, "
                        "and if that doesn't help give another address with --source")
    return path


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def local(file: RemoteFile, source: Path) -> Path:
    """The file on this machine that `source` means: itself, or the one of the right name in a folder.

    Without that, the folder of what it unpacks to, where any of it is there: `source` itself or the one in it.
    """
    path = source / file.name if source.is_dir() else source
    if path.is_file():
        return path
    for place in (source / file.top, source):
        if any((place / name).is_file() for name in file.below_top):
            return place
    unpacked = " or its files unpacked" if file.unpacked else ""
    raise DataError(f"there is no file {path}; --source takes a file, a folder that holds {file.name}{unpacked}, "
                    "or a URL")


def hold_to_card(file: RemoteFile, folder: Path) -> None:
    """Raises DataError unless all that the file unpacks to lies in `folder` as the card says."""
    for name, expected in file.below_top.items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; give all that {file.name} unpacks to with --source")
        algorithm = "md5" if len(expected) == 32 else "sha256"
        if problem := wrong_hash(folder / name, algorithm, expected):
            raise DataError(f"{folder / name} is not the card's: {problem}; unpack {file.name} anew, or give another "
                            "--source")


def difference(file: RemoteFile, path: Path) -> str | None:
    """How the file at `path` differs from what the card says; None where it doesn't."""
    if file.bytes is not None and (size := path.stat().st_size) != file.bytes:
        return f"expected {file.bytes:,} bytes, got {size:,}"
    for algorithm, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected and (problem := wrong_hash(path, algorithm, expected)):
            return problem
    return None


def wrong_hash(path: Path, algorithm: str, expected: str) -> str | None:
    got = manifest.digest(path, algorithm)
    return f"expected {algorithm} {expected}, got {got}" if got != expected else None


def forget_others(file: RemoteFile, url: str, path: Path) -> None:
    """Drops what an earlier transfer from another address left, where no hash could tell the mixture of the two."""
    origin = path.with_name(f"{path.name}.url")
    if not file.vouched and not (origin.exists() and origin.read_text(encoding="utf-8") == url):
        path.unlink(missing_ok=True)
        part_of(path).unlink(missing_ok=True)
    origin.write_text(url, encoding="utf-8")


def tidy(folder: Path) -> None:
    """Removes the notes of transfers of which nothing is left, and `folder` itself if that empties it."""
    for origin in folder.glob("*.url"):
        path = origin.with_suffix("")
        if not path.exists() and not part_of(path).exists():
            origin.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def part_of(path: Path) -> Path:
    """Where the package `download` keeps an unfinished transfer to `path`."""
    return path.with_name(f"{path.name}.part")


def transfer(url: str, path: Path) -> None:
    """Downloads to `path`, going on from its .part. Raises DataError; what can be resumed stays."""
    for attempt in ("go on from the part", "start anew"):
        cause: BaseException | None
        try:
            with reporting(path.name), socket_timeout(TIMEOUT):
                # replace: the package returns without a word where the file exists, and it doesn't, here.
                download(url, str(path.absolute()), replace=True, timeout=TIMEOUT, verbose=False)
            return
        except RuntimeError as error:
            cause = error.__context__  # the package wraps whatever went wrong, and only keeps its text
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error
        if attempt == "go on from the part" and unusable(cause) and part_of(path).exists():
            part_of(path).unlink()
            continue
        raise DataError(explain(cause, url, path)) from cause


def unusable(cause: BaseException | None) -> bool:
    """Whether the package found a .part that doesn't belong to the remote file: larger, or of another length."""
    text = str(cause)
    return "larger than remote" in text or "could not be parsed" in text


def explain(cause: BaseException | None, url: str, path: Path) -> str:
    """One line: what is wrong, where, what to do."""
    again = "run the same command again to go on from there"
    elsewhere = "check the address, or give another or a local file with --source"
    if isinstance(cause, OSError) and cause.errno in FULL:
        return f"the disk is full: {path.parent} can't take {path.name}; free some space, then {again}"
    if isinstance(cause, urllib.error.HTTPError):
        return f"can't fetch {url}: the server says {cause.code} {cause.reason}; {elsewhere}"
    reason = cause.reason if isinstance(cause, urllib.error.URLError) else cause
    if isinstance(reason, ssl.SSLError):
        return f"can't fetch {url}: its certificate is not trusted here; {elsewhere}"
    if isinstance(reason, socket.gaierror):
        return f"can't fetch {url}: there is no such host, or no network; {elsewhere}"
    if isinstance(reason, ConnectionRefusedError):
        return f"can't fetch {url}: the connection was refused; {elsewhere}"
    if isinstance(reason, TimeoutError):
        return f"can't fetch {url}: no answer within {TIMEOUT:g} s; {again}, or {elsewhere}"
    if part_of(path).exists() and not isinstance(cause, urllib.error.URLError):
        return f"{url} broke off after {part_of(path).stat().st_size:,} bytes, which are kept; {again}"
    text = (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).splitlines()[0]
    return f"can't fetch {url}: {text.lower()}; {elsewhere}"


@contextlib.contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """The package sets no timeout on the transfer itself; without one a silent server would hold it for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def reporting(name: str) -> Iterator[None]:
    """What the package prints goes to stderr: stdout is for results."""
    with contextlib.redirect_stdout(Report(name)):
        yield
    if sys.stderr.isatty():
        sys.stderr.write("\n")


class Report(io.TextIOBase):
    """The package's bar under the file's name: as it is on a terminal, a line now and then in a log file."""

    def __init__(self, name: str):
        self.name = name
        self.last = time.monotonic()

    def write(self, text: str) -> int:
        if text.startswith("\r") and not sys.stderr.isatty():
            if time.monotonic() - self.last > LOG_EVERY:
                self.last = time.monotonic()
                sys.stderr.write(text.strip().replace("file_sizes", self.name) + "\n")
        elif text.strip() or sys.stderr.isatty():
            sys.stderr.write(text.replace("file_sizes", self.name))
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


def hold_to_record(file: RemoteFile, path: Path, record: Path) -> None:
    """A file whose publisher gives no hash must be the one that was good before, by `record` (SHA256SUMS lines)."""
    expected = manifest.parse(record).get(file.name) if record.is_file() else None
    if expected and (got := manifest.digest(path)) != expected:
        raise DataError(f"{path} differs from the {file.name} that was good before: expected sha256 {expected}, "
                        f"got {got}; if its publisher has changed the data, delete {record} and run the command again")


def add_to_record(file: RemoteFile, path: Path, record: Path) -> None:
    """Notes the SHA-256 of a good file."""
    entries = manifest.parse(record) if record.is_file() else {}
    entries[file.name] = manifest.digest(path)
    manifest.save(entries, record)
