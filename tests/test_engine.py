"""The same answers from ONNX Runtime and OpenVINO: --engine onnx, openvino, auto, and the export that is kept."""

import json
import os
import shutil
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

import ms_vit
from ms_vit import caches
from ms_vit.data.labels import Labels, imagenet_labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.inference import engines
from ms_vit.inference import kept as keeping
from ms_vit.inference.engines import fastest
from ms_vit.inference.kept import key_of
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.runs.checkpoints import MODEL, OPTIMIZER, Checkpoints, TrainState
from ms_vit.weights import exports
from ms_vit.weights.exports import checked
from ms_vit.weights.files import ModelSpec, save_parameters
from ms_vit.weights.loading import read_model

onnx = pytest.importorskip("onnx", reason="the engine is checked with: pip install -e .[onnx]")
pytest.importorskip("onnxruntime", reason="the engine is checked with: pip install -e .[onnx]")

SMALL = {"image_size": 16, "patch_size": 4, "num_classes": 10, "dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40,
         "pool": "flatten"}
DIGITS = Labels([str(digit) for digit in range(10)], [f"digit {digit}" for digit in range(10)])
SPEC = ModelSpec(config=ViTConfig(**SMALL), labels=DIGITS, preprocessing=Preprocessing(image_size=16))


def network(seed: int) -> ViT:
    """A small network with random weights; by its flattening head, different pictures have different answers."""
    net, random = ViT(ViTConfig(**SMALL)), np.random.default_rng(seed)
    for parameter in net.get_parameters():
        parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape).astype(np.float32)))
    return net


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A weight file that was used with --engine onnx once, alone with its export in a folder."""
    file = tmp_path_factory.mktemp("used") / "small.safetensors"
    save_parameters(file, network(0).parameters_dict(), SPEC)
    ms_vit.Predictor(file, engine="onnx")
    return file


@pytest.fixture
def weights(used, tmp_path) -> Path:
    """A copy of that, to be changed."""
    return Path(shutil.copytree(used.parent, tmp_path / "weights")) / used.name


@pytest.fixture(scope="module")
def native(used) -> ms_vit.Predictor:
    return ms_vit.Predictor(used, batch_size=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    ms_vit.download("digits", root)
    return root


@pytest.fixture(scope="module")
def pictures(root) -> list[Path]:
    return sorted((root / "digits" / "infer").glob("*.png"))[:8]


def kept(weights: Path) -> list[Path]:
    return sorted(weights.parent.glob("*.onnx"))


def forbid_exports(monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("MindSpore's network was built again")

    monkeypatch.setattr(keeping, "network", refuse)


def assert_same(ours: list, theirs: list) -> None:
    """Answers of two engines: the same classes in the same order, with nearly the same probabilities."""
    assert [[p.index for p in answer] for answer in ours] == [[p.index for p in answer] for answer in theirs]
    np.testing.assert_allclose([[p.probability for p in answer] for answer in ours],
                               [[p.probability for p in answer] for answer in theirs], atol=1e-4)


# --- the same answers

def test_logits_equal_the_networks_for_any_number_of_images(used, native, pictures):
    predictor = ms_vit.Predictor(used, engine="onnx", batch_size=8)
    images = np.stack([native.prepare(picture) for picture in pictures])
    expected = native.logits(images)
    assert expected.shape == (8, 10) and expected.std(0).min() > 0.1       # the pictures make a difference
    for count in (8, 3, 1):
        logits = predictor.logits(images[:count])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:count], atol=1e-4, rtol=0)


def test_a_predictor_answers_the_same(used, native, pictures):
    assert_same(ms_vit.Predictor(used, engine="onnx", batch_size=5)(pictures, top_k=10), native(pictures, top_k=10))


def test_eval_as_a_user_types_it_gives_the_same_scores(used, root, run, tmp_path):
    reports = []
    for engine in ("mindspore", "onnx"):
        out = tmp_path / f"{engine}.json"
        code, result, told = run("eval", used, "--data", root / "digits", "--engine", engine, "--out", out)
        assert code == 0, told
        reports.append(json.loads(out.read_text()))
        assert result == {key: reports[-1][key] for key in ("top1", "top5", "images")} | {
            "out": str(out), "top1_flip": None, "top1_corrupted": None}
    ours, theirs = reports
    assert ours["images"] == 359 and ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert ours["confusion"] == theirs["confusion"] and ours["top5"] == theirs["top5"]


def test_infer_as_a_user_types_it_names_the_same(used, native, pictures, run, tmp_path):
    code, result, told = run("infer", used, *pictures, "--engine", "onnx", "--batch-size", 3, "--out", tmp_path,
                             "--top-k", 2)
    assert code == 0 and result == {"images": 8, "skipped": 0, "out": str(tmp_path)}, told
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    expected = [[(p.index, p.name) for p in answer] for answer in native(pictures, top_k=2)]
    assert [[(p["index"], p["name"]) for p in line["predictions"]] for line in lines] == expected


def test_a_pretrained_vit_names_photos_as_in_mindspore(shared_data, tmp_path):
    name = "vit_tiny_patch16_224"
    (tmp_path / f"{name}.safetensors").symlink_to(shared_data / f"{name}.safetensors")
    with zipfile.ZipFile(shared_data / "imagenet_mini.zip") as archive:
        photos = sorted(each for each in archive.namelist() if "/val/" in f"/{each}" and each.endswith(".JPEG"))[::100]
        files = [archive.extract(photo, tmp_path / "photos") for photo in photos]
    assert len(files) == 4
    one, other = (ms_vit.Predictor(tmp_path / f"{name}.safetensors", model=name, engine=engine, batch_size=3)
                  for engine in ("mindspore", "onnx"))
    images = np.stack([one.prepare(file) for file in files[:3]])
    np.testing.assert_allclose(other.logits(images), one.logits(images), atol=1e-4, rtol=0)
    answers = other(files)
    assert_same(answers, one(files))
    wnids = imagenet_labels().ids
    right = [Path(file).parent.name in [wnids[p.index] for p in answer]
             for file, answer in zip(files, answers, strict=True)]
    assert sum(right) >= 3, answers         # among the first five


# --- the export that is kept

def test_the_export_is_kept_beside_the_weights_and_nothing_else(used):
    (file,) = kept(used)
    assert file.name == f"small-{key_of(*read_model(used))[:12]}.onnx"
    assert {path.name for path in used.parent.iterdir()} == {used.name, file.name}
    onnx.checker.check_model(onnx.load(file), full_check=True)      # the seal at its end is part of the format


def test_the_second_use_builds_no_network(weights, native, pictures, monkeypatch):
    forbid_exports(monkeypatch)
    before = kept(weights)[0].stat().st_mtime_ns
    assert_same(ms_vit.Predictor(weights, engine="onnx")(pictures), native(pictures))
    assert [file.stat().st_mtime_ns for file in kept(weights)] == [before]


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "another's", "no onnx"])
def test_a_kept_file_that_is_not_as_it_was_is_made_anew(damage, weights, native, pictures, capfd):
    (file,) = kept(weights)
    good = file.read_bytes()
    if damage == "cut":
        file.write_bytes(good[:-1000])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "a bit":
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        file.write_bytes(bad)
    else:
        file.write_bytes(b"")
        if damage == "another's":
            other = weights.with_name("other.safetensors")
            save_parameters(other, network(1).parameters_dict(), SPEC)
            ms_vit.Predictor(other, engine="onnx")
            next(weights.parent.glob("other-*.onnx")).replace(file)
        else:
            from ms_vit.weights.exports.onnx_graph import seal

            file.write_bytes(b"no onnx")
            seal(file, key_of(*read_model(weights)), np.zeros((3, 10), np.float32))
    capfd.readouterr()
    assert_same(ms_vit.Predictor(weights, engine="onnx")(pictures), native(pictures))
    told = capfd.readouterr().err
    assert f"{file} can't be loaded (" in told if damage in ("empty", "no onnx") else f"{file} is not as it was" in told
    assert kept(weights) == [file] and file.read_bytes() == good


def test_other_weights_under_the_same_name_get_an_export_of_their_own(weights, pictures):
    (file,) = kept(weights)
    save_parameters(weights, network(1).parameters_dict(), SPEC)
    assert_same(ms_vit.Predictor(weights, engine="onnx")(pictures), ms_vit.Predictor(weights, batch_size=8)(pictures))
    assert len(kept(weights)) == 2 and file in kept(weights)


def test_all_that_decides_an_export_is_in_its_key(used, monkeypatch, tmp_path):
    pretrained, spec = read_model(used)
    key = key_of(pretrained, spec)
    assert key_of(*read_model(used)) == key
    weights = pretrained.arrays | {"head.bias": pretrained.arrays["head.bias"] + np.float32(1e-6)}
    wider = pretrained.arrays | {"head.bias": pretrained.arrays["head.bias"].reshape(2, 5)}
    keys = [key_of(replace(pretrained, arrays=weights), spec), key_of(replace(pretrained, arrays=wider), spec),
            key_of(pretrained, replace(spec, config=replace(spec.config, gelu="tanh"))),
            key_of(pretrained, replace(spec, labels=Labels(DIGITS.ids, DIGITS.ids))),
            key_of(pretrained, replace(spec, preprocessing=replace(spec.preprocessing, crop_pct=0.9)))]
    code = Path(shutil.copytree(caches.PACKAGE, tmp_path / "ms_vit"))
    monkeypatch.setattr(caches, "PACKAGE", code)
    assert key_of(pretrained, spec) == key
    with (code / "weights" / "exports" / "onnx_graph.py").open("a") as file:
        file.write("# another release\n")
    keys.append(key_of(pretrained, spec))
    assert len({key, *keys}) == 7


def test_an_export_whose_logits_differ_is_not_kept(weights, pictures, run, monkeypatch):
    from ms_vit.weights.exports import onnx_graph

    def write(source: exports.Source, path: Path) -> None:
        model = onnx_graph.build(source)
        bias = next(each for each in model.graph.initializer if each.name == "head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(2e-4), "head.bias"))
        onnx.save(model, path)

    kept(weights)[0].unlink()
    monkeypatch.setattr(onnx_graph, "write", write)
    code, _, told = run("infer", weights, pictures[0], "--engine", "onnx")
    assert code == 1
    assert told.splitlines()[-1].startswith("ms-vit: the logits of the onnx export differ by 2.0e-04, more than 1e-04")
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_where_nothing_can_be_kept_the_export_serves_the_call(weights, native, pictures, capfd, monkeypatch, tmp_path):
    """As a read-only folder has it, which the machine's root could write to all the same."""
    make, folder = tempfile.mkdtemp, weights.parent

    def mkdtemp(suffix=None, prefix=None, dir=None):
        if Path(dir or tmp_path) == folder:
            raise PermissionError(13, "Permission denied", str(folder))
        return make(suffix, prefix, dir)

    kept(weights)[0].unlink()
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        assert_same(ms_vit.Predictor(weights, engine="onnx")(pictures), native(pictures))
        (told,) = [line for line in capfd.readouterr().err.splitlines() if "can't keep" in line]
        assert told.endswith("(permission denied); the export is for this call alone")
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    assert [path.name for path in folder.iterdir()] == [weights.name]


def test_a_runs_checkpoint_stays_valid_with_an_export_and_takes_it_along(pictures, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({MODEL: network(0).parameters_dict(), OPTIMIZER: {}}, SPEC, TrainState(step=1, best_step=1), {})
    ms_vit.Predictor(tmp_path, engine="onnx")
    first = tmp_path / "checkpoints" / "00000001"
    assert len(kept(first / "model.safetensors")) == 1
    assert checkpoints.newest() == first
    assert ms_vit.Predictor(tmp_path, engine="onnx").weights == first / "model.safetensors"
    checkpoints.save({MODEL: network(1).parameters_dict(), OPTIMIZER: {}}, SPEC, TrainState(step=2, best_step=2), {})
    checkpoints.prune(1)
    assert not first.exists()
    assert ms_vit.infer(tmp_path, pictures[:1], engine="onnx").out == tmp_path / "predictions"


def test_a_hubs_folder_keeps_its_export_inside(weights, native, pictures, monkeypatch):
    (file,) = kept(weights)
    weights.rename(weights.with_name("model.safetensors"))
    weights.with_name("config.json").write_text("{}")
    monkeypatch.chdir(weights.parent)
    assert_same(ms_vit.Predictor(".", engine="onnx")(pictures), native(pictures))
    made = file.with_name(file.name.replace("small", "model"))
    assert set(kept(weights)) == {file, made}
    forbid_exports(monkeypatch)
    ms_vit.Predictor("model.safetensors", engine="onnx")        # by either name


# --- OpenVINO

@pytest.fixture
def openvino():
    """Skips where OpenVINO is missing."""
    return pytest.importorskip("openvino", reason="the engine is checked with: pip install -e .[openvino]")


@pytest.fixture
def compiled(openvino, monkeypatch) -> list:
    """The models that OpenVINO has compiled since, to be asked what they are."""
    made: list = []

    class Core(openvino.Core):
        def compile_model(self, *arguments, **options):
            made.append(super().compile_model(*arguments, **options))
            return made[-1]

    monkeypatch.setattr(openvino, "Core", Core)
    return made


def no_bfloat16(openvino) -> bool:
    return "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_openvino_runs_what_onnx_runtime_kept(openvino, used, native, pictures, monkeypatch):
    forbid_exports(monkeypatch)
    predictor = ms_vit.Predictor(used, engine="openvino", batch_size=8)
    images = np.stack([native.prepare(picture) for picture in pictures])
    expected = native.logits(images)
    for count in (8, 3, 1):
        logits = predictor.logits(images[:count])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:count], atol=1e-4, rtol=0)
    assert_same(predictor(pictures, top_k=10), native(pictures, top_k=10))


def test_openvino_as_a_user_types_it_exports_once_and_onnx_runtime_takes_that(openvino, weights, root, run, tmp_path,
                                                                              monkeypatch):
    (file,) = kept(weights)
    good = file.read_bytes()
    file.unlink()
    reports = []
    for engine in ("openvino", "openvino", "onnx"):
        out = tmp_path / f"{engine}.json"
        code, _, told = run("eval", weights, "--data", root / "digits", "--engine", engine, "--out", out)
        assert code == 0, told
        assert told.startswith(f"exporting {weights} for openvino, once\n{file.name}: run by openvino, its logits "
                               "differ by ") == (not reports)
        assert kept(weights) == [file] and file.read_bytes() == good
        reports.append(json.loads(out.read_text()))
        forbid_exports(monkeypatch)
    assert reports[0]["confusion"] == reports[1]["confusion"] == reports[2]["confusion"]


def test_openvino_is_told_the_cores_that_the_process_has(used, compiled):
    before = os.sched_getaffinity(0)
    try:
        for cores in (sorted(before), sorted(before)[:1]):      # OpenVINO counts all of them when it is first used
            os.sched_setaffinity(0, cores)
            ms_vit.Predictor(used, engine="openvino")
            assert compiled[-1].get_property("INFERENCE_NUM_THREADS") == len(cores)
            assert compiled[-1].get_property("NUM_STREAMS") == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("precision", engines.ENGINES["openvino"])
def test_openvino_computes_in_the_precision_that_is_asked_for(precision, openvino, compiled, used, native, pictures):
    if precision == "bfloat16" and no_bfloat16(openvino):
        pytest.skip("this processor has no bfloat16")
    predictor = ms_vit.Predictor(used, engine="openvino", precision=precision, batch_size=8)
    images = np.stack([native.prepare(picture) for picture in pictures])
    expected = native.logits(images)
    difference = checked.rms(predictor.logits(images) - expected) / checked.rms(expected)
    low, high = {"float32": (0, 1e-5), "bfloat16": (5e-4, 0.03)}[precision]
    assert low <= difference < high
    assert compiled[-1].get_property("INFERENCE_PRECISION_HINT").get_type_name() == {"float32": "f32",
                                                                                     "bfloat16": "bf16"}[precision]


def test_bfloat16_whose_logits_are_too_far_is_refused(openvino, weights, pictures, run, monkeypatch):
    if no_bfloat16(openvino):
        pytest.skip("this processor has no bfloat16")
    kept(weights)[0].unlink()
    monkeypatch.setitem(checked.TOLERANCES, "bfloat16", 1e-5)
    code, _, told = run("infer", weights, pictures[0], "--engine", "openvino", "--precision", "bfloat16")
    assert code == 1
    assert "ms-vit: the logits of the openvino export differ by " in told
    assert told.endswith(" of their size, more than 1e-05, in openvino; it is not used\n")
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_openvino_would_compute_in_float32_where_there_is_no_bfloat16_and_is_not_asked(openvino, used, pictures, run,
                                                                                       monkeypatch):
    class Core(openvino.Core):
        def get_property(self, *arguments):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Core)
    code, _, told = run("infer", used, pictures[0], "--engine", "openvino", "--precision", "bfloat16")
    assert (code, told) == (2, "ms-vit: bfloat16 needs a processor with AVX512-BF16, and OpenVINO finds none here; "
                               "take float32\n")


# --- the fastest

def lacking(monkeypatch, *libraries: str) -> None:
    """Makes these impossible to import."""
    for module in ("onnx_graph", "onnx_runtime", "openvino_ir"):
        monkeypatch.delitem(sys.modules, f"ms_vit.weights.exports.{module}", raising=False)
        monkeypatch.delattr(exports, module, raising=False)
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


@pytest.mark.parametrize(("lacks", "float32", "bfloat16"), [
    ([], "openvino", "openvino"),
    (["onnxruntime"], "openvino", "openvino"),
    (["openvino"], "onnx", "mindspore"),
    (["openvino", "onnxruntime"], "mindspore", "mindspore"),
    (["onnx"], "mindspore", "mindspore"),
])
def test_auto_is_the_fastest_that_is_installed(lacks, float32, bfloat16, openvino, monkeypatch):
    lacking(monkeypatch, *lacks)
    assert (fastest(None, "float32"), fastest(None, "bfloat16")) == (float32, bfloat16)


def test_auto_stays_on_an_accelerator(openvino, monkeypatch):
    monkeypatch.setattr(engines, "use_device", lambda device: "Ascend")
    assert fastest(None, "float32") == "mindspore"


@pytest.mark.parametrize(("lacks", "takes"), [([], "openvino"), (["openvino"], "onnx")])
def test_auto_as_a_user_types_it_says_what_it_takes(lacks, takes, openvino, used, native, pictures, run, tmp_path,
                                                    monkeypatch):
    lacking(monkeypatch, *lacks)
    code, _, told = run("infer", used, *pictures, "--engine", "auto", "--out", tmp_path, "--top-k", 2)
    assert code == 0, told
    assert told.splitlines()[0] == f"engine: {takes}, the fastest here for float32"
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    expected = [[p.index for p in answer] for answer in native(pictures, top_k=2)]
    assert [[p["index"] for p in line["predictions"]] for line in lines] == expected


# --- mistakes

@pytest.mark.parametrize(("engine", "library"), [("onnx", "onnxruntime"), ("onnx", "onnx"), ("openvino", "openvino"),
                                                 ("openvino", "onnx")])
def test_a_missing_library_is_named_with_its_remedy(engine, library, used, pictures, run, monkeypatch):
    lacking(monkeypatch, library)
    code, _, told = run("infer", used, pictures[0], "--engine", engine)
    assert code == 2
    assert told == f'ms-vit: the {engine} export needs {library}; run: pip install "ms-vit[{engine}]"\n'


@pytest.mark.parametrize(("options", "says"), [
    (["--engine", "torch"], 'no engine "torch"; there are openvino, onnx, mindspore, auto'),
    (["--engine", "openvino", "--device", "GPU"], "--engine openvino runs on the CPU, not on GPU; leave --device out"),
    (["--engine", "onnx", "--device", "Ascend"], "--engine onnx runs on the CPU, not on Ascend; leave --device out"),
])
def test_a_wrong_engine_or_device_gets_one_line(options, says, used, root, pictures, run, tmp_path):
    for verb in (["eval", used, "--data", root / "digits"], ["infer", used, pictures[0]]):
        code, _, told = run(*verb, "--out", tmp_path / "out", *options)
        assert (code, told) == (2, f"ms-vit: {says}\n")
    assert not list(tmp_path.iterdir())
