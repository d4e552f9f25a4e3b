"""Classes of a folder: their order, and where their names come from."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from packing import put, refusal, written

from ms_vit import limits
from ms_vit.data.folder import images_in, scan
from ms_vit.data.labels import META, Labels, devkit_labels, imagenet_labels, labels_for, read_labels
from ms_vit.data.sets.cards import Card
from ms_vit.data.sets.sources import image_archive
from ms_vit.errors import DataError, UsageError


def tree(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.fixture(scope="module")
def imagenet(shared_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imagenet")
    image_archive.lay_out([shared_data / "imagenet_mini.zip"], out, Card.load("imagenet-subset"))
    return out


def test_classes_are_the_sorted_folders_of_train(tmp_path):
    tree(tmp_path, "train/b/1.jpg", "train/A/1.jpg", "train/a/1.jpg", "train/.cache/1.jpg", "val/z/1.jpg")
    assert read_labels(tmp_path) == Labels(["A", "a", "b"], ["A", "a", "b"])


def test_without_train_they_are_those_of_val(tmp_path):
    assert read_labels(tree(tmp_path, "val/z/1.jpg")).ids == ["z"]


def test_labels_have_a_length_and_are_json(tmp_path):
    labels = read_labels(tree(tmp_path, "train/a/1", "train/b/1"))
    assert len(labels) == 2
    assert Labels(**json.loads(json.dumps(dataclasses.asdict(labels)))) == labels


def test_a_downloads_card_gives_the_names(tmp_path):
    tree(tmp_path, "train/n1/1.jpg", "train/n2/1.jpg", "train/n3/1.jpg")
    (tmp_path / "card.yaml").write_text(
        "{name: x, title: x, format: image-archive, licence: x, files: [{url: 'http://a.org/x.zip'}], "
        "classes: {n2: rose, n1: daisy}}")
    assert read_labels(tmp_path).names == ["daisy", "rose", "n3"]


def test_imagenets_devkit_gives_the_names(imagenet):
    labels = read_labels(imagenet)
    named = dict(zip(labels.ids, labels.names, strict=True))
    assert len(labels) == 10 and labels.ids == sorted(labels.ids)
    assert named["n02102040"] == "English springer"
    assert named["n01440764"] == "tench"  # of "tench, Tinca tinca"


def test_the_devkits_leaves_in_wnid_order_are_imagenets_class_indices(imagenet):
    labels = devkit_labels(imagenet)
    assert labels is not None and len(labels) == 1000
    # The documented indices of the ten classes, and the tutorial's own example {236: 'Doberman'}.
    indices = [labels.ids.index(id) for id in read_labels(imagenet).ids]
    assert indices == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert labels.names[236] == "Doberman"


def test_inner_nodes_of_the_devkit_are_no_classes(imagenet):
    synsets = scipy.io.loadmat(imagenet / META, squeeze_me=True)["synsets"]
    inner = {str(synset["WNID"]) for synset in synsets if synset["num_children"] > 0}
    labels = devkit_labels(imagenet)
    assert len(inner) == 3 and labels is not None and not inner & set(labels.ids)


def test_a_folder_without_devkit_has_no_devkit_labels(tmp_path):
    assert devkit_labels(tmp_path) is None


def mat(**values: Any) -> bytes:
    return written(lambda path: scipy.io.savemat(path.open("wb"), values, do_compression=True))


def flipped(content: bytes) -> bytes:
    return content[:200] + bytes(byte ^ 255 for byte in content[200:260]) + content[260:]


@pytest.mark.parametrize("content", [
    pytest.param(b"", id="empty"), pytest.param(b"hello" * 99, id="text"), pytest.param(mat(x=1), id="another's"),
    pytest.param(mat(synsets=[1, 2]), id="numbers"),
    pytest.param(mat(synsets=np.array([{"WNID": "x"}], object)), id="other fields"),
    pytest.param(mat(synsets=[{"WNID": "n1", "words": "x", "num_children": 1}] * 2), id="no leaves"),
    pytest.param(mat(synsets=np.zeros(100_000_000, np.uint8)), id="a bomb"),
    pytest.param(mat(synsets=np.arange(99.0))[:-20], id="cut"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:9999]), id="half of the real one"),
    pytest.param(lambda path: path.write_bytes(flipped(path.read_bytes())), id="the real one, flipped")])
def test_a_damaged_devkit_is_told_in_one_line(imagenet, tmp_path, content):
    tree(tmp_path, "train/a/1.jpg", str(META))
    (tmp_path / META).write_bytes((imagenet / META).read_bytes())
    put(tmp_path / META, content)
    text = refusal(lambda path: read_labels(tmp_path), tmp_path / META, DataError)
    assert re.search(r"meta\.mat (is damaged|lists no classes); delete .* and down", text)


def test_a_devkit_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    tree(tmp_path, str(META))
    content = mat(synsets=np.array([("n01", "tench, fish", 0), ("n02", "crane", 0)],
                                   [("WNID", object), ("words", object), ("num_children", int)]))
    (tmp_path / META).write_bytes(content)
    monkeypatch.setattr(limits, "MAX_META_BYTES", len(content))
    assert devkit_labels(tmp_path) == Labels(["n01", "n02"], ["tench", "crane"])
    monkeypatch.setattr(limits, "MAX_META_BYTES", len(content) - 1)
    assert "is damaged" in refusal(devkit_labels, tmp_path, DataError)


def test_a_damaged_card_of_a_folder_is_told(tmp_path):
    tree(tmp_path, "train/a/1.jpg")
    put(tmp_path / "card.yaml", "name: !!python/name:os.system\n")
    assert "card.yaml is no valid YAML" in refusal(read_labels, tmp_path, UsageError)


def test_a_model_takes_the_folders_classes_or_wider_ones_that_know_them_all(tmp_path):
    tree(tmp_path, "train/an ant/1.jpg", "train/bee/1.jpg")
    own, known = Labels(["an ant", "bee"], ["an ant", "bee"]), Labels(["x", "bee", "n1"], ["x", "bee", "an ant"])
    assert labels_for(tmp_path, None, known) == labels_for(tmp_path, 2, known) == own
    assert labels_for(tmp_path, 3, known) == known
    for count, wider in ((3, None), (4, known), (3, Labels(["x", "y", "bee"], ["x", "y", "bee"])), (1000, known)):
        with pytest.raises(DataError, match=f"has 2 classes, not {count}; leave"):
            labels_for(tmp_path, count, wider)
    tree(tmp_path / "wnids", "train/n01440764/1.jpg")
    assert labels_for(tmp_path / "wnids", 1000) == imagenet_labels()


def test_a_folder_without_splits_or_classes_is_told(tmp_path):
    with pytest.raises(DataError, match="has no train/ and no val/; give a folder"):
        read_labels(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train has no class folders"):
        read_labels(tmp_path)


def test_scan_finds_each_classes_images_sorted_and_nothing_else(tmp_path):
    tree(tmp_path, "b/2.JPEG", "b/1.png", "b/notes.txt", "b/.hidden.jpg", "b/deep/3.tif", "b/4.webp", "loose.jpg",
         ".git/1.jpg")
    (tmp_path / "a").mkdir()
    assert scan(tmp_path) == {"a": [], "b": [tmp_path / "b" / name for name in ("1.png", "2.JPEG")]}


def test_images_in_looks_into_every_folder(tmp_path):
    tree(tmp_path, "x/y/1.bmp", "2.ppm", "x/z.md")
    assert images_in(tmp_path) == [tmp_path / "2.ppm", tmp_path / "x/y/1.bmp"]


def test_images_that_are_links_count(tmp_path):
    tree(tmp_path, "real.jpg")
    (tmp_path / "a").mkdir()
    os.symlink(tmp_path / "real.jpg", tmp_path / "a/1.jpg")
    assert scan(tmp_path) == {"a": [tmp_path / "a/1.jpg"]}
