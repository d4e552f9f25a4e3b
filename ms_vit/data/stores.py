"""Where the images of a split lie: as files in class folders, or packed into shards. Both are asked the same.

An image is told by its row: its number among all names, CLASS/NAME, in their order.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from ms_vit import limits
from ms_vit.data.folder import class_folders, flat_classes, images_of, indexed
from ms_vit.errors import DataError

if TYPE_CHECKING:       # where it is used: labels and counts don't need to wait for it
    import mindspore.dataset as ds

PACK = "pack.json"      # of a split that is packed: its classes, and its shards with the names of their images
SHARD = ".mindrecord"   # what a shard's file ends in


class ClassFolders:
    """Images that are files of their own, CLASS/NAME below `folder`; of a flat data folder, infer/ is no class."""

    def __init__(self, folder: Path, *, flat: bool = False):
        self.folder = folder
        self.flat = flat

    def class_folders(self) -> list[Path]:
        return flat_classes(self.folder) if self.flat else class_folders(self.folder)

    def classes(self) -> list[str]:
        return [folder.name for folder in self.class_folders()]

    def images(self) -> dict[str, list[Path]]:
        """Class -> its images, sorted; a class without images has an empty list."""
        return {folder.name: list(images_of(folder)) for folder in self.class_folders()}

    @cached_property
    def names(self) -> list[str]:
        """CLASS/NAME by row: all that MindSpore gives an index to, hidden ones, too."""
        self.changed = self.changes()
        return self.listed()

    def listed(self) -> list[str]:
        return [f"{folder.name}/{name}" for folder in self.class_folders() for name in indexed(folder)]

    def changes(self) -> list[tuple[str, int]]:
        """When something came into each class folder, or went, for the last time."""
        return [(folder.name, folder.stat().st_mtime_ns) for folder in self.class_folders()]

    def dataset(self, rows: Sequence[int], class_index: Mapping[str, int], workers: int) -> "ds.Dataset":
        """A pipeline of these rows: "image", the bytes of the file [n] uint8, and "label", by `class_index`.

        Raises DataError where files came or went, as MindSpore lists the folder anew and a file more or less would
        shift the rows of all after it.
        """
        import mindspore.dataset as ds

        names = self.names
        if (now := self.changes()) != self.changed:     # else there is no need to list a million files again
            if differing := set(names) ^ set(self.listed()):
                raise DataError(f"{self.folder / min(differing)} came or went while {self.folder} was used; leave it "
                                "alone, and give the command again")
            self.changed = now
        endings = sorted({Path(name).suffix for name in names})     # in the case that they are written in
        # Folders without a class index are passed over.
        return ds.ImageFolderDataset(str(self.folder), sampler=ds.SubsetSampler(rows), extensions=endings,
                                     num_parallel_workers=workers, class_indexing=dict(class_index))

    def open(self, row: int) -> BinaryIO:
        """The file of one image. Raises OSError."""
        return (self.folder / self.names[row]).open("rb")


class Shards:
    """Images that were packed (packing.py): the bytes of their files, in the order of their names.

    Raises DataError where a shard is missing, or its size or what MindRecord has to say of it is another than when it
    was written: MindSpore would end the process. `ms-vit check` compares every byte.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.index = read_index(folder / PACK)

    def classes(self) -> list[str]:
        return list(self.index["classes"])

    def images(self) -> dict[str, list[Path]]:
        """Class -> where its images would lie as files, sorted."""
        found: dict[str, list[Path]] = {name: [] for name in self.index["classes"]}
        for name in self.names:
            found[name.partition("/")[0]].append(self.folder / name)
        return found

    @cached_property
    def names(self) -> list[str]:
        """CLASS/NAME by row."""
        return [name for shard in self.index["shards"] for name in shard["images"]]

    @cached_property
    def files(self) -> list[str]:
        """The shards, in order."""
        paths = []
        for shard in self.index["shards"]:
            path = self.folder / shard["file"]
            for file in (path, index_of(path)):
                if not file.is_file():
                    raise DataError(f"{file} is missing; bring it back, or pack the folder again")
            if path.stat().st_size != shard["bytes"] or seal_of(path) != shard["seal"]:
                raise DataError(f"{path} is damaged, or its .db is; bring them back, or pack the folder again")
            paths.append(str(path))
        return paths

    def dataset(self, rows: Sequence[int], class_index: Mapping[str, int], workers: int) -> "ds.Dataset":
        """As that of ClassFolders, to the bit and in the same order."""
        import mindspore.dataset as ds
        import numpy as np

        images = ds.MindDataset(self.files, columns_list=["image", "label"], sampler=ds.SubsetSampler(rows),
                                num_parallel_workers=workers)
        table = np.array([class_index[name] for name in self.classes()], np.int32)
        if (table == np.arange(len(table))).all():
            return images
        return images.map(lambda label: table[label], "label", num_parallel_workers=1)

    def open(self, row: int) -> BinaryIO:
        images: Any = self.dataset([row], dict.fromkeys(self.classes(), 0), 1)
        image, _ = next(images.create_tuple_iterator(num_epochs=1, output_numpy=True))
        return io.BytesIO(image.tobytes())


Store: TypeAlias = ClassFolders | Shards


def is_packed(folder: Path) -> bool:
    return (folder / PACK).is_file()


def store_of(folder: Path, *, flat: bool = False) -> Store:
    return Shards(folder) if is_packed(folder) else ClassFolders(folder, flat=flat)


def index_of(shard: Path) -> Path:
    """MindRecord's own index, which lies beside a file of it."""
    return shard.with_name(f"{shard.name}.db")


def seal_of(shard: Path) -> str:
    """A hash of all but the images: of a shard's header, which begins with its length, and of MindRecord's index."""
    with shard.open("rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), limits.MAX_SHARD_HEADER))
    return hashlib.sha256(header + index_of(shard).read_bytes()).hexdigest()


def read_index(path: Path) -> dict[str, Any]:
    """Raises DataError where it is none of ours."""
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        classes = set(index["classes"])
        for shard in index["shards"]:
            whole = Path(shard["file"]).name == shard["file"] and shard["bytes"] > 0 and shard["seal"]
            if not whole or not {name.partition("/")[0] for name in shard["images"]} <= classes:
                raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged; bring it back, or pack the folder again") from error
    return index
