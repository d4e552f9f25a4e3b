"""Folders of images: SPLIT/CLASS/IMAGE, or flat, CLASS/IMAGE. Hidden files and folders don't count."""

import os
from collections.abc import Iterator
from pathlib import Path

SPLITS = ("train", "val", "validation", "valid", "test")  # labelled ones
INFER = "infer"  # pictures to look at, beside the splits or the class folders
JPEG_EXTENSIONS = (".jpg", ".jpeg")
IMAGE_EXTENSIONS = (*JPEG_EXTENSIONS, ".png", ".bmp", ".ppm", ".tif", ".tiff")  # what MindSpore's Decode reads


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted within each folder.

    Links to folders are not followed, and stand for themselves; so do, at the end, folders that can't be opened.
    """
    closed: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield Path(root, name)
    yield from (Path(error.filename) for error in closed)


def images_in(path: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    return sorted(file for file in files_in(path) if file.suffix.lower() in IMAGE_EXTENSIONS)


def class_folders(split: Path) -> list[Path]:
    """The class folders of a split, sorted by name as MindSpore's ImageFolderDataset does."""
    return sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def flat_classes(folder: Path) -> list[Path]:
    """The class folders of a flat data folder, sorted by name: those that hold images, but for infer/."""
    return [child for child in class_folders(folder) if child.name != INFER and any(images_of(child))]


def indexed(class_folder: Path) -> list[str]:
    """What MindSpore's ImageFolderDataset counts as a class's images, in its order: by name, hidden ones and all."""
    return sorted(name for name in os.listdir(class_folder) if name.lower().endswith(IMAGE_EXTENSIONS))


def images_of(class_folder: Path) -> Iterator[Path]:
    """The images of a class, sorted by name."""
    return (class_folder / name for name in indexed(class_folder)
            if not name.startswith(".") and (class_folder / name).is_file())


def scan(split: Path) -> dict[str, list[Path]]:
    """The images of each class of a split, by class folder; a class without images has an empty list."""
    return {folder.name: list(images_of(folder)) for folder in class_folders(split)}
