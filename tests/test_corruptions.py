"""The corruptions of ImageNet-C: what each does to a picture, and evaluation under them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ms_vit.data.corruptions import CORRUPTIONS, STRENGTHS, chosen, draws_of, streak
from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import UsageError
from ms_vit.inference.robustness import CorruptedBatches, Robustness
from ms_vit.reports.figures import draw_robustness

NAMES = ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
         "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"]

LABELS = Labels(["a", "b"], ["a", "b"])


def natural(height, width):
    """A picture with as much in the large as photos have, and edges."""
    random = np.random.default_rng(0)
    picture = sum(np.asarray(Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC), float) / cells for cells in (3, 6, 12))
    picture = 40 + 150 * picture / picture.max()
    picture[height // 4 + 1:height // 2 + 3, width // 4 + 2:width // 2 + 1] = [200, 40, 60]
    return picture.astype(np.uint8)


def made(name, strength, pixels, number=0):
    return CORRUPTIONS[name](pixels, strength, draws_of(name, strength, number))


def harm(name, strength, pixels):
    """Root of the mean squared difference, over some draws."""
    return np.sqrt(np.mean([(made(name, strength, pixels, number) - pixels.astype(float)) ** 2 for number in range(4)]))


def test_there_are_the_fifteen_of_the_paper():
    assert list(CORRUPTIONS) == NAMES
    assert all(len(each.small) == len(each.large) == 5 for each in CORRUPTIONS.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(28, 28), (32, 48), (96, 96), (300, 224)])
def test_every_strength_gives_pixels_of_any_size_that_repeat_to_the_bit(name, size):
    pixels = natural(*size)
    before = pixels.copy()
    for strength in STRENGTHS:
        one = made(name, strength, pixels)
        assert one.dtype == np.uint8 and one.shape == pixels.shape
        assert (one == made(name, strength, pixels)).all() and (one != pixels).any()
    assert (pixels == before).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("elastic_transform", "frost", "fog")])
@pytest.mark.parametrize("side", [32, 224])
def test_harm_grows_with_strength(name, side):
    pixels = natural(side, side)
    harms = [harm(name, strength, pixels) for strength in STRENGTHS]
    assert harms[0] < harms[2] < harms[4]


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "fog", "contrast", "brightness",
                                  "pixelate", "jpeg_compression"])
def test_small_images_are_spared(name):
    """What a photo of 224 pixels bears is too much for 32."""
    assert harm(name, 5, natural(32, 32)) < harm(name, 5, natural(224, 224)) or name in ("pixelate", "jpeg_compression")
    amounts = [CORRUPTIONS[name].amounts(3, side) for side in (20, 32, 90, 224, 448)]
    assert amounts[0] == amounts[1] and amounts[3] == amounts[4]
    low, middle, high = amounts[1][0], amounts[2][0], amounts[3][0]
    assert min(low, high) < middle < max(low, high)


def test_lengths_grow_with_images_above_224_pixels():
    assert CORRUPTIONS["motion_blur"].amounts(3, 448) == pytest.approx([30, 16])
    assert CORRUPTIONS["glass_blur"].amounts(3, 448) == pytest.approx([2, 4, 3])


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow",
                                  "frost", "fog", "elastic_transform"])
def test_each_image_has_draws_of_its_own(name):
    pixels = natural(64, 64)
    assert (made(name, 3, pixels, 0) != made(name, 3, pixels, 1)).any()


def grey(value, side=224):
    return np.full((side, side, 3), value, np.uint8)


def test_noise_has_the_deviation_that_its_amount_says():
    assert np.std(made("gaussian_noise", 1, grey(128))) == pytest.approx(0.08 * 255, rel=0.02)
    # Poisson: of n photons, sqrt(n).
    assert np.std(made("shot_noise", 1, grey(128))) == pytest.approx(255 * np.sqrt(128 / 255 / 60), rel=0.02)
    salted = made("impulse_noise", 5, grey(128))
    assert np.mean(salted == 0) == pytest.approx(0.135, abs=0.005) == np.mean(salted == 255)


def test_brightness_is_hsvs_value_and_keeps_hue_and_saturation():
    pixels = np.random.default_rng(0).integers(60, 120, (224, 224, 3), np.uint8)
    before, after = (np.asarray(Image.fromarray(each).convert("HSV"), int) for each in
                     (pixels, made("brightness", 2, pixels)))
    assert abs(after[..., 2] - before[..., 2] - 0.2 * 255).max() <= 1
    assert abs(after[..., 1] - before[..., 1]).max() <= 3
    assert (made("brightness", 2, grey(0)) == round(0.2 * 255)).all()


def test_contrast_draws_values_to_each_channels_mean():
    pixels = natural(224, 224)
    mean = pixels.mean((0, 1))
    assert abs(made("contrast", 2, pixels) - (mean + 0.3 * (pixels - mean))).max() <= 0.51


def test_jpeg_and_pixels_are_pillows():
    pixels, file = natural(224, 224), io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=15)
    assert (made("jpeg_compression", 3, pixels) == np.asarray(Image.open(file))).all()
    blocks = made("pixelate", 5, pixels)
    assert (blocks.reshape(56, 4, 56, 4, 3) == blocks[::4, None, ::4, None][:, :, :, :].reshape(56, 1, 56, 1, 3)).all()
    means = pixels.reshape(56, 4, 56, 4, 3).mean((1, 3))
    assert abs(blocks[::4, ::4] - means).max() <= 1


def test_defocus_is_a_disc_and_motion_a_line_to_one_side():
    point = grey(0, 65)
    point[32, 32] = 255
    disc = CORRUPTIONS["defocus_blur"].function(point / np.float32(255), None, 6.0)[..., 0]
    y, x = np.mgrid[-32:33, -32:33]
    assert disc.sum() == pytest.approx(1, abs=1e-4)
    assert (disc[np.hypot(x, y) > 7] < 1e-6).all()
    assert np.ptp(disc[np.hypot(x, y) < 5]) < 1e-6
    for angle in (0, 30, -45):
        kernel = streak(10, 5, angle)
        y, x = (np.mgrid[-10:11, -10:11] * kernel).sum((1, 2)) / kernel.sum()
        assert np.degrees(np.arctan2(y, x)) == pytest.approx(angle, abs=0.5) and 3 < np.hypot(x, y) < 5


def test_blurs_take_away_what_is_fine_and_keep_the_mean():
    pixels = natural(224, 224)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"):
        blurred = made(name, 3, pixels)
        fine, finer = (abs(np.diff(each.astype(float), 2, axis=1)).mean() for each in (blurred, pixels))
        assert fine < 0.9 * finer
        assert blurred.mean() == pytest.approx(pixels.mean(), rel=0.03)


def test_zooming_leaves_the_middle_and_smears_the_rim():
    pixels = natural(225, 225)
    difference = abs(made("zoom_blur", 3, pixels) - pixels.astype(float)).mean(2)
    assert difference[108:117, 108:117].mean() < 0.3 * difference[:, :20].mean()


def test_glass_moves_pixels_no_farther_than_it_says():
    ramp = np.repeat(np.repeat(np.arange(0, 224, dtype=np.uint8)[:, None], 224, 1)[:, :, None], 3, 2)
    moved = CORRUPTIONS["glass_blur"].function(ramp / np.float32(255), np.random.default_rng(0), 0.01, 2.0, 1.0) * 255
    assert abs(moved[8:-8] - ramp[8:-8]).max() == pytest.approx(2, abs=1e-3)


def test_weather_lies_over_the_picture():
    dark = grey(40)
    assert all(made(name, 3, dark).mean() > dark.mean() for name in ("snow", "frost", "brightness"))
    # Fog of 2.5 times the lightest value leaves 1 part in 3.5 of what tells two pictures apart.
    pixels = np.minimum(natural(224, 224), 199)
    other = pixels[::-1].copy()
    pixels[0, 0] = other[0, 0] = 255
    apart = made("fog", 3, pixels).astype(float) - made("fog", 3, other)
    assert abs(apart - (pixels.astype(float) - other) / 3.5).max() <= 1
    # Flakes fall: what lies above one another is more alike than what is beside.
    flakes = made("snow", 3, grey(40))[..., 0].astype(float)
    assert abs(np.diff(flakes, axis=0)).mean() < 0.9 * abs(np.diff(flakes, axis=1)).mean()


def test_some_are_chosen_by_their_names():
    assert [each.name for each in chosen("all")] == NAMES
    assert [each.name for each in chosen("fog, snow,fog")] == ["fog", "snow"]
    for text in ("smog", "", "fog,", "all,fog"):
        with pytest.raises(UsageError, match=r'no corruption ".*"; give all, or some of gaussian_noise,'):
            chosen(text)


# --- evaluation


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "val"
    for number in range(7):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(natural(40 + number, 50)).save(folder / "ab"[number % 2] / f"{number}.jpg")
    return folder


@pytest.mark.parametrize("transforms", [
    None, ["Decode(to_pil=True)", "Resize(resize_size, Inter.BICUBIC)", "CenterCrop(image_size)",
           "Normalize(mean, std)", "HWC2CHW()"]])
def test_images_are_corrupted_between_crop_and_normalisation_the_same_in_any_batches(transforms, photos):
    prepared = Preprocessing(image_size=32, **({"transforms": transforms} if transforms else {}))
    found = {}
    for batch_size in (3, 7):
        made_of = CorruptedBatches(Split(photos), LABELS, prepared, chosen("contrast,gaussian_noise"),
                                   batch_size=batch_size)
        rows: dict[int, list] = {at: [] for at in range(10)}
        for at, images, _ in made_of:
            rows[at] += list(images)
        found[batch_size] = np.stack([np.stack(images) for images in rows.values()])
    assert found[3].shape == (10, 7, 3, 32, 32) and (found[3] == found[7]).all()
    file = sorted(photos.rglob("*.jpg"))[6]
    crop = np.fromfile(file, np.uint8)
    for operation in prepared.operations()[:3]:
        crop = operation(crop)
    crop = np.asarray(crop)
    expected = made("gaussian_noise", 5, crop, 6) / 255
    expected = (expected - prepared.mean) / prepared.std
    np.testing.assert_allclose(found[3][9, 6], expected.transpose(2, 0, 1), atol=1e-5)


def test_operations_that_bring_images_to_no_size_first_are_refused(photos):
    for transforms in (["Decode()", "Resize(resize_size)", "ToPIL()", "CenterCrop(image_size)", "ToTensor()"],
                       ["Decode(to_pil=True)", "Resize((32, 32))", "ToTensor()"]):
        with pytest.raises(UsageError, match=r"must begin with Decode, Resize, CenterCrop or such, not Decode\("):
            CorruptedBatches(Split(photos), LABELS, Preprocessing(image_size=32, transforms=transforms), chosen("all"),
                             batch_size=4)


def test_right_answers_are_counted_by_corruption_and_strength(photos):
    prepared = Preprocessing(image_size=32, transforms=["Decode()", "Resize((32, 32))", "Normalize(mean, std)",
                                                        "HWC2CHW()"])
    batches = CorruptedBatches(Split(photos), LABELS, prepared, chosen("contrast,fog"), batch_size=3)
    calls = []

    def logits(images):
        calls.append(len(images))
        return np.eye(2)[[int(len(calls) % 10 < 5)] * len(images)]      # b, b, b, b, a, and for fog a, a, a, a, b

    robustness = batches.score(logits)
    assert calls == [3] * 10 + [3] * 10 + [1] * 10 and len(batches) == 30
    a, b = (len(list((photos / name).iterdir())) / 7 for name in "ab")
    assert robustness.top1 == {"contrast": [b, b, b, b, a], "fog": pytest.approx([a, a, a, a, b])}


def test_means_and_the_table_follow_from_the_counts(tmp_path):
    robustness = Robustness({"fog": [1.0, 0.8, 0.6, 0.4, 0.2], "snow": [0.5, 0.4, 0.3, 0.2, 0.1]})
    assert robustness.means == pytest.approx({"fog": 0.6, "snow": 0.3}) and robustness.mean == pytest.approx(0.45)
    assert [line.split() for line in robustness.table()] == [
        ["top-1,", "strength", "1", "2", "3", "4", "5", "mean"],
        ["fog", "100.0", "80.0", "60.0", "40.0", "20.0", "60.0"],
        ["snow", "50.0", "40.0", "30.0", "20.0", "10.0", "30.0"],
        ["mean", "75.0", "60.0", "45.0", "30.0", "15.0", "45.0"]]
    assert json.loads(json.dumps(robustness.as_dict()))["mean_top1"] == robustness.mean
    draw_robustness(robustness, 1.0, tmp_path / "corrupt.png", "a")
    with Image.open(tmp_path / "corrupt.png") as chart:
        assert chart.width > 300
