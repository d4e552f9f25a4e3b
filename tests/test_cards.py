"""Cards: the published ones are sound, one's own are read strictly."""

import dataclasses
import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from packing import refusal

from ms_vit.data.sets.cards import CARDS, Card, RemoteFile, published_names
from ms_vit.errors import UsageError

OWN = {"name": "flowers", "title": "flowers", "format": "image-archive", "licence": "CC0",
       "files": [{"url": "https://example.org/a/flowers.zip"}]}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "flowers.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (OWN | changes).items() if value is not None}))
    return path


def test_the_published_cards_are_these():
    assert published_names() == ["cifar10", "digits", "imagenet-subset", "mnist"]


@pytest.mark.parametrize("name", ["cifar10", "digits", "imagenet-subset", "mnist"])
def test_a_published_card_is_whole(name):
    card = Card.load(name)
    assert card.name == name and card.title and card.licence and card.homepage.startswith("http")
    assert card.class_ids == sorted(card.class_ids), "labels in the source would differ from those of sorted folders"
    assert Card.load(CARDS / f"{name}.yaml") == card


def test_mnists_card_fits_the_published_files(shared_data):
    for file in Card.load("mnist").files:
        content = (shared_data / file.name).read_bytes()
        assert len(content) == file.bytes
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert hashlib.md5(content).hexdigest() == file.md5


def test_cifar10s_card_has_the_published_md5():
    assert Card.load("cifar10").files[0].md5 == "c58f30108f718f92721af3b95e74349a"


def test_cifar10s_card_fits_the_published_pickles(shared_data):
    (file,) = Card.load("cifar10").files
    assert file.top == "cifar-10-batches-py" and len(file.below_top) == 7
    for name, md5 in file.unpacked.items():
        assert hashlib.md5((shared_data / name).read_bytes()).hexdigest() == md5


@pytest.mark.parametrize(("names", "top", "below"), [
    (["a/b/1", "a/b/2"], "a/b", ["1", "2"]), (["a/1", "a/b/2"], "a", ["1", "b/2"]), (["1", "a/2"], "", ["1", "a/2"]),
    (["a/b", "ab/c"], "", ["a/b", "ab/c"]), (["1"], "", ["1"]), ([], "", [])])
def test_the_folder_around_what_a_file_unpacks_to_is_known(names, top, below):
    file = RemoteFile(url="https://example.org/x.zip", unpacked=dict.fromkeys(names, "0" * 32))
    assert (file.top, list(file.below_top)) == (top, below)


def test_digits_mean_and_std_are_those_of_its_training_images(tmp_path):
    from PIL import Image

    from ms_vit.data.sets.sources import digits

    card = Card.load("digits")
    digits.lay_out([], tmp_path, card)
    pixels = np.stack([np.asarray(Image.open(path)) for path in tmp_path.glob("train/*/*.png")]) / 255
    assert card.mean == pytest.approx([pixels.mean()] * 3, abs=1e-4)
    assert card.std == pytest.approx([pixels.std()] * 3, abs=1e-4)


def test_a_card_of_ones_own_is_read(tmp_path):
    card = Card.load(write(tmp_path, classes={"n11939491": "daisy", "n12620196": "rose"}))
    assert card.files == [RemoteFile(url="https://example.org/a/flowers.zip")]
    assert card.files[0].name == "flowers.zip" and not card.files[0].vouched
    assert card.class_ids == ["n11939491", "n12620196"]
    assert card.class_names["n12620196"] == "rose"


def test_a_card_written_out_is_the_same_card(tmp_path):
    for name in published_names():
        (tmp_path / "card.yaml").write_text(Card.load(name).to_yaml())
        assert Card.load(tmp_path / "card.yaml") == Card.load(name)


def test_class_names_that_yaml_takes_for_numbers_stay_names(tmp_path):
    assert Card.load(write(tmp_path, classes=[0, 1, 10])).class_ids == ["0", "1", "10"]


def test_an_unknown_card_is_told_with_those_there_are():
    with pytest.raises(UsageError, match='no card "cifar"; give one of cifar10, digits, imagenet-subset, mnist, or'):
        Card.load("cifar")


@pytest.mark.parametrize("name", ["../datasets/digits", "/etc/passwd", "", ".", "a/b"])
def test_a_cards_name_is_no_path(name):
    with pytest.raises(UsageError, match="no card"):
        Card.load(name)


HOST = "https://example.org/"


@pytest.mark.parametrize(("changes", "text"), [
    ({"titel": "x"}, 'unknown key "titel" in .*flowers.yaml; did you mean "title"?'),
    ({"format": "images"}, "format"),
    ({"licence": None}, "licence"),
    *[({"name": name}, '"name" in .* names a folder') for name in (
        "../out", "/tmp/out", ".git", "", "a\n", "a\\b", "x" * 201)],
    *[({"classes": ["a", name]}, '"classes" in .* name folders') for name in (
        "../b", ".b", "", "a/b", "a\\b", "a\nb", "a\x1b[2J", "a" * 256, "é" * 128)],
    ({"classes": ["a", "a"]}, "has a name twice"),
    ({"classes": 3}, "classes"),
    ({"files": []}, "say what to download"),
    ({"format": "digits"}, "must be empty"),
    ({"files": [1]}, "files"),
    ({"files": 1}, "files"),
    ({"files": [{"ulr": "https://example.org/x"}]}, 'unknown key "ulr" in files of .*; did you mean "url"?'),
    *[({"files": [{"url": url}]}, "must be the http") for url in (
        "file:///etc/passwd", "ftp://example.org/x", "https://[::1", HOST, HOST + "..", HOST + "%2e%2e", HOST + ".x",
        HOST + "a%2f..%2f..%2f.bashrc", HOST + "a%0ab")],
    ({"files": [{"url": None}]}, '"url" in files of .* has no value'),
    ({"files": [{"url": "https://a.org/x"}, {"url": "https://b.org/x"}]}, "two files of one name"),
    *[({"files": [{"url": "https://a.org/x", "sha256": value}]}, "64 hexadecimal digits") for value in (
        "", "abc", "0" * 63, "0" * 65, "A" * 64, "g" * 64)],
    ({"files": [{"url": "https://a.org/x", "md5": "0" * 64}]}, "32 hexadecimal digits"),
    ({"files": [{"url": "https://a.org/x", "bytes": "many"}]}, "bytes"),
    ({"files": [{"url": "https://a.org/x", "unpacked": {"a": "0" * 32}}]}, '"unpacked" in .* goes with format'),
    *(({"format": "cifar-pickles", "files": [{"url": "https://a.org/x", "unpacked": unpacked}]}, text)
      for unpacked, text in [({"../a": "0" * 32}, r"by their path in the archive, not '\.\./a'"),
                             ({"/etc/passwd": "0" * 32}, "by their path in the archive"),
                             ({"a//b": "0" * 32}, "by their path in the archive"),
                             ({"": "0" * 32}, "by their path in the archive"),
                             ({"a": "0" * 40}, "MD5 or SHA-256, 32 or 64 hexadecimal digits"),
                             ({"a": "A" * 32}, "in lower case"), ({"a": 7}, "unpacked"), (["a"], "unpacked"),
                             ({7: "0" * 32}, "by their path in the archive, not 7"),
                             ({"a": None}, "unpacked"), ({"a": {}}, "unpacked")]),
    ({"files": [{"url": "https://a.org/x", "bytes": -1}]}, '"bytes" in .* must be at least 0'),
    *[({"std": [value, 1.0, 1.0]}, '"std" in .* above 0') for value in (0.0, -1.0, math.nan, math.inf)],
    *[({"mean": [value, 1.0, 1.0]}, '"mean" in .* must be three numbers') for value in (math.nan, math.inf)],
    ({"mean": [0.5, 0.5]}, "mean"),
])
def test_a_mistake_in_a_card_is_told_in_one_line(tmp_path, changes, text):
    told = refusal(Card.load, write(tmp_path, **changes), UsageError)
    assert re.search(text, told) and "flowers.yaml" in told


def test_a_card_without_a_value_is_told(tmp_path):
    (tmp_path / "flowers.yaml").write_text(yaml.safe_dump(OWN | {"mean": None}))
    assert '"mean" in' in (told := refusal(Card.load, tmp_path / "flowers.yaml", UsageError)) and "has no value" in told


@pytest.mark.parametrize("changes", [
    {"name": "x" * 200}, {"name": "Oxford-IIIT_Pet.v1+"}, {"classes": ["a" * 255, "a b", "é"]},
    {"files": [{"url": "http://a.org/b/c.tar.gz?d=/e", "bytes": 0, "sha256": "0" * 64, "md5": "f" * 32}]},
    {"mean": [-1.0, 0.0, 1.0], "std": [5e-324, 1.0, 1e300]}])
def test_a_card_at_the_bounds_is_read(tmp_path, changes):
    card = Card.load(write(tmp_path, **changes))
    values = dataclasses.asdict(card) | {"mean": list(card.mean), "std": list(card.std)}
    values["files"] = [{key: value for key, value in file.items() if value} | {"bytes": 0} for file in values["files"]]
    assert {key: values[key] for key in changes} == changes


def test_a_card_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"can't read .*none\.yaml: no such file"):
        Card.load(tmp_path / "none.yaml")
