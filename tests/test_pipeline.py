import mindspore.dataset.vision as vision
import numpy as np
import pytest
from PIL import Image

from ms_vit.data.images import read_image
from ms_vit.data.labels import Labels
from ms_vit.data.pipeline import folder_pipeline
from ms_vit.data.transforms import Preprocessing, operation
from ms_vit.errors import DataError, UsageError
from ms_vit.recipe import Augment

LABELS = Labels(["bird", "cat", "dog"], ["bird", "cat", "dog"])
NAMES = {"image_size": 32, "resize_size": 36, "mean": [127.5] * 3, "std": [127.5] * 3}


def preprocessing(transforms=None, image_size=32):
    return Preprocessing(image_size=image_size, **({"transforms": transforms} if transforms else {}))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """train/ with 5 birds, 4 cats and 4 dogs, each picture its own colours, as JPEG and PNG of several sizes."""
    split = tmp_path_factory.mktemp("photos") / "train"
    random = np.random.default_rng(0)
    for number in range(13):
        folder = split / LABELS.ids[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        blocks = random.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((60 + number, 50 - number), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:02d}.{'JPG' if number % 2 else 'png'}")
    (split / "cat" / "notes.txt").write_text("not an image")
    return split


def batches(split, *, training, batch_size=4, seed=0, transforms=None, workers=2):
    pipeline = folder_pipeline(split, LABELS, preprocessing(transforms), batch_size=batch_size, training=training,
                               seed=seed, workers=workers)
    return list(pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_evaluation_covers_every_image_whatever_the_batch_size(photos, batch_size):
    found = batches(photos, training=False, batch_size=batch_size)
    labels = np.concatenate([labels for _, labels in found])
    assert labels.tolist() == [0] * 5 + [1] * 4 + [2] * 4
    assert {images.shape[1:] for images, _ in found} == {(3, 32, 32)}
    assert {(images.dtype, labels.dtype) for images, labels in found} == {(np.dtype("f4"), np.dtype("i4"))}


def test_training_shuffles_and_leaves_out_the_rest(photos):
    found = batches(photos, training=True, transforms=Augment().train)
    assert [len(labels) for _, labels in found] == [4, 4, 4]
    labels = np.concatenate([labels for _, labels in found]).tolist()
    assert labels != sorted(labels)


def test_a_seed_fixes_order_and_augmentation_to_the_bit(photos):
    one, same, other = (batches(photos, training=True, seed=seed, transforms=Augment().train) for seed in (3, 3, 4))
    assert all((x == y).all() for pair in zip(one, same, strict=True) for x, y in zip(*pair, strict=True))
    assert any((x != y).any() for pair in zip(one, other, strict=True) for x, y in zip(*pair, strict=True))


def test_evaluation_pixels_equal_pillow_and_numpy(photos):
    transforms = ["Decode()", "CenterCrop(image_size)", "Normalize(mean, std)", "HWC2CHW()"]
    images = np.concatenate([images for images, _ in batches(photos, training=False, transforms=transforms)])
    files = sorted(file for file in photos.rglob("*.*") if file.suffix != ".txt")
    for image, file in zip(images, files, strict=True):
        pixels = np.asarray(Image.open(file).convert("RGB"), np.float64) / 255
        top, left = ((side - 32) // 2 for side in pixels.shape[:2])
        pixels = pixels[top:top + 32, left:left + 32]
        expected = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
        np.testing.assert_allclose(image, expected, atol=1e-5)


@pytest.mark.parametrize(("mode", "ending"), [
    ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "jpg"), ("P", "png"), ("1", "png"), ("LA", "png"), ("RGBA", "png"),
    ("I;16", "png"), ("RGB", "bmp"), ("CMYK", "tif"), ("RGB", "ppm")])
def test_every_kind_of_picture_gives_the_same_pixels_in_training_and_prediction(mode, ending, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256)
    else:
        picture = picture.convert(mode)
    path = tmp_path / f"picture.{ending}"
    picture.save(path)
    raw = np.fromfile(path, np.uint8)
    whole = vision.RandomCropDecodeResize((20, 30), scale=(1, 1), ratio=(1.5, 1.5))
    expected = np.asarray(read_image(path))
    assert expected.shape == (20, 30, 3)
    assert (vision.Decode()(raw) == expected).all()
    assert (whole(raw) == expected).all()


@pytest.mark.parametrize(("content", "says"), [
    (b"", "is no image"), (b"no picture at all", "is no image"), (None, "is not there")])
def test_what_is_no_picture_is_named(content, says, tmp_path):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"x.jpg {says}"):
        read_image(path)


def test_a_truncated_picture_is_named(photos, tmp_path):
    source = next(photos.rglob("*.JPG"))
    (tmp_path / "cut.jpg").write_bytes(source.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut.jpg can't be read as an image: .*truncated"):
        read_image(tmp_path / "cut.jpg")


def test_a_class_that_the_model_lacks_is_an_error_that_lists_it(photos):
    few = Labels(["bird", "dog"], ["bird", "dog"])
    with pytest.raises(DataError, match=r'"cat" \(4 images\)'):
        folder_pipeline(photos, few, preprocessing(), batch_size=2, training=False)


def test_classes_keep_the_models_index_not_the_folders(photos, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "dog").symlink_to(photos / "dog")
    assert np.concatenate([labels for _, labels in batches(tmp_path / "val", training=False)]).tolist() == [2] * 4


def test_fewer_images_than_a_batch_are_told(photos):
    with pytest.raises(DataError, match=r"13 images, fewer than one batch of 14; set train.batch_size lower"):
        batches(photos, training=True, batch_size=14)


def test_an_empty_or_missing_folder_is_told(tmp_path):
    with pytest.raises(DataError, match="val is not there"):
        batches(tmp_path / "val", training=False)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        batches(tmp_path / "val", training=False)


def test_an_operation_is_read_from_its_text():
    assert isinstance(operation("RandomHorizontalFlip(0.25)", NAMES), vision.RandomHorizontalFlip)
    resize = operation("Resize((image_size, 8), Inter.NEAREST)", NAMES)
    assert resize(np.zeros((4, 4, 3), np.uint8)).shape == (32, 8, 3)


@pytest.mark.parametrize(("text", "says"), [
    ("RandomHorizontalFlp(0.5)", 'did you mean "RandomHorizontalFlip"'),
    ("__import__('os').system('true')", "is no call"),
    ("Resize(__import__('os'))", "Resize"),
    ("Resize(size)", 'unknown name "size"'),
    ("Resize", "is no call"),
    ("Resize(", "is no call"),
    ("Resize(-1)", "Resize"),
    ("Resize(8, Inter.SHARP)", "Resize"),
    ("Inter(3)", "has no operation"),
    ("os(3)", "has no operation"),
])
def test_a_text_that_is_no_operation_gets_one_line_and_runs_nothing(text, says):
    with pytest.raises(UsageError, match=says) as error:
        operation(text, NAMES)
    assert "\n" not in str(error.value)
