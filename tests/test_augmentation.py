"""Operations that recipes name for training: what MindSpore's and ours do to pixels, by seed, with several threads."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ms_vit.data.labels import Labels
from ms_vit.data.operations import parse, rotated_zoomed
from ms_vit.data.pipeline import Batches, numpy_batches
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import UsageError

SIDE, IMAGES = 24, 64
MUCH = 10**9        # bytes; all images fit
THREE_AUGMENT = ("RandomChoice([RandomColor((0, 0)), Solarize((128, 255)), RandomChoice([GaussianBlur(3, 0.5), "
                 "GaussianBlur(5, 1.0), GaussianBlur(9, 2.0)])])")      # DeiT III (Touvron et al. 2022, sec. 3.1)


@pytest.fixture(scope="module")
def picture():
    blocks = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def copies(picture, tmp_path_factory):
    """train/a with one picture many times."""
    folder = tmp_path_factory.mktemp("copies") / "train"
    (folder / "a").mkdir(parents=True)
    for number in range(IMAGES):
        Image.fromarray(picture).save(folder / "a" / f"{number:02d}.png")
    return folder


@pytest.fixture
def augmented(copies):
    """augmented("RandAugment(2, 9)") -> what training gets of the picture, [IMAGES, SIDE, SIDE, 3] from 0 to 255."""
    def augmented(*before: str, after: tuple[str, ...] = (), seed: int = 0, epoch: int = 0) -> np.ndarray:
        prepared = Preprocessing(
            transforms=["Decode()", f"Resize(({SIDE}, {SIDE}))", *before, "Normalize(mean, std)", "HWC2CHW()", *after],
            image_size=SIDE, mean=[0, 0, 0], std=[1 / 255] * 3)
        prepared.check()
        made = Batches(copies, Labels(["a"], ["a"]), prepared, batch_size=16, training=True, seed=seed, workers=2,
                       keep=MUCH)
        return np.concatenate([images for images, _ in numpy_batches(made.epoch(epoch))]).transpose(0, 2, 3, 1)
    return augmented


def as_bytes(images):
    return [np.round(image).astype(np.uint8) for image in images]


@pytest.mark.parametrize(("before", "after", "least"), [
    (["RandAugment(2, 9)"], (), 10), (["TrivialAugmentWide()"], (), 10), ([THREE_AUGMENT], (), 5),
    (["RandomColorAdjust((0.7, 1.3), (0.7, 1.3), (0.7, 1.3))"], (), 60), ([], ("RandomErasing(0.5)",), 15),
    (["RandomCrop(24, 4, padding_mode=Border.REFLECT)"], (), 30), (["RandomRotationZoom(7.2, 0.2)"], (), 60),
    (["RandomCorruption(0.5)"], (), 20)])
def test_a_seed_and_an_epoch_fix_what_each_image_draws(before, after, least, augmented):
    one, same, other, later = (augmented(*before, after=after, seed=seed, epoch=epoch)
                               for seed, epoch in ((3, 1), (3, 1), (4, 1), (3, 2)))
    assert (one == same).all() and (one != other).any() and (one != later).any()
    assert len({image.tobytes() for image in one}) >= least


def test_colours_are_jittered_by_factors_within_their_bounds(augmented, picture):
    """Brightness alone is one factor of all values, contrast alone one about the grey mean."""
    for made in augmented("RandomColorAdjust((0.7, 1.3))"):
        inside = (picture > 60) & (made < 254)
        factors = made[inside] / picture[inside]
        assert 0.7 <= np.median(factors) <= 1.3 and np.ptp(factors) < 2 / 60    # roundings
    mean = (picture @ [0.299, 0.587, 0.114]).mean()
    for made in augmented("RandomColorAdjust(contrast=(0.5, 0.9))"):
        factors = (made - mean)[abs(picture - mean) > 40] / (picture - mean)[abs(picture - mean) > 40]
        assert factors.min() > 0.45 and factors.max() < 0.95 and np.ptp(factors) < 0.06


def test_a_reflected_shift_is_a_window_of_the_mirrored_picture(augmented, picture):
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), "reflect")
    windows = {padded[top:top + SIDE, left:left + SIDE].tobytes(): (top, left) for top in range(9) for left in range(9)}
    made = as_bytes(augmented("RandomCrop(24, 4, padding_mode=Border.REFLECT)"))
    places = [windows[image.tobytes()] for image in made]
    assert all({place[axis] for place in places} == set(range(9)) for axis in (0, 1))


def test_erasing_clears_one_rectangle_of_the_asked_size_in_a_share_of_images(augmented, picture):
    made = augmented(after=("RandomErasing(0.5, (0.1, 0.3), (0.5, 2.0), 0)",))
    assert picture.any(2).all()     # none of its pixels is black
    erased = 0
    for image in made:
        gone = (image == 0).all(2)
        if gone.any():
            erased += 1
            rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert gone.sum() == box and 0.05 < box / SIDE**2 < 0.35
            assert (as_bytes([image])[0][~gone] == picture[~gone]).all()
        else:
            assert (as_bytes([image])[0] == picture).all()
    assert 18 <= erased <= 46       # half of 64, within 3.5 deviations


@pytest.mark.parametrize("text", ["RandAugment(2, 9)", "TrivialAugmentWide()"])
def test_automatic_augmentation_changes_most_pictures_by_its_strength(text, augmented, picture):
    made = as_bytes(augmented(text))
    unchanged = sum((image == picture).all() for image in made)
    assert (unchanged > 0 or "Rand" in text) and unchanged < IMAGES / 2     # 1 in 14 by one operation, 1 in 196 by two
    differences = [abs(image.astype(int) - picture).mean() for image in made]
    assert max(differences) > 20
    weak = [abs(image.astype(int) - picture).mean() for image in as_bytes(augmented("RandAugment(1, 0)"))]
    assert np.mean(weak) < np.mean(differences)


def test_three_augment_is_grey_solarised_or_blurred_a_third_each(augmented, picture):
    grey = np.asarray(Image.fromarray(picture).convert("L"), int)[:, :, None]
    solarised = np.where(picture >= 128, 255 - picture, picture)
    kinds = {"grey": 0, "solarised": 0, "blurred": 0}
    for image in as_bytes(augmented(THREE_AUGMENT)):
        if abs(image - grey).max() <= 1:
            kinds["grey"] += 1
        elif (image == solarised).all():
            kinds["solarised"] += 1
        else:
            blurs = [ndimage.gaussian_filter(picture.astype(float), (sigma, sigma, 0), mode="mirror",
                                             radius=(reach, reach, 0)) for sigma, reach in ((0.5, 1), (1, 2), (2, 4))]
            assert min(abs(image - blur).max() for blur in blurs) <= 2
            kinds["blurred"] += 1
    assert min(kinds.values()) >= 10


@pytest.mark.parametrize(("angle", "high", "wide"), [
    (0, 1, 1), (0.12, 1, 1), (-0.12, 1, 1), (0, 1.2, 0.8), (0, 0.8, 1.2), (0.1, 1.15, 1.2), (math.pi / 2, 1, 1)])
@pytest.mark.parametrize("size", [(24, 24), (20, 33)])
def test_rotation_and_zoom_equal_scipys_affine_map_with_mirrored_edges(angle, high, wide, size, picture):
    pixels = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))
    middle = (np.array(size) - 1) / 2
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ np.diag([high, wide])
    expected = np.stack([ndimage.affine_transform(pixels[:, :, channel].astype(float), turned, middle - turned @ middle,
                                                  order=1, mode="reflect") for channel in range(3)], 2)
    np.testing.assert_allclose(rotated_zoomed(pixels, angle, high, wide), expected, atol=1.01)


def test_rotation_and_zoom_are_drawn_within_their_bounds(augmented):
    """Of a picture of one's own coordinates, each image tells its affine map."""
    ramp = np.zeros((SIDE, SIDE, 3), np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = np.mgrid[:SIDE, :SIDE] * 10
    operation = parse("RandomRotationZoom(7.2, 0.2)").build({})
    inner = slice(8, 16)
    for _ in range(100):
        made = operation(ramp)[inner, inner].astype(float) / 10
        down, right = np.polyfit(range(8), made[..., 0].mean(1), 1)[0], np.polyfit(range(8), made[..., 1].mean(0), 1)[0]
        tilt = np.polyfit(range(8), made[..., 0].mean(0), 1)[0] / right
        assert 0.77 < down < 1.23 and 0.77 < right < 1.23 and abs(math.degrees(math.atan(tilt))) < 7.9


@pytest.mark.parametrize("text", ["RandomRotationZoom(7.2, 0.2)", "RandomCorruption(1.0)"])
def test_our_operations_take_pillows_pictures_too(text, picture):
    made = parse(text).build({})(Image.fromarray(picture))
    assert made.shape == picture.shape and (made != picture).any()


@pytest.mark.parametrize(("text", "says"), [
    ("RandomRotationZoom(7.2, 1.5)", "zoom is from 0 to below 1, not 1.5"), ("RandomRotationZoom(7.2)", "zoom"),
    ("RandomCorruption(0.5, 'smog')", 'no corruption "smog"; give all, or some of gaussian_noise'),
    ("RandomCorruption()", "chance"), ("RandomCorruption(2)", "chance is from 0 to 1, not 2")])
def test_arguments_that_make_no_sense_get_one_line(text, says):
    with pytest.raises(UsageError, match=says):
        parse(text).build({})


def test_corruption_leaves_a_share_of_images_as_they_are(augmented, picture):
    untouched = sum((image == picture).all() for image in as_bytes(augmented("RandomCorruption(0.5, 'fog,contrast')")))
    assert 18 <= untouched <= 46        # half of 64, within 3.5 deviations
    assert all((image == picture).all() for image in as_bytes(augmented("RandomCorruption(0.0)")))
