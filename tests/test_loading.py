"""What a weight file says of its network: ours in its metadata, other libraries' in shapes, names and configs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing import Content, cases, put, refusal
from safetensors.numpy import save_file

from ms_vit import limits
from ms_vit.data.labels import Labels
from ms_vit.data.operations import parse
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import DataError, UserError
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.loading import load_model, load_weights, read_pretrained

SMALL = {"image_size": 16, "patch_size": 4, "num_classes": 2, "dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40}
SPEC = json.loads(ModelSpec(config=ViTConfig(**SMALL), labels=Labels(["a", "b"], ["ant", "bee"]),
                            preprocessing=Preprocessing(image_size=16)).to_json())
DEEP = "[" * 100_000
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The weights of a small network under our names, which are timm's."""
    return {parameter.name: parameter.asnumpy() for parameter in ViT(ViTConfig(**SMALL)).get_parameters()}


def changed(**sections: Any) -> dict[str, Any]:
    """The spec of that network with other values; None leaves one out."""
    return SPEC | {section: {key: value for key, value in (SPEC[section] | values).items() if value is not None}
                   if isinstance(values, dict) else values for section, values in sections.items()}


def ours(folder: Path, arrays: dict[str, np.ndarray], spec: Any) -> Path:
    """A file as we write it, whose metadata say what they like."""
    save_file(arrays, folder / "w.safetensors", {"ms_vit": spec if isinstance(spec, str) else json.dumps(spec)})
    return folder / "w.safetensors"


# ------------------------------------------------------------------------------------------------- our own metadata

def one(section: str, values: dict[str, Any], says: str | None = None) -> dict[str, tuple[Any, str]]:
    """Specs of which a single value is another."""
    return {f"{section}: {key} {value!r}": (changed(**{section: {key: value}}), says or key)
            for key, several in values.items() for value in several}


@pytest.mark.parametrize(("spec", "says"), cases({
    **{f"text {text[:20]!r}": (text, "damaged metadata") for text in (
        "{", "", "[]", "1", DEEP, '{"config":' * 100_000, '{"config": ' + "9" * 100_000 + "}", "{}")},
    "sections that are lists": (changed(config=[], labels=[], preprocessing=[]), "damaged metadata"),
    "sections that are text": (changed(config="x", labels="y", preprocessing="z"), "damaged metadata"),
    **one("config", {
        "dim": [0, "24"], "depth": [-1, 10 ** 9], "mlp_dim": [0.5, 10 ** 12], "num_heads": [0, [3]],
        "patch_size": [0, "x"], "image_size": [[16], 10 ** 9], "num_classes": [True, 10 ** 12], "channels": [-1, {}],
        "registers": [-1, 10 ** 9], "head_dim": [10 ** 9], "epsilon": ["x", NAN, 0.0, 1.0], "gelu": ["relu"],
        "pool": ["max"], "stem": [[10 ** 9, 10 ** 9]], "run": ["x"]}),
    "no depth": (changed(config={"depth": None}), "depth"),
    "a network of terabytes": (changed(config={"dim": 8192, "depth": 300, "mlp_dim": 65_536, "num_heads": 8,
                                               "head_dim": 1024}),
                               "make 402,653,724,672 weights, more than 30,000,000,000"),
    "a network of gigabytes": (changed(config={"dim": 8192, "depth": 30, "mlp_dim": 16_384, "num_heads": 8}),
                               "weights by its depth, dim, mlp_dim and image_size it has"),
    "too few ids": (changed(labels={"ids": ["a"]}), "1 ids and 2 names of 2 classes"),
    "too few names": (changed(labels={"names": ["ant"]}), "2 ids and 1 names of 2 classes"),
    "too many": (changed(labels={"ids": list("abc"), "names": list("abc")}), "3 ids and 3 names of 2 classes"),
    **one("labels", {"ids": [[1, 2], "ab"], "names": [[["a"], ["b"]]], "run": ["x"]}, "damaged metadata"),
    **one("preprocessing", {"transforms": ["Decode()", [1, 2]], "mean": ["abc"], "std": [1], "crop_pct": ["x"]},
          "damaged metadata"),
    **one("preprocessing", {"transforms": [[]], "crop_pct": [0, 1.01, NAN, 1e-9]}),
    **one("preprocessing", {"mean": [[NAN] * 3, [0, 0]], "std": [[0, 0, 0], [1, 1], [1, 1, INF]]}, "three numbers"),
}))
def test_metadata_that_make_no_sense_are_told(spec, says, arrays, tmp_path):
    assert says in refusal(read_pretrained, ours(tmp_path, arrays, spec), DataError)


@pytest.mark.parametrize(("text", "says"), cases({text[:40]: (text, says) for text, says in {
    "__import__('os').system('touch hacked')": "is no call", "os.system('x')": "is no call", "Resize": "is no call",
    "(" * 1000: "is no call", "Resize(" + "-" * 5000 + "1)": "is no call", "Resize(\0)": "is no call",
    "Resize(" + "(" * 400 + "1" + ")" * 400 + ")": "is no call",
    "eval(\"1\")": 'no operation "eval"', "open('hacked', 'w')": "no operation", "parse('x')": "no operation",
    "Inter('x')": "no operation", "Resize(lambda: 1)": "can't be", "Resize(10 ** 10)": "can't be",
    "Resize(image_size.__class__)": "can't be", "Resize(Inter.mro)": "can't be", "Resize(*[1])": "can't be",
    "Resize(16_385)": "16385 is too large a number; 16,384 is the most", "Pad(-16_385)": "too large a number",
    "Resize(size=[image_size] * 9)": "can't be", "Resize()": "can't be", "Resize(0)": "can't be",
    "Resize('\\ud800')": "can't be", "CenterCrop(5)": "make float32 (3, 5, 5) of a picture, not float32 (3, 16, 16)",
    "HWC2CHW()": "fails", "RandomGrayscale(1.0)": "fails", "Decode()": "fails"}.items()}))
def test_a_transform_that_is_none_is_told_and_not_run(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Preprocessing(image_size=16, transforms=["Decode()", "Resize((16, 16))", text, "Normalize(mean, std)",
                                                    "HWC2CHW()"])
    with pytest.raises(UserError, match=re.escape(says)):
        made.check()
    assert not list(tmp_path.iterdir())


def test_a_number_at_the_bound_may_be_in_a_transform():
    texts = [f"Resize((16, {limits.MAX_CALL_NUMBER}))", "CenterCrop(image_size)"]
    Preprocessing(image_size=16, transforms=["Decode()", *texts, "Normalize(mean, std)", "HWC2CHW()"]).check()
    text = f"CenterCrop(image_size{' ' * (limits.MAX_CALL_TEXT - 22)})"
    assert len(text) == limits.MAX_CALL_TEXT and parse(text).build({"image_size": 16})
    with pytest.raises(UserError, match="is no call"):
        parse(text.replace(" ", "  ", 1))


@pytest.mark.parametrize(("name", "array", "says"), cases({
    "a head of another width": ("head.weight", np.zeros((2, 25), np.float32), "has of another shape head.weight"),
    "positions of another width": ("pos_embed", np.zeros((1, 17, 25), np.float32), "has of another shape pos_embed"),
    "positions of no size": ("pos_embed", np.zeros((1, 1 << 40, 0), np.float32), "has of another shape pos_embed"),
    "positions in no square": ("pos_embed", np.zeros((1, 9, 24), np.float32), "has of another shape pos_embed"),
    "a patch kernel of 700 x 700": ("patch_embed.proj.weight", np.zeros((24, 3, 700, 700), np.int8), "patch_embed"),
    "a tensor too many": ("x", np.zeros(1, np.float32), "has too many x"),
    "a block too many": ("blocks.2.norm1.bias", np.zeros(24, np.float32), "has too many blocks.2.norm1.bias"),
    "no number": ("head.bias", np.array([0, NAN], np.float32), "head.bias has values that are no numbers"),
    "beyond all numbers": ("norm.weight", np.full(24, INF, np.float32), "norm.weight has values that are no numbers"),
}))
def test_weights_that_dont_fit_their_metadata_are_named(name, array, says, arrays, tmp_path):
    assert says in refusal(load_model, ours(tmp_path, arrays | {name: array}, SPEC), DataError)


def test_weights_that_lack_what_their_metadata_describe_are_told(arrays, tmp_path):
    path = ours(tmp_path, arrays, changed(config={"depth": 3}))
    assert "lacks blocks.2.norm1.weight, blocks.2.norm1.bias, " in (told := refusal(load_model, path, DataError))
    assert " and 8 more" in told


def test_what_is_written_is_read(arrays, tmp_path):
    net, spec = load_model(ours(tmp_path, arrays, SPEC))
    assert {name: parameter.asnumpy().tobytes() for name, parameter in net.parameters_dict().items()} == {
        name: array.tobytes() for name, array in arrays.items()}
    assert json.loads(spec.to_json()) == SPEC


def test_a_head_of_as_many_classes_in_another_order_has_its_rows_in_that_order(arrays, tmp_path):
    head = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
    path = ours(tmp_path, arrays | {"head.weight": head, "head.bias": head[:, 0].copy()}, SPEC)
    net = ViT(ViTConfig(**SMALL))
    for labels, order in ((Labels(["a", "b"], ["ant", "bee"]), [0, 1]), (Labels(["b", "a"], ["bee", "ant"]), [1, 0])):
        report = load_weights(net, path, labels=labels)
        assert np.array_equal(net.head.weight.asnumpy(), head[order])
        assert np.array_equal(net.head.bias.asnumpy(), head[order, 0])
        assert report.replaced == ([] if order == [0, 1] else ["head.weight", "head.bias"]) and report.resized == []


# ------------------------------------------------------------------------- other libraries' weights, and their folders

def timm(**changes: Any) -> dict[str, np.ndarray]:
    """The least that is known as timm's, with tensors of other shapes; None leaves one out."""
    shapes = {"cls_token": (1, 1, 24), "pos_embed": (1, 17, 24), "patch_embed.proj.weight": (24, 3, 4, 4),
              "blocks.0.norm1.weight": (24,), "blocks.0.mlp.fc1.weight": (40, 24), "head.weight": (2, 24)} | changes
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize(("arrays", "says"), cases({
    "no positions": (timm(pos_embed=None), "lacks pos_embed, which every ViT has"),
    "no MLP": (timm(**{"blocks.0.mlp.fc1.weight": None}), "lacks blocks.0.mlp.fc1.weight, which every ViT has"),
    "positions in no square": (timm(pos_embed=(1, 12, 24)), "no square grid"),
    "positions of no size": (timm(pos_embed=(1, (1 << 40) + 1, 0)), "image_size"),
    "positions of two dimensions": (timm(pos_embed=(17, 24)), "no ViT has"),
    "patches of no size": (timm(**{"patch_embed.proj.weight": (24, 3, 0, 0)}), "_size must be"),
    "patches in no square": (timm(**{"patch_embed.proj.weight": (24, 3, 4, 2)}), "no squares"),
    "a block of a billion": (timm(**{"blocks.999999999.norm1.weight": (24,)}), "depth"),
    "a block of a number without end": (timm(**{f"blocks.{'9' * 5000}.norm1.weight": (24,)}), "no ViT has"),
    "a block of no number": (timm(**{"blocks.x.norm1.weight": (24,)}), "no ViT has"),
    "no blocks": ({"embedding/kernel": np.zeros((4, 4, 3, 24), np.float32)}, "lacks pos_embed"),
    "Google's of another rank": ({"embedding/kernel": np.zeros(3, np.float32)}, "no ViT has"),
    "50,000 tensors": ({str(index): np.zeros(0, np.float32) for index in range(50_000)},
                       "no ViT that we know (its tensors are called 0, 1, "),
    "a name with an escape": ({"\x1b[2J\nms-vit: fine": np.zeros(1)}, "are called \\x1b[2J\\nms-vit: fine"),
    "a name of 100,000 letters": ({"w" * 100_000: np.zeros(1)}, "w..., ...)"),
}))
def test_shapes_and_names_that_no_vit_has_are_told(arrays, says, tmp_path):
    save_file(arrays, tmp_path / "w.safetensors")
    assert says in refusal(read_pretrained, tmp_path / "w.safetensors", DataError)


@pytest.mark.parametrize(("content", "says"), cases({
    "a list": ("[]", "config.json is damaged"),
    "deep": (DEEP, "config.json is damaged"),
    "an endless number": ('{"num_classes": ' + "9" * 100_000 + "}", "config.json is damaged"),
    "Latin-1": ('{"a": "ü"}'.encode("latin1"), "config.json is damaged"),
    "a pooling of nobody's": ('{"global_pool": "x"}', "pooling by x"),
    "a pooling that is a list": ('{"global_pool": ["avg"]}', "pooling by"),
    "arguments that are a list": ('{"model_args": [1]}', "no ViT has"),
    "an activation of nobody's": ('{"model_args": {"act_layer": "relu"}}', "relu where a ViT has GELU"),
    "heads that are text": ('{"model_args": {"num_heads": "3"}}', "num_heads"),
    "heads that are none": ('{"model_args": {"num_heads": 0}}', "num_heads"),
    "a billion heads": ('{"model_args": {"num_heads": 1000000000}}', "num_heads"),
    "a crop_pct that is no number": ('{"pretrained_cfg": {"crop_pct": NaN}}', "a crop_pct of nan"),
    "a crop_pct of 0": ('{"pretrained_cfg": {"crop_pct": 0}}', "a crop_pct of 0"),
    "a crop_pct above 1": ('{"pretrained_cfg": {"crop_pct": 1.01}}', "a crop_pct of 1.01"),
    "a crop_pct that is text": ('{"pretrained_cfg": {"crop_pct": "x"}}', "no ViT has"),
    "a mean that is text": ('{"pretrained_cfg": {"mean": "abc"}}', "no ViT has"),
    "a mean without end": ('{"pretrained_cfg": {"mean": [Infinity, 0, 0]}}', "mean"),
    "a std of 0": ('{"pretrained_cfg": {"std": [0, 0, 0]}}', "std"),
    "labels too few": ('{"label_names": ["x"]}', "its config names 1 classes, its head has 2"),
    "descriptions that are a list": ('{"label_names": ["x", "y"], "label_descriptions": ["a"]}', "no ViT has"),
}))
def test_a_config_of_timms_hub_that_no_vit_has_is_told(content, says, arrays, tmp_path):
    save_file(arrays, tmp_path / "model.safetensors")
    put(tmp_path / "config.json", content)
    assert says in refusal(read_pretrained, tmp_path, DataError)


def hugging_face(folder: Path, config: Content, pictures: Content) -> Path:
    """A folder of Hugging Face's whose tensors are few: it is read no further than its configs."""
    save_file({"vit.embeddings.patch_embeddings.projection.weight": np.zeros((24, 3, 4, 4), np.float32)},
              folder / "model.safetensors")
    put(folder / "config.json", config)
    put(folder / "preprocessor_config.json", pictures)
    return folder


@pytest.mark.parametrize(("config", "pictures", "says"), cases({
    "an epsilon that is text": ('{"layer_norm_eps": "x"}', "{}", "no ViT has"),
    "an epsilon that is a list": ('{"layer_norm_eps": [1]}', "{}", "no ViT has"),
    "labels that are a list": ('{"id2label": ["a"]}', "{}", "no ViT has"),
    "labels by no number": ('{"id2label": {"x": "a"}}', "{}", "no ViT has"),
    "an activation that is a list": ('{"hidden_act": [1]}', "{}", "where a ViT has GELU"),
    "no pictures' config": ("{}", "", "preprocessor_config.json is damaged"),
    "a deep one": ("{}", DEEP, "preprocessor_config.json is damaged"),
    "a filter of nobody's": ("{}", '{"resample": 99}', "no ViT has"),
    "a filter that is text": ("{}", '{"resample": "bicubic"}', "no ViT has"),
    "a size of 0": ("{}", '{"do_center_crop": true, "size": 0}', "no ViT has"),
    "a size that is text": ("{}", '{"do_center_crop": true, "size": "x"}', "no ViT has"),
    "a mean that is a number": ("{}", '{"image_mean": 1, "image_std": 2}', "no ViT has"),
}))
def test_a_config_of_hugging_faces_that_no_vit_has_is_told(config, pictures, says, tmp_path):
    assert says in refusal(read_pretrained, hugging_face(tmp_path, config, pictures), DataError)
