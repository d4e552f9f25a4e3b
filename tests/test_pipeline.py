import re
import shutil

import mindspore.dataset.vision as vision
import numpy as np
import pytest
from PIL import Image

from ms_vit.data import decoding, operations
from ms_vit.data.images import read_image
from ms_vit.data.labels import Labels
from ms_vit.data.memory import memory_share, size_in_memory
from ms_vit.data.operations import Name, Operation, parse
from ms_vit.data.pipeline import Batches, naming_bad_images, numpy_batches
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.data.stores import ClassFolders
from ms_vit.distributed import World
from ms_vit.errors import DataError, UsageError
from ms_vit.recipe import Augment

LABELS = Labels(["bird", "cat", "dog"], ["bird", "cat", "dog"])
BY_PILLOW = ["Decode(to_pil=True)", "Resize(resize_size, Inter.BICUBIC)", "CenterCrop(image_size)",
             "Normalize(mean, std)", "HWC2CHW()"]
MUCH = 10**9        # bytes; all images of a test fit
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


def batches(split, *, training, batch_size=4, seed=0, transforms=None, workers=2, epochs=1, keep=0, **options):
    """The batches of all epochs, one after another."""
    made = Batches(split, LABELS, preprocessing(transforms), batch_size=batch_size, training=training, seed=seed,
                   workers=workers, keep=keep, **options)
    found = [list(numpy_batches(made.epoch(epoch))) for epoch in range(epochs)]
    assert all(len(epoch) == made.steps for epoch in found)
    return [batch for epoch in found for batch in epoch]


def equal(one, other):
    """Whether they are the same batches, to the bit."""
    return all((x == y).all() for pair in zip(one, other, strict=True) for x, y in zip(*pair, strict=True))


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


@pytest.mark.parametrize("keep", [0, MUCH])
def test_a_seed_fixes_order_and_augmentation_to_the_bit(photos, keep):
    one, same, other = (batches(photos, training=True, seed=seed, transforms=Augment().train, epochs=2, keep=keep)
                        for seed in (3, 3, 4))
    assert equal(one, same)
    assert not equal(one, other)
    assert not equal(one[:3], one[3:])


@pytest.mark.parametrize("keep", [0, MUCH])
def test_the_order_follows_from_seed_and_epoch_alone(photos, keep):
    found = batches(photos, training=True, seed=3, batch_size=13, epochs=3, keep=keep)
    sorted_labels = [0] * 5 + [1] * 4 + [2] * 4
    made = Batches(photos, LABELS, preprocessing(), batch_size=13, training=True, seed=3)
    orders = [made.order(epoch) for epoch in range(3)]
    assert [labels.tolist() for _, labels in found] == [[sorted_labels[i] for i in order] for order in orders]
    assert len(set(map(tuple, orders))) == 3 and sorted(orders[0]) == list(range(13))


@pytest.mark.parametrize("keep", [0, MUCH])
def test_an_epoch_begun_anywhere_goes_on_with_the_same_bits(photos, keep):
    def made():
        return Batches(photos, LABELS, preprocessing(Augment().train), batch_size=2, training=True, seed=3, workers=2,
                       keep=keep)

    through = made()
    whole = [list(numpy_batches(through.epoch(epoch))) for epoch in range(3)]
    for skip in (0, 1, 5):
        assert equal(list(numpy_batches(made().epoch(2, skip=skip))), whole[2][skip:])


@pytest.mark.parametrize("keep", [0, MUCH])
def test_repeated_images_come_in_a_row_and_draw_each_for_itself(photos, keep):
    """Hoffer et al. 2020: an epoch has the steps that it had, and of an image so many copies in a batch."""
    how = {"training": True, "seed": 3, "batch_size": 6, "workers": 2, "keep": keep}
    prepared = preprocessing(["Decode()", "CenterCrop(image_size)", "RandomRotation(90)", "Normalize(mean, std)",
                              "HWC2CHW()"])
    made, plain = (Batches(photos, LABELS, prepared, repeats=repeats, **how) for repeats in (3, 1))
    assert made.steps == plain.steps == 2
    for epoch in range(2):
        order = made.order(epoch)
        assert order == np.repeat(plain.order(epoch)[:5], 3)[:13].tolist()
        for batch, (images, labels) in enumerate(numpy_batches(made.epoch(epoch))):
            files = made.files_of(epoch, batch)
            assert [LABELS.ids[label] for label in labels] == [file.parent.name for file in files]
            assert files[::3] == files[1::3] == files[2::3] and len({image.tobytes() for image in images}) == 6
    again = Batches(photos, LABELS, prepared, repeats=3, **how)
    assert equal(list(numpy_batches(again.epoch(1, skip=1))), [(images, labels)])


@pytest.mark.parametrize("keep", [0, MUCH])
def test_alternating_flips_mirror_every_image_in_every_other_epoch(photos, keep):
    def by_file(made, epoch):
        found = list(numpy_batches(made.epoch(epoch)))
        files = [file for batch in range(len(found)) for file in made.files_of(epoch, batch)]
        return dict(zip(files, np.concatenate([images for images, _ in found]), strict=True))

    how = {"training": True, "batch_size": 13, "workers": 2, "keep": keep}
    plain = by_file(Batches(photos, LABELS, preprocessing(), **how), 0)
    patterns = set()
    for seed in (1, 2):
        made = Batches(photos, LABELS, preprocessing(), alternate_flip=True, seed=seed, **how)
        epochs = [by_file(made, epoch) for epoch in range(3)]
        flipped = [tuple((images[file] == plain[file][..., ::-1]).all() for file in plain) for images in epochs]
        for images, flips in zip(epochs, flipped, strict=True):
            assert all((images[file] == plain[file]).all() != flip for file, flip in zip(plain, flips, strict=True))
        assert flipped[0] == flipped[2] == tuple(not flip for flip in flipped[1]) and 0 < sum(flipped[0]) < 13
        patterns.add(flipped[0])
    assert len(patterns) == 2


def test_processes_mirror_and_repeat_as_a_single_one(photos):
    how = {"training": True, "batch_size": 6, "workers": 2, "seed": 3, "repeats": 2, "alternate_flip": True}
    single = Batches(photos, LABELS, preprocessing(), **how)
    ranks = [Batches(photos, LABELS, preprocessing(), world=World(rank, 2), **how) for rank in range(2)]
    whole, *parts = (list(numpy_batches(each.epoch(1, skip=1))) for each in (single, *ranks))
    assert equal(whole, [tuple(np.concatenate(both) for both in zip(*(part[0] for part in parts), strict=True))])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("keep", [0, MUCH])
def test_pictures_are_the_first_batchs_pixels_and_change_no_batch(photos, keep, channels):
    augmented = ["Decode()", "Resize((32, 32))", "RandomHorizontalFlip(0.5)", "Normalize(mean, std)", "HWC2CHW()"]
    made = Batches(photos, LABELS, preprocessing(augmented).for_channels(channels), batch_size=4, training=True, seed=3,
                   workers=2, keep=keep, alternate_flip=True)
    told = made.pictures(0, most=3)
    found = [list(numpy_batches(made.epoch(epoch))) for epoch in (0, 1)]
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (made.whole.mean, made.whole.std))
    pixels = 255 * (found[0][0][0][:3] * std + mean)
    assert [label for _, label in told] == found[0][0][1][:3].tolist()
    pictures = np.stack([np.asarray(picture).reshape(32, 32, channels).transpose(2, 0, 1) for picture, _ in told])
    assert np.abs(pictures - pixels).max() <= 0.51 and pictures.std() > 20
    straight = Batches(photos, LABELS, preprocessing(augmented).for_channels(channels), batch_size=4, training=True,
                       seed=3, workers=2, keep=keep, alternate_flip=True)
    assert all(equal(batches, numpy_batches(straight.epoch(epoch))) for epoch, batches in enumerate(found))


def test_files_that_are_left_out_are_in_no_batch_and_in_no_others_place(photos):
    bad = sorted(photos.rglob("*.png"))[:2]
    made = Batches(photos, LABELS, preprocessing(), batch_size=4, training=True, leave_out=bad)
    assert (len(made), made.steps) == (11, 2)
    for epoch in range(3):
        seen = [file for batch in range(3) for file in made.files_of(epoch, batch)]
        assert len(set(seen)) == len(seen) == 11 and not set(seen) & set(bad)


@pytest.mark.parametrize("keep", [0, MUCH])
@pytest.mark.parametrize("size", [2, 3])
def test_the_parts_of_all_processes_are_the_batch_of_a_single_one(photos, size, keep):
    options = {"batch_size": 6, "training": True, "seed": 3, "keep": keep, "workers": 2}
    single = Batches(photos, LABELS, preprocessing(), **options)
    ranks = [Batches(photos, LABELS, preprocessing(), world=World(rank, size), **options) for rank in range(size)]
    assert {(rank.steps, len(rank), rank.fingerprint) for rank in ranks} == {(2, 13, single.fingerprint)}
    for epoch in range(3):
        whole = list(numpy_batches(single.epoch(epoch)))
        parts = [list(numpy_batches(rank.epoch(epoch))) for rank in ranks]
        for step in range(2):
            assert all(len(part[step][1]) == 6 // size for part in parts)
            assert equal([whole[step]], [tuple(np.concatenate(both) for both in zip(*(part[step] for part in parts),
                                                                                   strict=True))])
            assert {file for rank in ranks for file in rank.files_of(epoch, step)} == set(single.files_of(epoch, step))
    skipped = list(numpy_batches(ranks[1].epoch(2, skip=1)))
    assert equal(skipped, parts[1][1:])


@pytest.mark.parametrize("keep", [0, MUCH])
@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_each_image_is_evaluated_by_one_process(photos, size, keep):
    made = [Batches(photos, LABELS, preprocessing(), batch_size=12, training=False, keep=keep, world=World(rank, size))
            for rank in range(size)]
    found = [list(numpy_batches(rank.epoch())) for rank in made]
    assert [len(batches) for batches in found] == [rank.steps for rank in made]
    assert max(len(labels) for batches in found for _, labels in batches) <= 12 // size
    images = [image.tobytes() for batches in found for part, _ in batches for image in part]
    expected = [image.tobytes() for part, _ in batches(photos, training=False) for image in part]
    assert len(images) == 13 and sorted(images) == sorted(expected)


def test_processes_augment_otherwise_and_the_first_as_a_single_one(photos):
    order = Batches.own_order
    draws = ["Decode()", "CenterCrop(image_size)", "RandomRotation(90)", "Normalize(mean, std)", "HWC2CHW()"]
    made = [Batches(photos, LABELS, preprocessing(draws), batch_size=4, training=True, world=World(rank, 2))
            for rank in range(2)]
    alone = Batches(photos, LABELS, preprocessing(draws), batch_size=2, training=True)
    for each in (*made, alone):     # the same images, so that only draws may differ
        each.own_order = lambda epoch, made=made[0]: order(made, epoch)
    first, second, single = (list(numpy_batches(each.epoch(1))) for each in (*made, alone))
    assert equal(first, single) and not equal(first, second)


def test_processes_that_cannot_share_are_told(photos):
    with pytest.raises(UsageError, match="3 processes can't share batches of 4 images equally; set train"):
        Batches(photos, LABELS, preprocessing(), batch_size=4, training=True, world=World(0, 3))
    with pytest.raises(DataError, match="has 13 images, fewer than there are processes, 16; start fewer"):
        Batches(photos, LABELS, preprocessing(), batch_size=16, training=False, world=World(0, 16))


@pytest.mark.parametrize("harm", [
    lambda file: file.write_bytes(file.read_bytes()[:4000]), lambda file: file.write_bytes(b""),
    lambda file: file.write_text("no image"), lambda file: (file.unlink(), file.symlink_to("nowhere"))])
def test_an_image_that_fails_is_named_whatever_mindspore_says_of_it(harm, tmp_path):
    (tmp_path / "cat").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cat" / f"{number}. b.jpg")
    made = Batches(tmp_path, LABELS, preprocessing(), batch_size=1, training=False)
    bad = tmp_path / "cat/2. b.jpg"
    harm(bad)
    with pytest.raises(DataError, match=re.escape(f"{bad} can't be decoded; remove it")), naming_bad_images():
        list(numpy_batches(made.epoch()))


@pytest.mark.parametrize("training", [False, True])
def test_a_split_of_which_nothing_is_left_is_told(training, photos):
    every = list(photos.rglob("*.*"))
    with pytest.raises(DataError, match=r"none of the images in .*train can be read; replace them"):
        Batches(photos, LABELS, preprocessing(), batch_size=4, training=training, leave_out=every)


def test_a_folder_that_changes_while_it_is_used_is_told(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "val")
    made = Batches(tmp_path / "val", LABELS, preprocessing(), batch_size=4, training=False)
    assert len(list(numpy_batches(made.epoch()))) == 4
    new = tmp_path / "val/bird/00-new.png"
    shutil.copy(next(photos.rglob("*.png")), new)
    with pytest.raises(DataError, match=re.escape(f"{new} came or went while")):
        made.epoch()


def test_a_batchs_files_are_named(tmp_path):
    """In the order of MindSpore's own index, by which images are asked for."""
    names = ["a.png", "a-1.png", "a.b.png", "B.PNG", "b.Png", "10.png", "9.png", "é.png"]
    for number, name in enumerate(names):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / "cat" / name, "PNG")
    for other in ("cat/deeper/a.png", "cat/.a.png", ".hidden/a.png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / other)
    (tmp_path / "cat/a0.png").symlink_to("nowhere.png")
    (tmp_path / "cat/a1.png").mkdir()
    transforms = ["Decode()", "Resize((8, 8))", "Normalize((0, 0, 0), (1, 1, 1))", "HWC2CHW()"]
    made = Batches(tmp_path, LABELS, preprocessing(transforms, 8), batch_size=1, training=True, seed=1)
    for epoch in range(2):
        pixels = [int(images[0, 0, 0, 0]) // 20 for images, _ in numpy_batches(made.epoch(epoch))]
        named = [str(made.files_of(epoch, batch)[0].relative_to(tmp_path / "cat")) for batch in range(len(names))]
        assert [names[number] for number in pixels] == named


@pytest.mark.parametrize("transforms", [None, BY_PILLOW])
def test_evaluation_from_memory_is_bitwise_that_from_files(photos, transforms):
    expected = batches(photos, training=False, transforms=transforms)
    assert equal(batches(photos, training=False, transforms=transforms, epochs=2, keep=MUCH), 2 * expected)


def test_training_from_memory_is_bitwise_that_from_files(photos, tmp_path):
    for file in photos.rglob("*.png"):      # of a JPEG a crop decodes no more than it needs, to its very edges
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.parent.name)
    found, kept = (batches(tmp_path, training=True, transforms=Augment().train, epochs=2, keep=keep)
                   for keep in (0, MUCH))
    assert equal(found, kept)


def test_images_that_fit_in_memory_are_read_once(photos, tmp_path, capsys):
    split = tmp_path / "val"
    shutil.copytree(photos, split)
    size = size_in_memory(ClassFolders(split), range(13), preprocessing().split()[0].operations())
    assert size == 13 * 32 * 32 * 3
    kept, too_many = (Batches(split, LABELS, preprocessing(), batch_size=4, training=False, keep=keep)
                      for keep in (size, size - 1))
    assert capsys.readouterr().err.count("val: 13 decoded images stay in memory, 0.0 MB") == 1
    first = list(numpy_batches(kept.epoch()))
    assert equal(list(numpy_batches(too_many.epoch())), first)
    shutil.rmtree(split)
    assert equal(list(numpy_batches(kept.epoch())), first)
    with pytest.raises(FileNotFoundError):
        too_many.epoch()


def test_images_are_decoded_as_the_first_epoch_wants_them(tmp_path):
    (tmp_path / "cat").mkdir()
    for number in range(200):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "cat" / f"{number:03d}.png")
    made = Batches(tmp_path, LABELS, preprocessing(), batch_size=1, training=True, keep=MUCH)
    next(numpy_batches(made.epoch()))
    assert sum(row is not None for row in made.cache.rows) < 100


@pytest.mark.parametrize(("transforms", "once", "each"), [
    (["Decode()", "Resize(8)", "CenterCrop(8)", "Normalize(mean, std)", "HWC2CHW()"], 3,
     ["Normalize(mean, std)", "HWC2CHW()"]),
    (["Decode()", "RandomCrop(8)", "Resize(8)", "HWC2CHW()"], 1, ["RandomCrop(8)", "Resize(8)", "HWC2CHW()"]),
    (["RandomCropDecodeResize(8, scale=(0.3, 1.0))", "HWC2CHW()"], 1,
     ["RandomResizedCrop(8, scale=(0.3, 1.0))", "HWC2CHW()"]),
    (["Decode()", "CutOut(8)", "HWC2CHW()"], 1, ["CutOut(8)", "HWC2CHW()"]),
    (BY_PILLOW, 3, BY_PILLOW[3:]),
    (["Decode(to_pil=True)", "RandomHorizontalFlip()", "HWC2CHW()"], 0,
     ["Decode(to_pil=True)", "RandomHorizontalFlip()", "HWC2CHW()"]),
    ([" Decode( True)", "Equalize()", "HWC2CHW()"], 0, ["Decode(True)", "Equalize()", "HWC2CHW()"]),
    (["Decode()", "Resize(8)", "Grayscale(3)", "HWC2CHW()"], 3, ["HWC2CHW()"]),
    (["Decode()", "RandomApply([RandomRotation(10)], 0.3)", "HWC2CHW()"], 1,
     ["RandomApply([RandomRotation(10)], 0.3)", "HWC2CHW()"]),
])
def test_what_never_varies_is_done_once(transforms, once, each):
    first, rest = preprocessing(transforms).split()
    assert (len(first.transforms), rest.transforms) == (once, each)


def test_a_picture_that_cannot_be_decoded_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "train")
    (tmp_path / "train" / "cat" / "00.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat/00.jpg can't be decoded"):
        batches(tmp_path / "train", training=True, transforms=Augment().train, keep=MUCH)


@pytest.mark.parametrize(("group", "files", "expected"), [
    ("0::/job/inner", {"job/inner/memory.max": "max", "job/memory.max": "4000000"}, 1_000_000),
    ("0::/elsewhere", {"memory.max": "8000000"}, 2_000_000),
    ("3:cpu:/\n2:memory:/job", {"memory/job/memory.limit_in_bytes": "400000"}, 100_000),
])
def test_the_memory_of_a_container_bounds_what_is_kept(group, files, expected, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert memory_share(tmp_path) == expected
    assert memory_share(tmp_path / "no_groups") > 100_000_000


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


def saved(path, mode="RGB", size=(75, 52), **options):
    """A picture of blocks in colours, in a mode and a file."""
    blocks = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(("mode", "ending", "options"), [
    ("RGB", "jpg", {}), ("RGB", "jpg", {"subsampling": 0}), ("RGB", "jpg", {"progressive": True}), ("L", "jpg", {}),
    ("RGB", "jpg", {"keep_rgb": True}), ("CMYK", "jpg", {}), ("RGB", "png", {}), ("P", "png", {})])
def test_jpegs_are_decoded_to_mindspores_pixels_and_reduced_to_pillows(mode, ending, options, tmp_path):
    path = saved(tmp_path / f"a.{ending}", mode, **options)
    content = np.fromfile(path, np.uint8)
    assert (decoding.Decode()(content) == vision.Decode()(content)).all()
    for at_least, factor in ((52, 1), (27, 1), (26, 2), (13, 4), (6, 8), (1, 8), ((13, 37), 2), ((1, 19), 2)):
        drafted = Image.open(path)
        if ending == "jpg":
            drafted.draft(None, (75 // factor, 52 // factor))
            assert drafted.size == (-(-75 // factor), -(-52 // factor))
        expected = np.asarray(drafted.convert("RGB"))
        assert np.array_equal(parse(f"Decode(at_least={at_least})").build(NAMES)(content), expected)
        assert np.array_equal(parse(f"Decode(True, {at_least})").build(NAMES)(content), expected)
        assert np.array_equal(read_image(path, at_least), expected)


@pytest.mark.parametrize("harm", [lambda content: content + b"more", lambda content: content[:300] + content[310:]])
def test_a_jpeg_that_is_not_quite_right_comes_out_as_by_mindspore_and_pillow(harm, tmp_path):
    path = saved(tmp_path / "a.jpg", size=(300, 200), quality=95)
    path.write_bytes(harm(path.read_bytes()))
    content = np.fromfile(path, np.uint8)
    assert (decoding.Decode()(content) == vision.Decode()(content)).all()
    assert np.array_equal(decoding.Decode(100)(content), read_image(path, 100))


def test_a_folder_of_jpegs_gives_the_batches_that_mindspores_decode_would(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    for number in range(8):
        saved(tmp_path / "cat" / f"{number}.{'png' if number == 3 else 'jpg'}", size=(70 + number, 50))
    drawn = ["Decode()", "RandomResizedCrop(image_size)", "RandomHorizontalFlip(0.5)", "Normalize(mean, std)",
             "HWC2CHW()"]
    decoded = []
    monkeypatch.setattr(decoding.Decode, "__call__", lambda self, content, call=decoding.Decode.__call__:
                        (decoded.append(1), call(self, content))[1])
    for keep in (0, MUCH):
        options = {"training": True, "transforms": drawn, "epochs": 2, "keep": keep, "workers": 2}
        fast = batches(tmp_path, **options)
        assert decoded
        with monkeypatch.context() as patch:
            patch.setattr("ms_vit.data.pipeline.for_jpegs", lambda operations: operations)
            assert equal(fast, batches(tmp_path, **options))


@pytest.mark.parametrize("decode", ["Decode(at_least=resize_size)", "Decode(to_pil=True, at_least=resize_size)"])
def test_reduced_decoding_is_the_same_from_files_from_memory_and_in_prediction(decode, tmp_path):
    (tmp_path / "cat").mkdir()
    files = [saved(tmp_path / "cat" / f"{number}.jpg", size=(170 + number, 150)) for number in range(5)]
    prepared = preprocessing([decode, "Resize(resize_size, Inter.BILINEAR)", *preprocessing().transforms[2:]])
    prepared.check()
    assert prepared.at_least == 36
    found, kept = (batches(tmp_path, training=False, transforms=prepared.transforms, keep=keep) for keep in (0, MUCH))
    alone = np.stack([prepared.apply(prepared.operations(), read_image(file, prepared.at_least)) for file in files])
    assert equal(found, kept) and (np.concatenate([images for images, _ in found]) == alone).all()
    entire = "Decode(to_pil=True)" if "to_pil" in decode else "Decode()"
    whole = batches(tmp_path, training=False, transforms=[entire, *prepared.transforms[1:]])
    assert not equal(found, whole)


def test_reduced_images_take_less_memory(tmp_path):
    (tmp_path / "cat").mkdir()
    saved(tmp_path / "cat/a.jpg", size=(160, 120))
    whole, reduced = (size_in_memory(ClassFolders(tmp_path), [0], [parse(text).build(NAMES)])
                      for text in ("Decode()", "Decode(at_least=image_size)"))
    assert whole == 160 * 120 * 3 and reduced == 80 * 60 * 3


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
        Batches(photos, few, preprocessing(), batch_size=2, training=False)


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
    assert isinstance(parse("RandomHorizontalFlip(0.25)").build(NAMES), vision.RandomHorizontalFlip)
    resize = parse("Resize((image_size, 8), Inter.NEAREST)").build(NAMES)
    assert resize(np.zeros((4, 4, 3), np.uint8)).shape == (32, 8, 3)


@pytest.mark.parametrize("text", [
    "RandomApply([RandomRotation(10)], 0.3)", "RandomChoice([RandomRotation(10), Compose([HorizontalFlip()])])",
    "AutoAugment(AutoAugmentPolicy.IMAGENET, Inter.BICUBIC)", "ConvertColor(ConvertMode.COLOR_BGR2RGB)",
    "RandomOrder([RandomRotation(90), RandomHorizontalFlip(0.5)])", "Pad((1, 2), (0, 0, 0), Border.CONSTANT)",
    "RandomSelectSubpolicy([[(RandomRotation(10), 0.5), (RandomVerticalFlip(), 1)]])", "RandomErasing(value='random')"])
def test_a_parsed_operation_gives_its_text_and_does_something(text):
    parsed = parse(text)
    assert str(parsed) == text and parse(f"  {text} ") == parsed
    assert parsed.build(NAMES)(np.zeros((3, 40, 3), np.uint8)).shape[2] == 3


def test_names_and_members_are_parsed_once_and_bound_when_built():
    resize = parse("Resize(interpolation=Inter.CUBIC, size=resize_size)")
    assert resize == Operation("Resize", keywords={"interpolation": vision.Inter.BICUBIC, "size": Name("resize_size")})
    assert parse("Resize(resize_size, Inter.CUBIC)").given() == resize.given()
    assert {resize.build(NAMES | {"resize_size": size})(np.zeros((9, 9, 3), np.uint8)).shape[0]
            for size in (4, 5)} == {4, 5}


@pytest.fixture
def ours():
    """The registry of operations, which is as it was afterwards."""
    before = dict(operations.OURS.entries)
    yield operations
    operations.OURS.entries = before


def test_an_operation_of_ones_own_is_one_entry(ours, photos):
    @ours.register("Invert")
    def invert(white: int = 255):
        return lambda pixels: white - pixels

    plain = ["Decode()", "CenterCrop(image_size)"]
    rest = ["Normalize(mean, std)", "HWC2CHW()"]
    preprocessing([*plain, "Invert(white=255)", *rest]).check()
    one, other = (batches(photos, training=True, transforms=[*plain, *each, *rest], keep=MUCH)
                  for each in (["Invert()"], ["Invert(255)"]))
    assert equal(one, other) and not equal(one, batches(photos, training=True, transforms=[*plain, *rest]))
    with pytest.raises(UsageError, match='no operation "Invrt"; did you mean "Invert"'):
        parse("Invrt()")


@pytest.mark.parametrize("varied", [
    "RandomApply([RandomRotation(90)], 0.5)", "RandomOrder([RandomRotation(90), RandomHorizontalFlip(1.0)])",
    "RandomErasing(1.0)", "RandomApply([RandomErasing(1.0)], 0.9)", "RandomPerspective(0.5, 1.0)"])
@pytest.mark.parametrize("keep", [0, MUCH])
def test_composed_operations_and_those_in_python_draw_the_same_from_a_seed_and_another_for_each_image(
        varied, keep, tmp_path):
    (tmp_path / "cat").mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    for number in range(24):
        picture.save(tmp_path / "cat" / f"{number}.png")
    before, after = [], ["Normalize(mean, std)", "HWC2CHW()"]
    if "Erasing" in varied:
        before, after = ["ToTensor()"], []
    elif "Perspective" in varied:
        before, after = ["ToPIL()"], ["ToTensor()"]
    transforms = ["Decode()", "CenterCrop(image_size)", *before, varied, *after]
    preprocessing(transforms).check()
    one, *others = (batches(tmp_path, training=True, transforms=transforms, keep=keep, seed=3) for _ in range(4))
    assert all(equal(one, other) for other in others)
    images = np.concatenate([images for images, _ in one])
    assert len({image.tobytes() for image in images}) > 6


def test_images_may_be_wider_than_high(photos):
    transforms = ["Decode()", "Resize(resize_size)", "CenterCrop(image_size)", "Normalize(mean, std)", "HWC2CHW()"]
    wide = Preprocessing(transforms=transforms, image_size=[24, 48], crop_pct=0.5)
    wide.check()
    assert wide.names | {"mean": 0, "std": 0} == {"image_size": (24, 48), "resize_size": (48, 96), "mean": 0, "std": 0}
    made = Batches(photos, LABELS, wide, batch_size=13, training=False)
    assert next(numpy_batches(made.epoch()))[0].shape == (13, 3, 24, 48)
    with pytest.raises(UsageError, match=r"not float32 \(3, 24, 47\)"):
        transforms[2] = "CenterCrop((24, 48))"
        Preprocessing(transforms=transforms, image_size=(24, 47)).check()


@pytest.mark.parametrize("transforms", [
    ["Decode()", "CenterCrop(image_size)", "Normalize(mean, std)", "HWC2CHW()"],
    ["RandomCropDecodeResize(image_size, scale=(1, 1), ratio=(1, 1))", "Normalize(mean, std)", "HWC2CHW()"],
    ["Decode(True)", "Resize((image_size, image_size), Inter.BICUBIC)", "Normalize(mean, std)", "HWC2CHW()"]])
def test_a_picture_that_is_decoded_already_is_prepared_as_its_file(transforms, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    made = preprocessing(transforms)
    made.check()
    pixels = np.fromfile(tmp_path / "a.png", np.uint8)
    for each in made.operations():
        pixels = each(pixels)
    assert (made.apply(made.operations(), picture) == pixels).all()


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
    ("AutoAugment(AutoAugmentPolicy.IMAGNET)", "AutoAugmentPolicy has no IMAGNET; there are IMAGENET, CIFAR10, SVHN"),
    ("RandomApply([RandomRotatio(10)])", r'"RandomApply\(\[RandomRotatio\(10\)\]\)" can\'t be: .*did you mean "Random'),
    ("RandomApply([RandomRotation(-1)])", r'"RandomRotation\(-1\)" can\'t be'),
    ("RandomApply([Pad(99999)])", "too large a number"),
    ("Compose([" * 5 + "HWC2CHW()" + "])" * 5, "deeper in one another than 4"),
    ("RandomOrder([" + "HorizontalFlip(), " * 6 + "])", "1 to 5 operations, not 6"),
    ("VideoDecoder('a.mp4')", "has no operation"),
    ("HWC2CHW(**{})", "gives no arguments"),
    ("Decode(at_least=0)", "at_least is a number of pixels from 1, or"),
    ("Decode(at_least=(8, 8, 8))", "at_least is a number of pixels from 1, or"),
    ("Decode(at_least='all')", "at_least is a number of pixels from 1, or"),
    ("Resize({1: 2})", "Resize"),
    ("Resize(" + "-" * 900 + "1)", "Resize"),
])
def test_a_text_that_is_no_operation_gets_one_line_and_runs_nothing(text, says):
    with pytest.raises(UsageError, match=says) as error:
        parse(text).build(NAMES)
    assert "\n" not in str(error.value)
