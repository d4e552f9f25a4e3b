"""Folders of images: SPLIT/CLASS/IMAGE, as everybody keeps them. Hidden files and folders don't count."""

import os
from collections.abc import Iterator
from pathlib import Path

SPLITS = ("train", "val", "test")  # labelled ones; infer/ holds pictures to look at
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff")  # what MindSpore's Decode reads


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted within each folder; links to folders are followed no further."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root, name)


def images_in(path: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    return sorted(file for file in files_in(path) if file.suffix.lower() in IMAGE_EXTENSIONS)


def class_folders(split: Path) -> list[Path]:
    """The class folders of a split, sorted by name as MindSpore's ImageFolderDataset does."""
    return sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def indexed(class_folder: Path) -> list[Path]:
    """A class's images in the order of MindSpore's ImageFolderDataset, which counts hidden ones and none deeper."""
    return sorted(file for file in class_folder.iterdir()
                  if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file())


def scan(split: Path) -> dict[str, list[Path]]:
    """The images of each class of a split, by class folder; a class without images has an empty list."""
    return {folder.name: [file for file in indexed(folder) if not file.name.startswith(".")]
            for folder in class_folders(split)}
