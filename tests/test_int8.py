"""What is exported for OpenVINO, in float32 and in int8: made, measured, refused, and used, as a user types it."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

import ms_vit
from ms_vit import cli
from ms_vit.data.labels import Labels
from ms_vit.data.layout import Split
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.inference.int8 import choose
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.weights import exports
from ms_vit.weights.files import METADATA_KEY, ModelSpec, save_parameters

pytest.importorskip("onnx", reason="the export is checked with: pip install -e .[openvino]")
ov = pytest.importorskip("openvino", reason="the export is checked with: pip install -e .[openvino]")
pytest.importorskip("nncf", reason="int8 is checked with: pip install -e .[openvino]")

SPEC = ModelSpec(
    config=ViTConfig(image_size=16, patch_size=4, num_classes=10, dim=24, depth=2, num_heads=3, mlp_dim=40,
                     pool="flatten"),
    labels=Labels([str(digit) for digit in range(10)], [f"digit {digit}" for digit in range(10)]),
    preprocessing=Preprocessing(image_size=16))

INT8 = ["--format", "openvino", "--precision", "int8"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small network with random weights."""
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    net, random = ViT(SPEC.config), np.random.default_rng(0)
    for parameter in net.get_parameters():
        parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape).astype(np.float32)))
    save_parameters(file, net.parameters_dict(), SPEC)
    return file


@pytest.fixture(scope="module")
def native(weights) -> ms_vit.Predictor:
    return ms_vit.Predictor(weights)


@pytest.fixture(scope="module")
def data(native, tmp_path_factory) -> Path:
    """train/ is of digits; the pictures of val/ lie in the folders of the classes that the network takes them for, so
    that in float32 all of its answers are right; black/ holds a black picture."""
    root = tmp_path_factory.mktemp("data")
    ms_vit.download("digits", root)
    folder = root / "data"
    shutil.copytree(root / "digits" / "train", folder / "train")
    pictures = sorted((root / "digits" / "val").glob("*/*.png"))[::2]
    for picture, (answer,) in zip(pictures, native(pictures, top_k=1), strict=True):
        (folder / "val" / answer.id).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / "val" / answer.id)
    (folder / "black" / "0").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "black" / "0" / "a.png")
    return folder


@pytest.fixture(scope="module")
def int8(weights, data, tmp_path_factory) -> Path:
    """The network in int8, which the command of the issue makes."""
    out = tmp_path_factory.mktemp("int8") / "small.xml"
    argv = [weights, *INT8, "--calibrate", data / "train", "--max-drop", 30, "--out", out]
    assert cli.main(["export", *map(str, argv)]) == 0
    return out


def top1(file: Path, data: Path, run, tmp_path: Path) -> float:
    """By eval, as a user types it."""
    code, result, told = run("eval", file, "--data", data, "--engine", "openvino", "--out", tmp_path / "eval.json")
    assert code == 0, told
    return result["top1"]


def test_int8_is_measured_before_and_after_and_that_is_written_beside_it(int8, data, run, tmp_path):
    images = len(list((data / "val").glob("*/*.png")))
    written = json.loads(int8.with_suffix(".json").read_text())
    assert {path.name for path in int8.parent.iterdir()} == {"small.xml", "small.bin", "small.json"}
    found = top1(int8, data, run, tmp_path)
    assert written["int8"] == {"float32_top1": 1.0, "int8_top1": found, "images": images,
                               "measured_on": str(data / "val"), "calibrated_on": str(data / "train"), "pictures": 128}
    assert 0.7 <= found <= 1 and written["difference"] < 1e-5 and written["out"] == "small.xml"


def test_weights_and_activations_are_int8(int8):
    model = ov.Core().read_model(int8)
    kinds = Counter(operation.get_type_name() for operation in model.get_ops())
    assert kinds["FakeQuantize"] >= 8
    stored = Counter(operation.get_element_type().get_type_name() for operation in model.get_ops()
                     if operation.get_type_name() == "Constant" and operation.get_output_size()
                     and np.prod(operation.get_output_shape(0)) >= SPEC.config.dim ** 2)
    assert stored["i8"] >= 9 and not stored["f32"]      # qkv, proj, fc1, fc2 of both blocks, and the head


def test_int8_that_loses_more_than_a_point_is_refused_and_leaves_nothing(weights, data, run, tmp_path):
    """What was calibrated on black pictures cuts off the activations of all others."""
    argv = ["export", weights, *INT8, "--calibrate", data / "black", "--out", tmp_path / "new" / "a.xml"]
    code, _, told = run(*argv)
    assert code == 1
    line = told.splitlines()[-1]
    assert line.startswith("ms-vit: top-1 ")
    assert f" % in int8, 100.00 % in float32, of 180 images of {data / 'val'}; that is a loss of " in line
    assert line.endswith("points, more than 1, so nothing is written: stay with float32, or allow it by --max-drop")
    assert not list(tmp_path.iterdir())
    code, result, told = run(*argv, "--max-drop", 100)
    assert code == 0, told
    assert result["int8"]["int8_top1"] < 0.9 and result["int8"]["pictures"] == 1
    assert result["int8"]["int8_top1"] == top1(tmp_path / "new" / "a.xml", data, run, tmp_path)


def test_an_export_answers_with_names(int8, data, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = next((data / "val").glob("*/*.png"))
    code, _, told = run("infer", int8, picture, "--engine", "auto", "--top-k", 3)
    assert code == 0, told
    assert told.startswith(f"engine: openvino, which {int8} is for\n")
    (line,) = (tmp_path / "runs" / "small" / "predictions" / "predictions.jsonl").read_text().splitlines()
    answers = json.loads(line)["predictions"]
    assert all(answer["name"] == f"digit {answer['id']}" for answer in answers) and len(answers) == 3


def test_a_float32_export_computes_the_same_and_tells_no_top1(weights, native, data, tmp_path):
    made = ms_vit.export(weights, format="openvino", out=tmp_path / "a.xml")
    assert made.int8 is None and json.loads((tmp_path / "a.json").read_text())["int8"] is None
    predictor = ms_vit.Predictor(tmp_path / "a.xml", engine="openvino")
    assert predictor.spec == SPEC
    images = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(predictor.logits(images), native.logits(images), atol=1e-4)


# --- the pictures that int8 is calibrated on

@pytest.fixture
def split(tmp_path) -> Split:
    """Classes of 3, 40 and 40 empty files."""
    for name, count in (("a", 3), ("b", 40), ("c", 40)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").touch()
    return Split(tmp_path)


def test_every_class_has_an_equal_share(split):
    chosen = choose(split, 20)
    assert Counter(file.parent.name for file in chosen) in ({"a": 3, "b": 8, "c": 9}, {"a": 3, "b": 9, "c": 8})
    assert chosen == choose(split, 20)
    assert sorted(file.name for file in chosen if file.parent.name == "b") != [f"{n}.png" for n in range(10)]
    assert len(set(choose(split, 500))) == 83


def test_what_is_scored_is_left_out(split):
    scored = {file.resolve() for file in split.images()["b"]}
    assert Counter(file.parent.name for file in choose(split, 40, leave_out=scored)) == {"a": 3, "c": 37}
    assert len(choose(split, leave_out=scored)) == 43


def test_a_flat_folder_is_calibrated_on_what_is_not_held_out(weights, data, run, tmp_path):
    flat = data / "val"
    code, result, told = run("export", weights, *INT8, "--calibrate", flat,
                             "--data", flat, "--max-drop", 100, "--out", tmp_path / "a.xml")
    assert code == 0, told
    assert f"{flat} has no val/; val is the 20 % that training holds out" in told
    pictures, images = result["int8"]["pictures"], result["int8"]["images"]
    assert pictures + images <= 180 and pictures == min(128, 180 - images)


def test_nothing_left_to_calibrate_on_is_told(weights, data, run, tmp_path):
    code, _, told = run("export", weights, *INT8, "--calibrate", data / "val",
                        "--out", tmp_path / "a.xml")
    assert code == 1
    assert told.splitlines()[-1] == (f"ms-vit: all images of {data / 'val'} are among those of {data / 'val'}, which "
                                     "are scored; calibrate on others")


# --- mistakes


@pytest.mark.parametrize(("options", "says"), [
    (INT8, "--precision int8 needs --calibrate, a folder of training pictures such as data/digits/train"),
    (["--format", "openvino", "--calibrate", "train"],
     "--calibrate and --data are for --precision int8; give that, too, or leave them out"),
    (["--format", "onnx", "--data", "."],
     "--calibrate and --data are for --precision int8; give that, too, or leave them out"),
    (["--format", "onnx", "--precision", "int8", "--calibrate", "train"],
     "--precision int8 is for --format openvino, not for onnx"),
    (["--format", "openvino", "--precision", "bfloat16"],
     'no precision "bfloat16" to export in; there are float32, int8'),
    ([*INT8, "--calibrate", "train", "--max-drop", "-1"], "--max-drop must be 0 or more points of top-1, not -1.0"),
])
def test_options_that_do_not_go_together_get_one_line(options, says, weights, run, tmp_path):
    code, _, told = run("export", weights, *options, "--out", tmp_path / "a.xml")
    assert (code, told) == (2, f"ms-vit: {says}\n")
    assert not list(tmp_path.iterdir())


def test_a_calibration_folder_that_is_not_there_is_told(weights, data, run, tmp_path):
    code, _, told = run("export", weights, *INT8, "--calibrate", data / "training", "--out", tmp_path / "a.xml")
    assert code == 1 and f"ms-vit: {data / 'training'} is not there; " in told
    assert not list(tmp_path.iterdir())


def test_a_missing_nncf_is_named_with_its_remedy(weights, data, run, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ms_vit.weights.exports.openvino_int8", raising=False)
    monkeypatch.delattr(exports, "openvino_int8", raising=False)
    monkeypatch.setitem(sys.modules, "nncf", None)
    code, _, told = run("export", weights, *INT8, "--calibrate", data / "train", "--out", tmp_path / "a.xml")
    assert (code, told) == (2, 'ms-vit: the int8 export needs nncf; run: pip install "ms-vit[openvino]"\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["mindspore", "onnx"])
def test_another_engine_is_told_whose_file_it_is(engine, int8, data, run, tmp_path):
    code, _, told = run("eval", int8, "--data", data, "--engine", engine, "--out", tmp_path / "eval.json")
    assert (code, told) == (1, f"ms-vit: {int8} is an OpenVINO model, which eval and infer run by --engine openvino, "
                               "and nothing else does\n")


@pytest.mark.parametrize(("fault", "says"), [
    ("no bin", "can't be read as an OpenVINO model ("),
    ("cut bin", "can't be read as an OpenVINO model ("),
    ("cut xml", "can't be read as an OpenVINO model ("),
    ("no xml", "is no OpenVINO model; was it written completely?"),
    ("another's", "is no export of ms-vit: it doesn't tell its labels and preprocessing"),
    ("no spec", "has damaged metadata, or is of another version of ms-vit"),
    ("nine labels", "contradicts itself: its graph isn't of the network that it describes; export it again"),
    ("another size", "contradicts itself: its graph isn't of the network that it describes; export it again"),
    ("no preprocessing", "describes a preprocessing that can't be: "),
])
def test_a_damaged_export_gets_one_line(fault, says, int8, data, run, tmp_path):
    for path in int8.parent.iterdir():
        shutil.copy(path, tmp_path)
    file, spec = tmp_path / "small.xml", json.loads(SPEC.to_json())
    if fault == "no bin":
        file.with_suffix(".bin").unlink()
    elif fault == "cut bin":
        file.with_suffix(".bin").write_bytes(int8.with_suffix(".bin").read_bytes()[:1000])
    elif fault == "no xml":
        file.write_text("<?xml version='1.0'?><html>")
    elif fault == "cut xml":
        file.write_text(int8.read_text()[:5000])
    else:
        if fault == "nine labels":
            spec["labels"]["ids"].pop()
        elif fault == "another size":
            spec["config"]["channels"] = 1
        elif fault == "no preprocessing":
            spec["preprocessing"]["transforms"] = ["Resize(1)"]
        model = ov.Core().read_model(int8)
        if fault == "another's":
            del model.rt_info[METADATA_KEY]
        else:
            model.set_rt_info("{" if fault == "no spec" else json.dumps(spec), [METADATA_KEY])
        ov.save_model(model, file, compress_to_fp16=False)
    code, _, told = run("eval", file, "--data", data, "--engine", "openvino", "--out", tmp_path / "eval.json")
    assert code == 1 and told.startswith(f"ms-vit: {file} {says}") and told.count("\n") == 1, told
