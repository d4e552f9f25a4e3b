"""Grey images through a network of one channel, from files to predictions."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import ms_vit
from ms_vit.data.decoding import Grayscale
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import UsageError
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT, create_model
from ms_vit.weights.files import ModelSpec, read_spec, save_parameters
from ms_vit.weights.loading import load_model, load_weights

RECIPE = """
data: {name: NAME}
model: {image_size: 16, patch_size: 8, dim: 16, depth: 1, num_heads: 2, mlp_dim: 16}
augment:
  train: ["Decode()", "Resize((16, 16))", TRAIN"Normalize(mean, std)", "HWC2CHW()"]
  eval: ["Decode()", "Resize((image_size, image_size))", "Normalize(mean, std)", "HWC2CHW()"]
optimizer: {lr: 0.01}
train: {epochs: 2, batch_size: 8, precision: float32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grey PNGs of two classes, light and dark."""
    folder, random = tmp_path_factory.mktemp("grey"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, level in (("dark", 20), ("light", 200)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (level + random.integers(40, size=(20, 20))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_grey_is_pillows(pixels):
    made = Grayscale()(pixels)
    assert made.shape == (*pixels.shape[:2], 1) and made.dtype == np.uint8
    assert (made[..., 0] == np.asarray(Image.fromarray(pixels).convert("L"))).all()
    assert (Grayscale()(Image.fromarray(pixels)) == made).all()
    assert (Grayscale(3)(pixels) == np.repeat(made, 3, 2)).all()


def test_a_preprocessing_for_one_channel_is_grey_ahead_of_normalize():
    prepared = Preprocessing(image_size=16, mean=[0.5, 0.2, 0.4], std=[0.3, 0.3, 0.3])
    grey = prepared.for_channels(1)
    assert grey.transforms == ["Decode()", "Resize(resize_size)", "CenterCrop(image_size)", "Grayscale()",
                               "Normalize(mean, std)", "HWC2CHW()"]
    assert grey.mean == pytest.approx([0.3125]) and grey.std == pytest.approx([0.3])
    assert grey.for_channels(1) == grey and prepared.for_channels(3) == prepared
    grey.check()
    others = (["Decode(to_pil=True)", "Resize((16, 16))", "ToTensor()", "Normalize([0.5], [0.5], is_hwc=False)"],
              ["Decode()", "Compose([Resize((16, 16)), Grayscale()])", "Normalize(mean, std)", "HWC2CHW()"])
    for transforms in others:
        Preprocessing(image_size=16, transforms=transforms).for_channels(1).check()
    colours = np.random.default_rng(0).integers(256, size=(16, 16, 3)).astype(np.uint8)
    made = grey.apply(grey.operations(), Image.fromarray(colours))
    expected = (np.asarray(Image.fromarray(colours).resize((18, 18)).convert("L")) / 255 - 0.3125) / 0.3
    assert made.shape == (1, 16, 16) and abs(made.mean() - expected.mean()) < 0.05


@pytest.mark.parametrize(("changes", "says"), [
    ({"mean": [0.5], "std": [0.5, 0.5, 0.5]}, r"mean and std are of other channels: \[0.5\] and \[0.5, 0.5, 0.5\]"),
    ({"transforms": ["Decode()", "Resize(16)", "Grayscale()", "RandomCorruption(0.0)"], "mean": [0.5], "std": [0.5]},
     r'"RandomCorruption\(0.0\)" fails: it takes three channels, so it comes before Grayscale\(\)'),
    ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "mean must be three numbers, or one for grey images"),
    ({"std": [0.0], "mean": [0.5]}, "std must be three numbers above 0, or one for grey images"),
    ({"mean": [0.5], "std": [0.5]}, r"the transforms make float32 \(3, 16, 16\) of a picture, not float32 \(1, 16"),
    ({"transforms": ["Decode()", "Grayscale()", "Resize((16, 16))", "Normalize([0.5], [0.5])", "HWC2CHW()"]},
     r"the transforms make float32 \(1, 16, 16\) of a picture, not float32 \(3, 16, 16\)")])
def test_channels_that_contradict_each_other_are_one_line(changes, says):
    with pytest.raises(UsageError, match=says) as told:
        Preprocessing(image_size=16, **changes).check()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("operations", ['"RandomRotation(5)", ', '"Grayscale()", "RandomCrop(16, 2)", '])
def test_grey_images_are_trained_on_scored_named_and_exported(operations, folder, run, tmp_path):
    """By the command line; the mean and std are ImageNet's, in one number."""
    recipe = tmp_path / "grey.yaml"
    recipe.write_text(RECIPE.replace("NAME", str(folder)).replace("TRAIN", operations))
    runs = tmp_path / "run"
    assert run("train", "--recipe", recipe, "--model.channels", 1, "--run", runs)[0] == 0
    spec = read_spec(next(runs.glob("checkpoints/*/model.safetensors")))
    assert spec.config.channels == 1 and len(spec.preprocessing.mean) == 1
    assert spec.preprocessing.transforms[2] == "Grayscale()"
    _, scored, _ = run("eval", runs, "--data", folder, "--corrupt", "fog,contrast")
    assert scored["images"] == 8 and 0 <= scored["top1_corrupted"] <= 1
    picture = folder / "val" / "light" / "0.png"
    assert run("infer", runs, picture, "--out", tmp_path / "out")[1]["images"] == 1
    pytest.importorskip("onnxruntime")
    assert run("export", runs, "--format", "onnx", "--out", tmp_path / "grey.onnx")[1]["difference"] < 1e-4
    in_colours = Image.open(picture).convert("RGB")
    predict = ms_vit.Predictor(runs)
    assert predict([picture]) == predict([in_colours])


def test_other_channels_are_no_images(folder, run, tmp_path):
    recipe = tmp_path / "grey.yaml"
    recipe.write_text(RECIPE.replace("NAME", str(folder)).replace("TRAIN", ""))
    code, _, told = run("train", "--recipe", recipe, "--model.channels", 2, "--run", tmp_path / "run")
    assert code == 2 and '"model.channels" must be 3, or 1 for grey images, to train on image files, not 2' in told
    code, _, told = run("train", "--recipe", recipe, "--augment.mean", "[0.5]", "--augment.std", "[0.5]", "--run",
                        tmp_path / "run")
    assert code == 2 and '"augment.mean" is [0.5], and the network sees 3 channels; give as many numbers' in told


@pytest.mark.parametrize("stem", [{}, {"stem": [8, 12, 16, 16]}, {"stem": [8, 12, 16, 16], "stem_form": "pooled"}])
def test_weights_for_colours_see_grey_images_as_these_in_colours(stem, tmp_path):
    """A grey image's three channels are alike, so that the sum of their kernels is the same network."""
    config = dict(image_size=32, patch_size=16, num_classes=3, dim=16, depth=1, num_heads=2, mlp_dim=16, **stem)
    colours = ViT(ViTConfig(**config)).set_train(False)
    random = np.random.default_rng(0)
    for parameter in colours.trainable_params():
        parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape).astype(np.float32)))
    path = tmp_path / "colours.safetensors"
    save_parameters(path, colours.parameters_dict(), ModelSpec(
        config=colours.config, labels=Labels(list("abc"), list("abc")), preprocessing=Preprocessing(image_size=32)))
    grey = ViT(ViTConfig(**config, channels=1)).set_train(False)
    assert load_weights(grey, path).resized == ["channels 3 -> 1"]
    images = random.normal(size=(2, 1, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(grey(ms.Tensor(images)).asnumpy(),
                               colours(ms.Tensor(np.repeat(images, 3, 1))).asnumpy(), rtol=1e-4, atol=1e-5)


def test_timms_weights_for_one_channel_are_loaded_and_made_as_timm_makes_them(tmp_path):
    pytest.importorskip("benchmarks.torch_cpu", reason="it is compared with timm: pip install -e .[parity]")
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file
    from timm.models import adapt_input_conv

    small = dict(img_size=32, embed_dim=64, depth=1, num_heads=1, num_classes=3)
    state = timm.create_model("vit_tiny_patch16_224", **small).state_dict()
    save_file(state, tmp_path / "colours.safetensors")
    net = create_model("vit_tiny_patch16_32", dim=64, depth=1, num_heads=1, mlp_dim=256, num_classes=3, channels=1)
    load_weights(net, tmp_path / "colours.safetensors")
    np.testing.assert_allclose(net.patch_embed.proj.weight.asnumpy(),
                               adapt_input_conv(1, state["patch_embed.proj.weight"]).numpy(), atol=1e-6)
    state = timm.create_model("vit_tiny_patch16_224", in_chans=1, **small).state_dict()
    save_file(state, tmp_path / "grey.safetensors")
    _, spec = load_model(tmp_path / "grey.safetensors")
    assert spec.config.channels == 1 and spec.preprocessing.mean == [0.5]
    spec.preprocessing.check()
