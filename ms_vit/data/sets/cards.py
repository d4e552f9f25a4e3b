"""Cards: what there is to know about a data set before it is downloaded. One YAML each, in datasets/."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import yaml

from ms_vit import schema
from ms_vit.errors import UsageError

PACKAGE = Path(__file__).parents[2]
# Installed, the cards lie in the package; in a working copy beside it, for `datasets` must not be importable.
CARDS = PACKAGE / "datasets" if (PACKAGE / "datasets").is_dir() else PACKAGE.parent / "datasets"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a data set as its publisher serves it.

    Args:
        url: http or https address.
        sha256: published SHA-256, in hexadecimal.
        md5: published MD5, where that is all there is.
        bytes: size.
        unpacked: what it unpacks to, path in it: MD5 or SHA-256; a folder with these will do in its place.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None
    unpacked: dict[str, str] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """http or https, as the address begins; nothing where it is none."""
        try:
            return urlsplit(self.url).scheme
        except ValueError:
            return ""

    @property
    def name(self) -> str:
        """What the file is called: the last part of the address."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def vouched(self) -> bool:
        """Whether its publisher gives a hash."""
        return bool(self.sha256 or self.md5)

    @property
    def top(self) -> str:
        """The folder in it that holds all that it unpacks to; empty where there is none."""
        return os.path.commonpath([os.path.dirname(name) for name in self.unpacked] or [""])

    @property
    def below_top(self) -> dict[str, str]:
        """What it unpacks to: path below `top` -> hash."""
        return {name[len(self.top):].lstrip("/"): hash for name, hash in self.unpacked.items()}


@dataclass(frozen=True, kw_only=True)
class Card:
    """A data set.

    Args:
        name: of the card, and of the folder that the data set lands in.
        title: a line about it.
        format: how its files are laid out; a module in ms_vit/data/sources/.
        licence: its terms.
        homepage: where its publisher describes it.
        files: what to fetch.
        classes: the class folders in label order, or class folder: name; empty where the archive's folders say it.
        mean: of the channels red, green, blue of the training images, from 0 to 1 (the default is ImageNet's).
        std: of the channels, likewise.
    """

    name: str
    title: str
    format: Literal["digits", "image-archive", "idx", "cifar-pickles"]
    licence: str
    homepage: str = ""
    files: list[RemoteFile] = field(default_factory=list)
    classes: list[str] | dict[str, str] = field(default_factory=list)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Card":
        """A published card by its name, or the user's own by the path of its .yaml. Raises UsageError."""
        path = card_file(name_or_path)
        values = schema.read_yaml(path)
        for entry in values["files"] if isinstance(values.get("files"), list) else []:
            if isinstance(entry, dict):
                schema.flatten(entry, RemoteFile, f"files of {path}")
        if "classes" in values:
            values["classes"] = as_text(values["classes"])
        card = schema.build(cls, values, str(path))
        card.validate(path)
        return card

    def validate(self, path: Path) -> None:
        """Refuses values that would lead outside the data folder or to no data."""
        if not plain_name(self.name):
            raise UsageError(f'"name" in {path} names a folder; letters, digits, ".", "_" and "-" will do')
        for folder in self.class_ids:
            if not folder or folder.startswith(".") or "/" in folder or "\\" in folder or not folder.isprintable() or \
                    len(folder.encode()) > 255:
                raise UsageError(f'"classes" in {path} name folders; {folder!r} can\'t be one')
        if len(set(self.class_ids)) < len(self.class_ids):
            raise UsageError(f'"classes" in {path} has a name twice')
        if bool(self.files) == (self.format == "digits"):
            raise UsageError(f'"files" in {path} must {"be empty" if self.files else "say what to download"}')
        for file in self.files:
            if file.scheme not in ("http", "https") or not plain_name(file.name):
                raise UsageError(f'"url" in {path} must be the http(s) address of a file, not {file.url!r}')
            for key, digits in (("sha256", 64), ("md5", 32)):
                value = getattr(file, key)
                if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                    raise UsageError(f'"{key}" in {path} must be {digits} hexadecimal digits in lower case')
            if file.bytes is not None and file.bytes < 0:
                raise UsageError(f'"bytes" in {path} must be at least 0')
            self.validate_unpacked(file, path)
        if len({file.name for file in self.files}) < len(self.files):
            raise UsageError(f'"files" in {path} has two files of one name')
        if not all(map(math.isfinite, self.mean)):
            raise UsageError(f'"mean" in {path} must be three numbers')
        if not all(0 < value < math.inf for value in self.std):
            raise UsageError(f'"std" in {path} must be three numbers above 0')

    def validate_unpacked(self, file: RemoteFile, path: Path) -> None:
        """Refuses what can't be the content of a file, or be used where that was unpacked."""
        if file.unpacked and self.format != "cifar-pickles":
            raise UsageError(f'"unpacked" in {path} goes with format cifar-pickles; {self.format} is read from what '
                             "is fetched")
        for name, hash in file.unpacked.items():
            # YAML makes a number of 7, which jsonargparse lets pass where a key should be text.
            if not isinstance(name, str) or not all(map(plain_name, name.split("/"))):
                raise UsageError(f'"unpacked" in {path} names files by their path in the archive, not {name!r}')
            if not re.fullmatch("[0-9a-f]{32}|[0-9a-f]{64}", hash):
                raise UsageError(f'"unpacked" in {path} must give each file its MD5 or SHA-256, 32 or 64 hexadecimal '
                                 f"digits in lower case, not {hash!r}")

    @property
    def class_ids(self) -> list[str]:
        """The class folders in label order."""
        return list(self.classes)

    @property
    def class_names(self) -> dict[str, str]:
        """Class folder -> name."""
        return self.classes if isinstance(self.classes, dict) else {id: id for id in self.classes}

    def to_yaml(self) -> str:
        values = dataclasses.asdict(self)
        return yaml.safe_dump(values | {"mean": list(self.mean), "std": list(self.std)}, sort_keys=False, width=120,
                              allow_unicode=True)


def card_of(folder: Path) -> Card | None:
    """The card that a data folder was downloaded by; None where it wasn't. Raises UsageError where it is damaged."""
    file = folder / "card.yaml"
    return Card.load(file) if file.is_file() else None


def card_file(name_or_path: str | Path) -> Path:
    """The file of a published card's name, or the given file."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    published = CARDS / f"{name_or_path}.yaml"
    if not plain_name(str(name_or_path)) or not published.is_file():
        raise UsageError(f'no card "{name_or_path}"; give one of {", ".join(published_names())}, '
                         "or the path of a .yaml file")
    return published


def published_names() -> list[str]:
    return sorted(file.stem for file in CARDS.glob("*.yaml"))


def plain_name(text: str) -> bool:
    """Whether this can be the name of a file that is neither hidden nor elsewhere."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]{,199}", text))       # a suffix or two must have room


def as_text(classes: Any) -> Any:
    """Numbers that YAML made of class names such as 7, as text again."""
    if isinstance(classes, dict):
        return {str(id): str(name) for id, name in classes.items()}
    return [str(id) for id in classes] if isinstance(classes, list) else classes
