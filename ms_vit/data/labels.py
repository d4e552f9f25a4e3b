"""The classes of a folder: ids (what the class folders are called) and names (what people call them)."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ms_vit import limits
from ms_vit.data.folder import SPLITS
from ms_vit.data.sets.cards import card_of
from ms_vit.data.stores import store_of
from ms_vit.errors import DataError

META = Path("ILSVRC2012_devkit_t12", "data", "meta.mat")


@dataclass(frozen=True)
class Labels:
    """Class ids and names; the position is the class index.

    Args:
        ids: names of the class folders, sorted.
        names: what to show people, one for each id.
    """

    ids: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def index(self) -> dict[str, int]:
        """Class folder -> class index: by id, and by name where that is nobody else's id or name."""
        counts = Counter(self.names)
        by_name = {name: index for index, name in enumerate(self.names) if counts[name] == 1}
        return by_name | {id: index for index, id in enumerate(self.ids)}


def read_labels(folder: Path) -> Labels:
    """The classes of folder/train (of folder/val where there is no train/), or of a flat folder of class folders.

    Names come from ImageNet's devkit in the folder, else from the card it was downloaded by, else from ImageNet-1k for
    its wnids; else they are the ids.
    Raises DataError where there is no split, no class, or the devkit is damaged.
    """
    split = next((folder / name for name in ("train", "val") if (folder / name).is_dir()), None)
    flat = not any((folder / name).is_dir() for name in SPLITS) and folder.is_dir()
    ids = store_of(split or folder, flat=not split).classes() if split or flat else []
    if not split and not ids:
        raise DataError(f"{folder} has no train/ and no val/; give a folder that holds train/CLASS/IMAGE files")
    if not ids:
        raise DataError(f"{split} has no class folders; put each class's images into a folder of their own")
    names = names_of(folder)
    return Labels(ids, [names.get(id, id) for id in ids])


def labels_for(folder: Path, num_classes: int | None, known: Labels | None = None) -> Labels:
    """The classes of a model that is to be trained on a folder: the folder's own, unless `num_classes` asks for more.

    As many as `known` has, those of the weights that training starts from, or as ImageNet has, may be asked for: a
    folder of some of these then trains and scores among all. Raises DataError for any other number.
    """
    labels = read_labels(folder)
    if num_classes in (None, len(labels)):
        return labels
    for wider in (known, devkit_labels(folder), imagenet_labels()):
        if wider and len(wider) == num_classes and set(labels.ids) <= set(wider.index):
            return wider
    raise DataError(f"{folder} has {len(labels)} classes, not {num_classes}; leave model.num_classes out to take them")


def names_of(folder: Path) -> dict[str, str]:
    """Class folder -> name, as far as the folder's devkit or else its card.yaml says. Raises as read_labels."""
    known = devkit_labels(folder) or imagenet_labels()
    card = card_of(folder)
    return dict(zip(known.ids, known.names, strict=True)) | (card.class_names if card else {})


def imagenet_labels() -> Labels:
    """ImageNet-1k's 1,000 classes in wnid order, which is their usual index."""
    lines = (Path(__file__).parent / "imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ", 1) for line in lines]
    return Labels([id for id, _ in pairs], [name for _, name in pairs])


def devkit_labels(folder: Path) -> Labels | None:
    """All leaf classes of the ImageNet devkit in `folder` in wnid order (the usual class index); None without devkit.

    A name is the first of a synset's synonyms. Names are not unique ("crane" is a bird and a machine), ids are.
    Raises DataError where meta.mat can't be read.
    """
    path = folder / META
    if not path.is_file():
        return None
    from scipy.io import loadmat

    try:
        if path.stat().st_size > limits.MAX_META_BYTES:
            raise ValueError("too large")
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        leaves = {
            str(synset["WNID"]): str(synset["words"]).split(",")[0].strip()
            for synset in synsets
            if int(synset["num_children"]) == 0
        }
    except Exception as error:  # a damaged file makes SciPy's reader raise nearly anything
        raise DataError(f"{path} is damaged; delete {folder} and download it again") from error
    if not leaves:
        raise DataError(f"{path} lists no classes; delete {folder} and download it again")
    ids = sorted(leaves)
    return Labels(ids, [leaves[id] for id in ids])
