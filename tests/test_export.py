"""Exports as a user types them: each is run by the library it is for, which then knows labels and preprocessing."""

import contextlib
import io
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import reference
from PIL import Image

from ms_vit import cli
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import UsageError
from ms_vit.models.config import SIZES, ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.weights import exports
from ms_vit.weights.exports import FORMATS, Source, exporter
from ms_vit.weights.exports.source import Pictures, pictures
from ms_vit.weights.files import ModelSpec, read_arrays, save_parameters
from ms_vit.weights.loading import load_model, read_pretrained

onnx = pytest.importorskip("onnx", reason="ONNX is checked with: pip install -e .[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is run by: pip install -e .[onnx]")

SMALL = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40}
LABELS = Labels(["n1", "n2", "n3", "n4", "n5"], ["crane", "dog", "crane", "cat", "owl"])
TRANSFORMS = ["Decode()", "Resize(resize_size, Inter.PILCUBIC)", "CenterCrop(image_size)", "Normalize(mean, std)",
              "HWC2CHW()"]
PREPROCESSING = Preprocessing(transforms=TRANSFORMS, image_size=32, mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])
# Together these have every option that changes the forward pass.
VARIANTS = {
    "flatten, padded, wide heads": {"pool": "flatten", "image_size": (20, 28), "head_dim": 5, "epsilon": 0.1},
    "fc_norm, registers": {"pool": "mean", "fc_norm": True, "registers": 2, "class_token": True, "gelu": "tanh",
                           "class_position": False, "layer_scale": True, "epsilon": 0.1},
    "mean alone": {"pool": "mean"},
    "distilled": {"distilled": True, "registers": 1, "channels": 1},
    "conv stem, padded": {"stem": [6, 8, 10], "image_size": (20, 28), "epsilon": 0.1},
    "post-norm, a deeper head": {"post_norm": True, "pos_embed": "none", "pool": "mean", "head_hidden": [9, 7],
                                 "gelu_twice": True},
    "qk-norm, fixed positions": {"qk_norm": True, "pos_embed": "sincos", "gelu": "tanh", "epsilon": 0.1},
    "pooled stem": {"stem": [6, 8, 10], "stem_form": "pooled", "image_size": (20, 28)},
}


def library(name: str) -> None:
    """Skips where a format's library is missing."""
    if name == "openvino":
        pytest.importorskip("openvino", reason="it is checked with: pip install -e .[openvino]")
    if name in ("timm", "huggingface"):
        reason = f"it is checked with: pip install -e .[{name}]"
        pytest.importorskip("torch", reason=reason)
        pytest.importorskip("benchmarks.torch_cpu", reason=reason)
        pytest.importorskip(FORMATS[name].runner, reason=reason)


def source(**changes) -> Source:
    """A small network with random weights, so that none (a zero head, unit norms) hides a fault."""
    net = ViT(ViTConfig(**SMALL | changes))
    net.set_train(False)
    random = np.random.default_rng(0)
    for parameter in net.get_parameters():
        values = random.normal(0, 0.3, parameter.shape).astype(np.float32)
        parameter.set_data(ms.Tensor(np.abs(values) if parameter.name.endswith("running_var") else values))
    return Source(net, ModelSpec(config=net.config, labels=LABELS, preprocessing=PREPROCESSING))


def images(source: Source, count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *source.image_shape)).astype(np.float32)


def difference(name: str, source: Source, path: Path, count: int = 2) -> float:
    """Between the logits of an export in a format and those of the network."""
    to = exporter(name)
    to.write(source, path)
    batch = images(source, count)
    return np.abs(to.run(path)(batch) - source.net(ms.Tensor(batch)).asnumpy()).max()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    original = source()
    save_parameters(path, original.net.parameters_dict(), original.spec)
    return path


@pytest.fixture
def run(capfd):
    """run("export", ...) -> exit code, the result as JSON, and the lines that begin with "ms-vit:"."""
    def run(*argv: object) -> tuple[int, dict, list[str]]:
        code = cli.main([*map(str, argv), "--json"])
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        told = [line for line in err.splitlines() if line.startswith("ms-vit:")]
        return code, json.loads(out.splitlines()[-1]) if code == 0 else {}, told
    return run


@dataclass
class Exported:
    """What a format's command wrote and printed."""

    out: Path
    result: dict


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """exported("onnx") -> the checkpoint in a format, by the command line; once for all tests of a format."""
    done: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        library(name)
        if name not in done:
            out = tmp_path_factory.mktemp(name) / "new" / f"small{FORMATS[name].suffix}"
            printed = io.StringIO()
            before = os.umask(0o027)
            try:
                with contextlib.redirect_stdout(printed):
                    code = cli.main(["export", str(checkpoint), "--format", name, "--out", str(out), "--json"])
            finally:
                os.umask(before)
            assert code == 0
            done[name] = Exported(out, json.loads(printed.getvalue().splitlines()[-1]))
        return done[name]
    return export


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_tells_the_difference_and_leaves_ordinary_files(name, exported):
    out, result = exported(name).out, exported(name).result
    assert result | {"difference": 0} == {"out": str(out), "format": name, "difference": 0,
                                          "compared_with": FORMATS[name].runner, "int8": None}
    assert 0 <= result["difference"] < 1e-5
    assert [path.name for path in out.parents[1].iterdir()] == ["new"]
    for path in out.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path     # by the umask 027
    made = {str(path.relative_to(out.parent)) for path in out.parent.rglob("*") if path.is_file()}
    assert made == {
        "onnx": {"small.onnx"}, "openvino": {"small.xml", "small.bin", "small.json"},
        "safetensors": {"small.safetensors"}, "mindir": {"small.mindir", "small.mindir.json"},
        "timm": {"small/model.safetensors", "small/config.json"},
        "huggingface": {"small/model.safetensors", "small/config.json", "small/preprocessor_config.json"}}[name]


# --- ONNX

@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_and_openvino_have_every_vit(variant, tmp_path):
    original = source(**VARIANTS[variant])
    assert difference("onnx", original, tmp_path / "a.onnx") < 2e-5
    library("openvino")
    assert difference("openvino", original, tmp_path / "a.xml") < 2e-5


@pytest.mark.parametrize(("pool", "gelu"), [("cls", "exact"), ("mean", "tanh")])
def test_onnx_equals_a_float64_vit_on_sizes_that_need_padding(pool, gelu, tmp_path):
    original = source(image_size=(20, 28), pool=pool, gelu=gelu)
    to = exporter("onnx")
    to.write(original, tmp_path / "a.onnx")
    batch = images(original, 3)
    expected = reference.vit(original.arrays, batch, patch_size=8, depth=2, num_heads=3, pool=pool, form=gelu)
    np.testing.assert_allclose(to.run(tmp_path / "a.onnx")(batch), expected, rtol=1e-4, atol=1e-4)


def test_an_onnx_file_says_what_it_is_and_takes_any_batch(exported, checkpoint):
    file = exported("onnx").out
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version == 8        # what onnxruntime has read since 1.11

    session = onnxruntime.InferenceSession(file)
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("images", ["batch", 3, 32, 32])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [("logits", ["batch", 5])]
    spec = load_model(checkpoint)[1]
    told = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in told.items()} == json.loads(spec.to_json())

    batch = np.random.default_rng(0).normal(size=(9, 3, 32, 32)).astype(np.float32)
    whole = session.run(None, {"images": batch})[0]
    for count in (1, 2, 9):
        np.testing.assert_allclose(session.run(None, {"images": batch[:count]})[0], whole[:count], atol=1e-5)


def test_onnxruntime_fuses_the_exact_gelu(exported, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(exported("onnx").out, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert operators.count("BiasGelu") == 2 and "Erf" not in operators


def test_a_network_that_no_onnx_file_can_hold_is_refused(tmp_path, monkeypatch):
    from ms_vit.weights.exports import onnx_graph

    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 10_000)
    with pytest.raises(UsageError, match="safetensors and MindSpore have no bound"):
        onnx_graph.write(source(), tmp_path / "a.onnx")


# --- MINDIR and our own

def test_what_mindir_has_no_place_for_is_beside_it(exported, checkpoint):
    file = exported("mindir").out
    _, spec = load_model(checkpoint)
    assert json.loads((file.parent / "small.mindir.json").read_text()) == json.loads(spec.to_json())


@pytest.mark.parametrize("variant", ["conv stem, padded", "pooled stem", "post-norm, a deeper head"])
def test_a_mindir_takes_any_batch(variant, tmp_path):
    assert difference("mindir", source(**VARIANTS[variant]), tmp_path / "a.mindir", count=3) < 1e-5


def test_a_mindir_whose_weights_mindspore_keeps_apart_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(ms.train.serialization, "TOTAL_SAVE", 1)        # kB, instead of 1 GB
    path = tmp_path / "large.mindir"
    assert difference("mindir", source(), path) < 1e-5
    apart = list((tmp_path / "large_variables").iterdir())
    assert apart and {file.name for file in tmp_path.iterdir()} == {"large.mindir", "large.mindir.json",
                                                                    "large_variables"}
    modes = {stat.S_IMODE(file.stat().st_mode) for file in [path, *apart]}
    assert modes == {stat.S_IMODE((tmp_path / "large.mindir.json").stat().st_mode)}


def test_our_own_format_brings_everything_back(exported, checkpoint):
    (before, spec), (after, told) = load_model(checkpoint), load_model(exported("safetensors").out)
    assert told == spec
    for one, other in zip(before.get_parameters(), after.get_parameters(), strict=True):
        assert one.name == other.name and (one.asnumpy() == other.asnumpy()).all()


# --- timm and Hugging Face

@pytest.mark.parametrize("name", ["timm", "huggingface"])
@pytest.mark.parametrize("distilled", [False, True])
def test_weights_come_back_bitwise_from_another_librarys_names(name, distilled, tmp_path):
    library(name)
    original = source(distilled=distilled)
    exporter(name).write(original, tmp_path / "folder")
    back = read_pretrained(tmp_path / "folder").arrays
    assert back.keys() == original.arrays.keys()
    for key, array in original.arrays.items():
        assert back[key].dtype == array.dtype and (back[key] == array).all(), key


@pytest.mark.parametrize("changes", [
    {"pool": "mean", "fc_norm": True, "registers": 2, "class_token": True, "class_position": False,
     "layer_scale": True, "gelu": "tanh", "mlp_dim": 49, "image_size": (16, 32), "channels": 1, "qk_norm": True},
    {"distilled": True, "qk_norm": True},
    {"pos_embed": "none", "pool": "mean"},
    {"pos_embed": "sincos"},
])
def test_timm_runs_what_only_it_and_we_have(changes, tmp_path):
    library("timm")
    assert difference("timm", source(**changes), tmp_path / "folder") < 2e-5


def test_hugging_face_runs_a_distilled_one_with_our_numerics(tmp_path):
    library("huggingface")
    original = source(distilled=True, gelu="tanh", epsilon=0.1)
    assert difference("huggingface", original, tmp_path / "folder") < 2e-5


def test_timm_knows_labels_and_prepares_pictures_as_we_do(exported, picture):
    library("timm")
    import timm

    model = timm.create_model(f"local-dir:{exported('timm').out}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == LABELS.ids
    assert model.pretrained_cfg["label_descriptions"] == dict(zip(LABELS.ids, LABELS.names, strict=True))
    prepare = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    assert np.abs(prepare(picture).numpy() - prepared(PREPROCESSING, picture)).max() < 0.03


def test_hugging_face_knows_labels_and_prepares_pictures_as_we_do(exported, picture):
    library("huggingface")
    import transformers

    config = transformers.AutoConfig.from_pretrained(exported("huggingface").out)
    assert config.id2label == {0: "crane (n1)", 1: "dog", 2: "crane (n3)", 3: "cat", 4: "owl"}
    assert config.label2id == {name: index for index, name in config.id2label.items()}
    prepare = transformers.AutoImageProcessor.from_pretrained(exported("huggingface").out)
    pixels = prepare(picture, return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels - prepared(PREPROCESSING, picture)).max() < 0.03


@pytest.mark.parametrize("resize", ["Resize((image_size, image_size), Inter.PILCUBIC)",
                                    "Resize((resize_size, resize_size), Inter.PILCUBIC)"])
def test_pictures_that_we_squash_are_squashed_by_others(resize, picture, tmp_path):
    library("timm")
    library("huggingface")
    import timm
    import transformers

    crop = ["CenterCrop(image_size)"] if "resize_size" in resize else []
    preprocessing = Preprocessing(transforms=["Decode()", resize, *crop, "Normalize(mean, std)", "HWC2CHW()"],
                                  image_size=32)
    original = source()
    original.spec.preprocessing = preprocessing
    expected = prepared(preprocessing, picture)
    exporter("timm").write(original, tmp_path / "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}")
    pixels = timm.data.create_transform(**timm.data.resolve_data_config(model=model))(picture).numpy()
    assert np.abs(pixels - expected).max() < 0.03
    exporter("huggingface").write(original, tmp_path / "hf")
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert np.abs(prepare(picture, return_tensors="np")["pixel_values"][0] - expected).max() < 0.03


@pytest.fixture
def picture() -> Image.Image:
    """Smooth, so that libraries which round otherwise still agree; neither square nor of the model's size."""
    y, x = np.mgrid[0:57, 0:83] / 57
    return Image.fromarray((127 + 127 * np.sin(np.stack([5 * x, 4 * y, 3 * x * y], -1))).astype(np.uint8))


def prepared(preprocessing: Preprocessing, picture: Image.Image) -> np.ndarray:
    return preprocessing.apply(preprocessing.operations(), picture)


@pytest.mark.parametrize(("transforms", "described"), [
    (["Resize(resize_size)", "CenterCrop(image_size)"], Pictures(35, 0.9, "bilinear")),
    (["Resize(image_size, interpolation=Inter.BICUBIC)", "CenterCrop(image_size)"], Pictures(32, 1.0, "bicubic")),
    (["Resize((image_size, image_size))"], Pictures((32, 32), 1.0, "bilinear")),
    (["Resize(image_size)"], None),
    (["CenterCrop(image_size)", "Resize(resize_size)"], None),
    (["Resize(resize_size)", "CenterCrop(8)"], None),
    (["Resize(resize_size, Inter.AREA)", "CenterCrop(image_size)"], None),
    (["Grayscale(3)", "Resize(resize_size)", "CenterCrop(image_size)"], None),
])
def test_a_preprocessing_is_put_into_others_words_or_not_at_all(transforms, described):
    whole = ["Decode()", *transforms, "Normalize(mean, std)", "HWC2CHW()"]
    assert pictures(Preprocessing(transforms=whole, image_size=32, crop_pct=0.9)) == described


def test_a_crop_of_any_share_gives_others_the_same_side():
    for side in range(224, 600):
        whole = ["Decode()", f"Resize({side})", "CenterCrop(image_size)", "Normalize(mean, std)", "HWC2CHW()"]
        described = pictures(Preprocessing(transforms=whole, image_size=224))
        assert described is not None and int(224 / described.crop_pct) == side


@pytest.mark.parametrize(("name", "changes", "says"), [
    ("huggingface", {"pool": "mean"}, "mean pooling"),
    ("huggingface", {"pool": "flatten"}, "flattening head"),
    ("huggingface", {"fc_norm": True}, "fc_norm"),
    ("huggingface", {"registers": 4}, "registers"),
    ("huggingface", {"layer_scale": True}, "layer scale"),
    ("huggingface", {"class_position": False}, "class token without a position"),
    ("huggingface", {"head_dim": 4}, "head_dim"),
    ("huggingface", {"stem": [6, 8, 10]}, "conv stem"),
    ("timm", {"stem": [6, 8, 10]}, "conv stem"),
    ("huggingface", {"image_size": 30}, "multiple of the patch"),
    ("timm", {"pool": "flatten"}, "flattening head"),
    ("timm", {"head_hidden": [8]}, "hidden layers in its head"),
    ("timm", {"post_norm": True}, "post-norm"),
    ("timm", {"gelu_twice": True}, "second GELU"),
    ("timm", {"distilled": True, "pos_embed": "none"}, "without a position"),
    ("huggingface", {"pos_embed": "none"}, "without positions"),
    ("huggingface", {"qk_norm": True}, "qk-norm"),
    ("huggingface", {"head_hidden": [8]}, "hidden layers in its head"),
    ("timm", {"image_size": 30}, "multiple of the patch"),
    ("timm", {"distilled": True, "registers": 1}, "registers beside"),
    ("timm", {"distilled": True, "class_position": False}, "without a position"),
])
def test_a_vit_that_a_library_lacks_is_refused_with_the_reason(name, changes, says, tmp_path):
    library(name)
    with pytest.raises(UsageError, match=f"has no .*{says}.* take every ViT"):
        exporter(name).write(source(**changes), tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_another_librarys_weights_are_exported_by_the_models_name(exported, run, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "nano", {key: SMALL[key] for key in ("dim", "depth", "num_heads", "mlp_dim")})
    file = exported("huggingface").out / "model.safetensors"
    code, _, _ = run("export", file, "--model", "vit_nano_patch8_32", "--format", "safetensors",
                     "--out", tmp_path / "a.safetensors")
    assert code == 0
    assert read_arrays(tmp_path / "a.safetensors").keys() == source().arrays.keys()


# --- mistakes and mishaps

def test_too_large_a_difference_is_a_failure_and_leaves_what_was_there(checkpoint, run, tmp_path, monkeypatch):
    from ms_vit.weights.exports import onnx_graph, onnx_runtime

    def write(source: Source, path: Path) -> None:
        model = onnx_graph.build(source)
        bias = next(each for each in model.graph.initializer if each.name == "head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(2e-4), "head.bias"))
        onnx.save(model, path)

    monkeypatch.setattr(onnx_runtime, "write", write)
    (tmp_path / "small.onnx").write_text("the one before")
    code, _, told = run("export", checkpoint, "--format", "onnx", "--out", tmp_path / "small.onnx")
    assert code == 1
    assert len(told) == 1 and "logits of the onnx export differ by 2.0e-04, more than 1e-04" in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    assert (tmp_path / "small.onnx").read_text() == "the one before"


@pytest.mark.parametrize("answer", ["nan", "error"])
def test_an_export_that_does_not_run_is_a_failure(answer, checkpoint, run, tmp_path, monkeypatch):
    from ms_vit.weights.exports import onnx_runtime

    def logits(batch: np.ndarray) -> np.ndarray:
        if answer == "error":
            raise RuntimeError("no kernel\nfor this")
        return np.full((len(batch), 5), np.nan if len(batch) > 1 else 0, np.float32)

    monkeypatch.setattr(onnx_runtime, "run", lambda path: logits)
    code, _, told = run("export", checkpoint, "--format", "onnx", "--out", tmp_path / "small.onnx")
    assert code == 1 and len(told) == 1
    assert {"nan": "differ by nan", "error": "onnxruntime can't run the onnx export (no kernel)"}[answer] in told[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "module"), [("onnx", "onnxruntime"), ("openvino", "openvino"),
                                              ("timm", "timm"), ("huggingface", "torch")])
def test_a_missing_library_is_named_with_its_remedy(name, module, checkpoint, run, tmp_path, monkeypatch):
    own = f"ms_vit.weights.exports.{FORMATS[name].module}"
    monkeypatch.delitem(sys.modules, own, raising=False)
    monkeypatch.delattr(exports, FORMATS[name].module, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, told = run("export", checkpoint, "--format", name, "--out", tmp_path / f"a{FORMATS[name].suffix}")
    assert code == 2
    assert told == [f'ms-vit: the {name} export needs {module}; run: pip install "ms-vit[{name}]"']
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "out", "says"), [
    ("tflite", "a.tflite", 'no format "tflite"; there are onnx, openvino, mindir, safetensors, timm, huggingface'),
    ("onnx", "a.bin", "ends in .onnx"),
    ("openvino", "a.bin", "ends in .xml"),
    ("mindir", "a", "ends in .mindir"),
    ("onnx", "folder.onnx", "is a folder"),
    ("timm", "a.safetensors", "writes a folder"),
    ("timm", "full", "is there already"),
])
def test_a_wrong_format_or_place_gets_one_line(name, out, says, checkpoint, run, tmp_path):
    library(name)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    code, _, told = run("export", checkpoint, "--format", name, "--out", tmp_path / out)
    assert code == 2 and len(told) == 1 and says in told[0]
    assert (tmp_path / "full" / "config.json").read_text() == "{}"
