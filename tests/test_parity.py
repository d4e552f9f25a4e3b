"""Weights made and saved by the libraries that people have, loaded by us: the same images give the same logits.

Every parameter is random, so that none (a zero bias, unit norms) hides a fault. The tokens are so small that each
library's LayerNorm epsilon shows: one that is wrong moves the logits by far more than the 1e-4 that is allowed.
"""

import argparse
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from ms_vit.data.labels import Labels, imagenet_labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.device import use_device
from ms_vit.errors import DataError, UsageError
from ms_vit.eval import eval as evaluate
from ms_vit.models.config import SIZES
from ms_vit.models.vit import ViT, create_model
from ms_vit.weights.containers import read_weights
from ms_vit.weights.files import ModelSpec
from ms_vit.weights.loading import fit, load_model, load_weights, read_pretrained
from ms_vit.weights.resampling import resample_patch_kernel, resample_positions

torch = pytest.importorskip("torch", reason="parity with other libraries needs them: pip install -e .[parity]")
pytest.importorskip("benchmarks.torch_cpu")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torchvision = pytest.importorskip("torchvision")

from safetensors.torch import load_file, save_file  # noqa: E402
from timm.layers import resample_abs_pos_embed, resample_patch_embed  # noqa: E402
from timm.models.vision_transformer import checkpoint_filter_fn  # noqa: E402

OWN, OTHER = 64, 96             # image sizes: the weights' own, 4x4 patches, and one to resample them for
CLASSES = 7
TOLERANCE = 1e-4
SHAPE = {"dim": 64, "depth": 2, "num_heads": 4, "mlp_dim": 96}
TIMM = {"embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5, "patch_size": 16, "num_classes": CLASSES}
EMBEDDING = 3e-4                # standard deviation of a token at the first LayerNorm

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])

Oracle = Callable[[int], Any]   # image size -> the library's model for it


@pytest.fixture(autouse=True)
def small_models_by_name(monkeypatch) -> Iterator[None]:
    """There is a "vit_nano", so that load_model can be asked for networks as small as the ones here."""
    monkeypatch.setitem(SIZES, "nano", SHAPE)
    use_device()
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def randomized(model: Any, seed: int = 0) -> Any:
    """A PyTorch model with every parameter random, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if any(part in name for part in ("token", "pos_embed", "position_embeddings", "pos_embedding")):
            parameter.data = noise * EMBEDDING
        elif any(part in name for part in ("patch_embed", "conv_proj")):
            parameter.data = noise * EMBEDDING / math.sqrt(max(parameter[0].numel(), 1))
        elif "norm" in name or ".ln" in name:
            parameter.data = 0.3 * noise + (1 if name.endswith("weight") else 0)
        else:
            parameter.data = 0.3 * noise
    return model.eval()


def images(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(count, 3, size, size)).astype(np.float32)


def theirs(model: Any, batch: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        out = model(torch.from_numpy(batch))
    return getattr(out, "logits", out).numpy()


def ours(net: ViT, batch: np.ndarray) -> np.ndarray:
    return net(ms.Tensor(batch)).asnumpy()


def plain(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


# --- timm, and Facebook's files, which have its names

def timm_model(name: str, size: int | tuple[int, int] = OWN, **changes: Any) -> Any:
    return randomized(timm.create_model(name, **TIMM | {"img_size": size} | changes))


def timm_oracle(model: Any, name: str, **changes: Any) -> Oracle:
    def at(size: int) -> Any:
        if size == OWN:
            return model
        other = timm_model(name, size, **changes)
        other.load_state_dict(checkpoint_filter_fn(plain(model.state_dict()), other))
        return other
    return at


def timm_state(folder: Path, name: str, **changes: Any) -> tuple[Path, Oracle]:
    """The state dict alone, as safetensors."""
    model = timm_model(name, **changes)
    save_file(plain(model.state_dict()), folder / "model.safetensors")
    return folder / "model.safetensors", timm_oracle(model, name, **changes)


def timm_pth(folder: Path) -> tuple[Path, Oracle]:
    model = timm_model("vit_tiny_patch16_224")
    torch.save(model.state_dict(), folder / "vit.pth")
    return folder / "vit.pth", timm_oracle(model, "vit_tiny_patch16_224")


def timm_training(folder: Path) -> tuple[Path, Oracle]:
    """What timm's train.py leaves: the model beside its optimiser and arguments, and an average of it, which counts."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = timm_model("vit_tiny_patch16_224")
    average = ModelEmaV3(timm_model("vit_tiny_patch16_224", num_classes=CLASSES))
    randomized(average.module, seed=1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, OWN, OWN)).sum().backward()
    arguments = argparse.Namespace(model="vit_tiny_patch16_224", lr=1e-3, mean=None, epochs=3)
    before = plain(model.state_dict())
    optimizer.step()
    model.load_state_dict(before)
    saver = CheckpointSaver(model, optimizer, arguments, average, checkpoint_dir=str(folder), recovery_dir=str(folder))
    saver.save_checkpoint(0, metric=12.5)
    return folder / "last.pth.tar", timm_oracle(average.module, "vit_tiny_patch16_224")


def timm_hub(folder: Path) -> tuple[Path, Oracle]:
    """A folder as timm pushes it to a hub. Its config says what no tensor shows: pooling by mean after the norm."""
    from timm.models import save_for_hf

    changes: dict[str, Any] = {"global_pool": "avg", "fc_norm": False}
    model = timm_model("vit_tiny_patch16_224", **changes)
    names = {"label_names": [f"class_{i}" for i in range(CLASSES)]}
    save_for_hf(model, folder, model_config=names, safe_serialization=True,
                data_config={"crop_pct": 0.95, "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"})
    return folder, timm_oracle(model, "vit_tiny_patch16_224", **changes)


def facebook(folder: Path, name: str, **changes: Any) -> tuple[Path, Oracle]:
    """DeiT's, DeiT-III's and MAE's own files: timm's names below "model", LayerScale as gamma_1 and gamma_2."""
    model = timm_model(name, **changes)
    state = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
             for key, tensor in model.state_dict().items()}
    torch.save({"model": state}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth", timm_oracle(model, name, **changes)


# --- Hugging Face

def hugging_face_config(kind: str, size: int = OWN, **changes: Any) -> Any:
    classes = {} if "id2label" in changes else {"num_labels": CLASSES}
    return getattr(transformers, f"{kind}Config")(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=size,
        patch_size=16, **classes, **changes)


def hugging_face_model(cls: str, size: int = OWN, **changes: Any) -> Any:
    kind = "DeiT" if cls.startswith("DeiT") else "ViT"
    return randomized(getattr(transformers, cls)(hugging_face_config(kind, size, **changes)))


def with_positions(state: dict[str, Any], name: str, size: int, extra: int) -> dict[str, Any]:
    """A state dict with its positions resampled by timm's rule, which is ours whatever library the weights are from.

    Hugging Face and torchvision resample without antialiasing and by a cubic of another shape (a = -0.75, not -0.5).
    """
    positions = resample_abs_pos_embed(state[name], [size // 16, size // 16], num_prefix_tokens=extra)
    return plain(state) | {name: positions}


def hugging_face_oracle(model: Any, cls: str, **changes: Any) -> Oracle:
    def at(size: int) -> Any:
        kind, extra = ("deit", 2) if cls.startswith("DeiT") else ("vit", 1)
        other = hugging_face_model(cls, size, **changes)
        other.load_state_dict(with_positions(model.state_dict(), f"{kind}.embeddings.position_embeddings", size, extra))
        return other
    return lambda size: model if size == OWN else at(size)


def hugging_face(folder: Path, cls: str, *, shards: str = "5GB", **changes: Any) -> tuple[Path, Oracle]:
    """A folder by save_pretrained, which writes the names of transformers 4."""
    model = hugging_face_model(cls, **changes)
    model.save_pretrained(folder, max_shard_size=shards)
    return folder, hugging_face_oracle(model, cls, **changes)


def hugging_face_runtime(folder: Path, cls: str, save: Callable[[Any, Path], None]) -> tuple[Path, Oracle]:
    """The state dict as it is in memory, with the names of transformers 5."""
    model = hugging_face_model(cls)
    save(plain(model.state_dict()), folder / "mine.weights")
    return folder / "mine.weights", hugging_face_oracle(model, cls)


def hugging_face_bin(folder: Path) -> tuple[Path, Oracle]:
    path, oracle = hugging_face(folder, "ViTForImageClassification")
    torch.save(load_file(path / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder, oracle


# --- torchvision

def torchvision_file(folder: Path, *, old: bool) -> tuple[Path, Oracle]:
    def create(size: int) -> Any:
        return randomized(torchvision.models.VisionTransformer(
            image_size=size, patch_size=16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=96, num_classes=CLASSES))

    model = create(OWN)
    state = plain(model.state_dict())
    if old:
        state = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
                 for name, tensor in state.items()}
    torch.save(state, folder / "vit.pth")

    def at(size: int) -> Any:
        other = create(size)
        other.load_state_dict(with_positions(state, "encoder.pos_embedding", size, 1) if size != OWN else state)
        return other
    return folder / "vit.pth", at


# --- Google's npz

def flax_arrays(model: Any, counters: tuple[int, int, int, int], positions: str) -> dict[str, np.ndarray]:
    """A timm model's weights in Flax's layout: the inverse of timm's _load_weights."""
    w = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    norm1, attention, norm2, mlp = counters
    out = {"embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
           "embedding/bias": w["patch_embed.proj.bias"], positions: w["pos_embed"],
           "Transformer/encoder_norm/scale": w["norm.weight"], "Transformer/encoder_norm/bias": w["norm.bias"],
           "head/kernel": w["head.weight"].T, "head/bias": w["head.bias"]}
    if "cls_token" in w:
        out["cls"] = w["cls_token"]
    for i in range(SHAPE["depth"]):
        block, layer = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        for flax, name in ((f"LayerNorm_{norm1}", "norm1"), (f"LayerNorm_{norm2}", "norm2")):
            out |= {f"{block}/{flax}/scale": w[f"{layer}.{name}.weight"],
                    f"{block}/{flax}/bias": w[f"{layer}.{name}.bias"]}
        parts = zip(np.split(w[f"{layer}.attn.qkv.weight"], 3), np.split(w[f"{layer}.attn.qkv.bias"], 3), strict=True)
        heads = f"{block}/MultiHeadDotProductAttention_{attention}"
        for name, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
            out |= {f"{heads}/{name}/kernel": weight.T.reshape(64, 4, 16), f"{heads}/{name}/bias": bias.reshape(4, 16)}
        out |= {f"{heads}/out/kernel": w[f"{layer}.attn.proj.weight"].T.reshape(4, 16, 64),
                f"{heads}/out/bias": w[f"{layer}.attn.proj.bias"]}
        for index, name in enumerate(("fc1", "fc2")):
            out |= {f"{block}/MlpBlock_{mlp}/Dense_{index}/kernel": w[f"{layer}.mlp.{name}.weight"].T,
                    f"{block}/MlpBlock_{mlp}/Dense_{index}/bias": w[f"{layer}.mlp.{name}.bias"]}
    return out


def google(folder: Path, *, prefix: str = "", big_vision: bool = False, scan: bool = False,
           **changes: Any) -> tuple[Path, Oracle]:
    """An .npz that timm itself reads as the weights it was made of. The oracle has tanh GELU, which is Flax's."""
    changes |= {"act_layer": "gelu_tanh"}
    model = timm_model("vit_tiny_patch16_224", **changes)
    counters, positions = ((0, 0, 1, 0), "pos_embedding") if big_vision else (
        (0, 1, 2, 3), "Transformer/posembed_input/pos_embedding")
    arrays = flax_arrays(model, counters, positions)
    if scan:
        for name in [name for name in arrays if "/encoderblock_0/" in name]:
            blocks = [arrays.pop(name.replace("_0/", f"_{i}/", 1)) for i in range(SHAPE["depth"])]
            arrays[name.replace("encoderblock_0", "encoderblock")] = np.stack(blocks)
    np.savez(folder / "vit.npz", **{f"{prefix}{name}": array for name, array in arrays.items()})
    check = timm.create_model("vit_tiny_patch16_224", **TIMM | {"img_size": OWN} | changes)
    check.load_pretrained(str(folder / "vit.npz"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in check.state_dict().items())
    return folder / "vit.npz", timm_oracle(model, "vit_tiny_patch16_224", **changes)


# --- MindSpore's checkpoints

TUTORIAL = {
    "cls_token": "cls", "pos_embed": "pos_embedding", "patch_embed.proj": "patch_embedding.conv",
    **{f"blocks.{i}.{name}": f"transformer.layers.{i}.{other}" for i in range(2) for name, other in (
        ("norm1", "0.cell.0"), ("attn.qkv", "0.cell.1.qkv"), ("attn.proj", "0.cell.1.out"),
        ("norm2", "1.cell.0"), ("mlp.fc1", "1.cell.1.dense1"), ("mlp.fc2", "1.cell.1.dense2"))}}


def mindspore_checkpoint(folder: Path, names: dict[str, str], *, backbone: str = "") -> tuple[Path, Oracle]:
    """A .ckpt by save_checkpoint. The oracle runs MindSpore's defaults: LayerNorm's epsilon 1e-7 and tanh GELU."""
    changes: dict[str, Any] = {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-7), "act_layer": "gelu_tanh"}
    model = timm_model("vit_tiny_patch16_224", **changes)
    out = []
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if "norm" in layer:
            kind = {"weight": "gamma", "bias": "beta"}[kind]
        renamed = f"{names.get(layer, layer)}.{kind}" if layer else names.get(name, name)
        out.append({"name": renamed if layer == "head" else backbone + renamed, "data": ms.Tensor(tensor.numpy())})
    ms.save_checkpoint(out, str(folder / "vit.ckpt"))
    return folder / "vit.ckpt", timm_oracle(model, "vit_tiny_patch16_224", **changes)


# --- the table: what makes a file, and the format, numerics and preprocessing that we are to know it by

def bicubic(crop_pct: float, colours: tuple[list[float], list[float]]) -> dict[str, Any]:
    return {"crop_pct": crop_pct, "mean": colours[0], "std": colours[1], "resize": "Inter.BICUBIC"}


EXACT, TANH = ("exact", 1e-6), ("tanh", 1e-6)
AS_TIMM, AS_DEIT, AS_FACEBOOK = bicubic(0.9, HALF), bicubic(0.9, IMAGENET), bicubic(0.875, IMAGENET)
AS_TORCHVISION = {"crop_pct": 0.875, "mean": IMAGENET[0], "std": IMAGENET[1], "resize": "Inter.BILINEAR"}
AS_HUGGING_FACE = {"crop_pct": 1.0, "mean": HALF[0], "std": HALF[1], "resize": "Inter.BILINEAR"}
DEITS = "DeiTForImageClassificationWithTeacher"
REGISTERS: dict[str, Any] = {"class_token": False, "reg_tokens": 4, "no_embed_class": True, "global_pool": "avg"}

Case = tuple[Callable[[Path], tuple[Path, Oracle]], str, tuple[str, float], dict[str, Any]]
CASES: dict[str, Case] = {
    "timm": (partial(timm_state, name="vit_tiny_patch16_224"), "timm", EXACT, AS_TIMM),
    "timm pth": (timm_pth, "timm", EXACT, AS_TIMM),
    "timm training checkpoint": (timm_training, "timm", EXACT, AS_TIMM),
    "timm hub folder": (timm_hub, "timm", EXACT, AS_TIMM | {"crop_pct": 0.95, "mean": [0.1, 0.2, 0.3],
                                                            "resize": "Inter.BILINEAR"}),
    "timm distilled": (partial(timm_state, name="deit_tiny_distilled_patch16_224"), "timm", EXACT, AS_DEIT),
    "timm DeiT-III": (partial(timm_state, name="deit3_small_patch16_224"), "timm", EXACT, AS_DEIT),
    "timm mean pooling": (partial(timm_state, name="vit_tiny_patch16_224", global_pool="avg"), "timm", EXACT, AS_TIMM),
    "timm without class token": (partial(timm_state, name="vit_medium_patch16_gap_256"), "timm", EXACT, AS_TIMM),
    "timm registers": (partial(timm_state, name="vit_tiny_patch16_224", **REGISTERS), "timm", EXACT, AS_TIMM),
    "timm class token and registers": (
        partial(timm_state, name="vit_tiny_patch16_224", reg_tokens=2), "timm", EXACT, AS_TIMM),
    "timm qk-norm": (partial(timm_state, name="vit_tiny_patch16_224", qk_norm=True), "timm", EXACT, AS_TIMM),
    "Facebook DeiT": (
        partial(facebook, name="deit_tiny_distilled_patch16_224"), "Facebook", EXACT, AS_FACEBOOK),
    "Facebook DeiT-III": (partial(facebook, name="deit3_small_patch16_224"), "Facebook", EXACT, AS_FACEBOOK),
    "MAE fine-tuned": (
        partial(facebook, name="vit_tiny_patch16_224", global_pool="avg"), "Facebook", EXACT, AS_FACEBOOK),
    "Hugging Face": (partial(hugging_face, cls="ViTForImageClassification"), "Hugging Face", ("exact", 1e-12),
                     AS_HUGGING_FACE),
    "Hugging Face shards": (partial(hugging_face, cls="ViTForImageClassification", shards="60KB"), "Hugging Face",
                            ("exact", 1e-12), AS_HUGGING_FACE),
    "Hugging Face bin": (hugging_face_bin, "Hugging Face", ("exact", 1e-12), AS_HUGGING_FACE),
    "Hugging Face settings": (
        partial(hugging_face, cls="ViTForImageClassification", hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-5,
                qkv_bias=False), "Hugging Face", ("tanh", 1e-5), AS_HUGGING_FACE),
    "Hugging Face runtime names": (
        partial(hugging_face_runtime, cls="ViTForImageClassification", save=save_file), "Hugging Face",
        ("exact", 1e-12), AS_HUGGING_FACE),
    "Hugging Face DeiT": (partial(hugging_face, cls=DEITS), "Hugging Face", ("exact", 1e-12), AS_FACEBOOK),
    "Hugging Face DeiT runtime names": (
        partial(hugging_face_runtime, cls=DEITS, save=torch.save), "Hugging Face", ("exact", 1e-12), AS_FACEBOOK),
    "Hugging Face DeiT one head": (
        partial(hugging_face, cls="DeiTForImageClassification"), "Hugging Face", ("exact", 1e-12), AS_FACEBOOK),
    "torchvision": (partial(torchvision_file, old=False), "torchvision", EXACT, AS_TORCHVISION),
    "torchvision old names": (partial(torchvision_file, old=True), "torchvision", EXACT, AS_TORCHVISION),
    "Google": (google, "Google", TANH, AS_TIMM),
    "Google training state": (partial(google, prefix="opt/target/"), "Google", TANH, AS_TIMM),
    "big_vision": (partial(google, prefix="params/", big_vision=True, no_embed_class=True), "Google", TANH, AS_TIMM),
    "big_vision scan, mean pooling": (
        partial(google, prefix="params/", big_vision=True, scan=True, class_token=False, global_pool="avg",
                fc_norm=False), "Google", TANH, AS_TIMM),
    "MindCV": (partial(mindspore_checkpoint, names={"head": "head.classifier"}), "MindCV", ("tanh", 1e-7),
               AS_FACEBOOK | {"resize": "BICUBIC"}),
    "MindCV before 2023": (
        partial(mindspore_checkpoint, names=TUTORIAL | {"head": "head.classifier"}, backbone="backbone."),
        "MindSpore tutorial", ("tanh", 1e-7), AS_FACEBOOK | {"resize": "resize_size"}),
    "MindSpore tutorial": (partial(mindspore_checkpoint, names=TUTORIAL | {"head": "dense"}), "MindSpore tutorial",
                           ("tanh", 1e-7), AS_FACEBOOK | {"resize": "resize_size"}),
    "MindSpore tutorial, its sibling": (
        partial(mindspore_checkpoint, names=TUTORIAL | {"head": "head.dense"}), "MindSpore tutorial", ("tanh", 1e-7),
        AS_FACEBOOK | {"resize": "resize_size"}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_librarys_at_both_sizes(case, tmp_path, record_property):
    make, _, (gelu, epsilon), evaluation = CASES[case]
    path, oracle = make(tmp_path)
    ms.set_context(mode=ms.PYNATIVE_MODE)       # a graph would take a second each; see the next test
    for size in (OWN, OTHER):
        net, spec = load_model(path, f"vit_nano_patch16_{size}")
        batch = images(size)
        expected, got = theirs(oracle(size), batch), ours(net, batch)
        difference = float(np.abs(got - expected).max())
        record_property(f"difference_{size}", difference)
        assert expected.std() > 0.1
        assert difference < TOLERANCE, f"at {size} pixels"
    check_spec(spec, gelu, epsilon, evaluation)


def check_spec(spec: ModelSpec, gelu: str, epsilon: float, evaluation: dict[str, Any]) -> None:
    """The numerics and the preprocessing that belong to the format are in the model's spec."""
    made = spec.preprocessing
    assert (spec.config.gelu, spec.config.epsilon) == (gelu, epsilon)
    assert made.crop_pct == evaluation["crop_pct"]
    assert (list(made.mean), list(made.std)) == (evaluation["mean"], evaluation["std"])
    assert made.image_size == OTHER
    assert evaluation["resize"] in next(text for text in made.transforms if text.startswith("Resize"))
    assert len(made.operations()) == len(made.transforms)


@pytest.mark.parametrize("case", ["timm distilled", "timm registers", "timm DeiT-III", "MindCV"])
def test_logits_are_the_same_as_a_compiled_graph(case, tmp_path):
    path, oracle = CASES[case][0](tmp_path)
    net, _ = load_model(path, f"vit_nano_patch16_{OWN}")
    assert np.abs(ours(net, images(OWN)) - theirs(oracle(OWN), images(OWN))).max() < TOLERANCE


def test_numerics_of_another_format_would_show(tmp_path):
    """What guards the tests above: with another epsilon or GELU their logits differ by far more than they allow."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, _ = timm_state(tmp_path, "vit_tiny_patch16_224")
    pretrained = read_pretrained(path)
    batch = images(OWN)
    logits = {}
    for gelu, epsilon in (("exact", 1e-6), ("tanh", 1e-6), ("exact", 1e-5), ("exact", 1e-7), ("exact", 1e-12)):
        net = create_model(f"vit_nano_patch16_{OWN}", num_classes=CLASSES, gelu=gelu, epsilon=epsilon)
        fit(net, pretrained, path)
        logits[gelu, epsilon] = ours(net.set_train(False), batch)
    for one, other in combinations(logits, 2):
        assert np.abs(logits[one] - logits[other]).max() > 5 * TOLERANCE, (one, other)


# --- other sizes

@pytest.mark.parametrize("grid", [(3, 3), (5, 5), (9, 9), (14, 14), (2, 11)])
def test_positions_are_resampled_as_timm_does(grid):
    positions = np.random.default_rng(0).normal(size=(1, 2 + 49, 8)).astype(np.float32)
    expected = resample_abs_pos_embed(torch.from_numpy(positions), list(grid), num_prefix_tokens=2).numpy()
    np.testing.assert_allclose(resample_positions(positions, grid, extra=2), expected, atol=5e-6)


@pytest.mark.parametrize("patch_size", [8, 14, 20, 32])
def test_patch_kernels_are_resampled_as_timm_does(patch_size):
    kernel = np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)
    expected = resample_patch_embed(torch.from_numpy(kernel), [patch_size, patch_size]).numpy()
    np.testing.assert_allclose(resample_patch_kernel(kernel, patch_size), expected, atol=5e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"])
def test_logits_equal_timms_at_another_patch_size(name, tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, oracle = timm_state(tmp_path, name)
    other = timm_model(name, patch_size=8)
    other.load_state_dict(checkpoint_filter_fn(plain(oracle(OWN).state_dict()), other))
    net, _ = load_model(path, f"vit_nano_patch8_{OWN}")
    assert np.abs(ours(net, images(OWN)) - theirs(other, images(OWN))).max() < TOLERANCE


def test_logits_equal_timms_on_images_that_are_no_squares(tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, oracle = timm_state(tmp_path, "vit_tiny_patch16_224")
    other = timm_model("vit_tiny_patch16_224", size=(48, 112))
    other.load_state_dict(checkpoint_filter_fn(plain(oracle(OWN).state_dict()), other))
    net = create_model("vit_nano_patch16", image_size=(48, 112), num_classes=CLASSES).set_train(False)
    report = load_weights(net, path)
    batch = np.random.default_rng(0).normal(size=(2, 3, 48, 112)).astype(np.float32)
    assert np.abs(ours(net, batch) - theirs(other, batch)).max() < TOLERANCE
    assert report.resized == ["positions 4x4 -> 3x7"]
    assert "resampled positions 4x4 -> 3x7" in str(report)


# --- other classes

def test_a_head_for_other_classes_keeps_the_rows_of_those_it_knows(tmp_path):
    """By id and by name; the logits are timm's with a head of the same rows, and the report says what happened."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, oracle = timm_state(tmp_path, "deit_tiny_distilled_patch16_224", num_classes=1000)
    classes = Labels(["n01440764", "my_own_dog", "golf ball"], ["tench", "my own dog", "golf ball"])
    rows = [0, None, 574]
    assert imagenet_labels().ids.index("n03445777") == 574
    model = oracle(OWN)
    model.reset_classifier(3)
    stored = load_file(path)
    for head in (model.head, model.head_dist):
        name = "head" if head is model.head else "head_dist"
        with torch.no_grad():
            for target, source in enumerate(rows):
                head.weight[target] = 0 if source is None else stored[f"{name}.weight"][source]
                head.bias[target] = 0 if source is None else stored[f"{name}.bias"][source]
    net = create_model(f"vit_nano_patch16_{OWN}", num_classes=3, distilled=True).set_train(False)
    report = load_weights(net, path, labels=classes)
    assert np.abs(ours(net, images(OWN)) - theirs(model, images(OWN))).max() < TOLERANCE
    assert report.replaced == ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    assert report.carried == ["n01440764", "golf ball"]
    assert len(report.loaded) == len(stored) - 4
    assert "a new head, 2 of its classes known to the weights" in str(report)


def test_a_head_for_other_unnamed_classes_starts_anew(tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, oracle = timm_state(tmp_path, "vit_tiny_patch16_224")
    model = oracle(OWN)
    net = create_model(f"vit_nano_patch16_{OWN}", num_classes=5).set_train(False)
    report = load_weights(net, path)
    assert (report.replaced, report.carried) == (["head.weight", "head.bias"], [])
    assert (ours(net, images(OWN)) == 0).all()
    head = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32)
            for name, shape in (("weight", (5, 64)), ("bias", (5,)))}
    net.head.weight.set_data(ms.Tensor(head["weight"]))
    net.head.bias.set_data(ms.Tensor(head["bias"]))
    model.reset_classifier(5)
    model.head.load_state_dict({name: torch.from_numpy(array) for name, array in head.items()})
    assert np.abs(ours(net, images(OWN)) - theirs(model, images(OWN))).max() < TOLERANCE


def test_class_names_of_a_hub_folder_are_the_models(tmp_path):
    names = {i: f"pet {i}" for i in range(CLASSES)}
    path, _ = hugging_face(tmp_path / "hugging_face", "ViTForImageClassification", id2label=names,
                           label2id={name: i for i, name in names.items()})
    _, spec = load_model(path, f"vit_nano_patch16_{OWN}")
    assert spec.labels.names == [f"pet {i}" for i in range(CLASSES)]
    path, _ = timm_hub(tmp_path / "timm")
    _, spec = load_model(path, f"vit_nano_patch16_{OWN}")
    assert spec.labels.names == [f"class_{i}" for i in range(CLASSES)]


def test_a_thousand_classes_are_imagenets_unless_the_file_names_others(tmp_path):
    path, _ = timm_state(tmp_path, "vit_tiny_patch16_224", num_classes=1000)
    assert load_model(path, f"vit_nano_patch16_{OWN}")[1].labels == imagenet_labels()
    for first, imagenet in (("tench, Tinca tinca", True), ("LABEL_0", True), ("a face", False)):
        names = {0: first} | {i: f"LABEL_{i}" for i in range(1, 1000)}
        path, _ = hugging_face(tmp_path / first[:5], "ViTForImageClassification", id2label=names,
                               label2id={name: i for i, name in names.items()})
        labels = load_model(path, f"vit_nano_patch16_{OWN}")[1].labels
        assert (labels == imagenet_labels()) is imagenet
        assert imagenet or labels.names[0] == first


# --- weights without a head

def without_head(folder: Path, kind: str) -> tuple[Path, Any]:
    """A file of pre-training alone, and the timm or Hugging Face model that it is of."""
    model = timm_model("vit_tiny_patch16_224", num_classes=0)
    if kind == "MAE":
        decoder = {"mask_token": (1, 1, 32), "decoder_pos_embed": (1, 17, 32), "decoder_embed.weight": (32, 64),
                   "decoder_blocks.0.attn.qkv.weight": (96, 32), "decoder_norm.weight": (32,),
                   "decoder_pred.weight": (768, 32)}
        extra = {name: torch.randn(shape) for name, shape in decoder.items()}
        torch.save({"model": model.state_dict() | extra}, folder / "mae.pth")
        return folder / "mae.pth", model
    model = randomized(transformers.ViTModel(hugging_face_config("ViT")))
    model.save_pretrained(folder)
    return folder, lambda batch: model(batch).last_hidden_state[:, 0]


@pytest.mark.parametrize("kind", ["MAE", "ViTModel"])
def test_weights_without_a_head_train_but_do_not_predict(kind, tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, model = without_head(tmp_path, kind)
    with pytest.raises(DataError, match="has no head to predict with; train one first"):
        load_model(path, f"vit_nano_patch16_{OWN}")
    epsilon = {"MAE": 1e-6, "ViTModel": 1e-12}[kind]
    net = create_model(f"vit_nano_patch16_{OWN}", num_classes=64, epsilon=epsilon).set_train(False)
    report = load_weights(net, path)
    assert (report.replaced, report.missing, report.left_over) == (["head.weight", "head.bias"], [], [])
    net.head.weight.set_data(ms.Tensor(np.eye(64, dtype=np.float32)))       # so that the logits are the features
    assert np.abs(ours(net, images(OWN)) - theirs(model, images(OWN))).max() < TOLERANCE


# --- files that don't fit, and files made to harm

def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600, text
    return text


def test_a_file_with_heads_of_no_known_width_needs_the_models_name(tmp_path):
    path, _ = timm_state(tmp_path, "vit_tiny_patch16_224", embed_dim=48, num_heads=3)
    says = "doesn't tell its attention heads, .* of 48 .* say by --model which ViT"
    with pytest.raises(UsageError, match=says) as error:
        load_model(path)
    one_line(error)


def test_weights_of_another_model_say_how_they_differ(tmp_path):
    path, _ = timm_state(tmp_path, "vit_tiny_patch16_224")
    with pytest.raises(DataError) as error:
        load_model(path, "vit_small_patch16_224")
    assert one_line(error) == f"{path} is no vit_small_patch16_224: it has dim 64, not 384, depth 2, not 12, " \
                              "mlp_dim 96, not 1536"
    path, _ = hugging_face(tmp_path / "folder", "ViTForImageClassification")
    SIZES["nano"] = SHAPE | {"num_heads": 2}
    with pytest.raises(DataError, match="is no vit_nano_patch16_64: it has num_heads 4, not 2"):
        load_model(path, "vit_nano_patch16_64")


def without_key_bias(folder: Path, cls: str) -> tuple[Path, Oracle]:
    """As BEiT's attention, which biases queries and values alone."""
    path, oracle = hugging_face(folder, cls)
    state = load_file(path / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if "key.bias" not in name}, path / "model.safetensors")
    return path, oracle


@pytest.mark.parametrize(("make", "names"), [
    (partial(timm_state, name="vit_tiny_patch16_224", scale_mlp_norm=True), "blocks.0.mlp.norm.weight"),
    (partial(timm_state, name="vit_tiny_patch16_224", pre_norm=True), "norm_pre.weight"),
    (partial(timm_state, name="vit_tiny_patch16_224", final_norm=False), "norm.weight"),
    (partial(without_key_bias, cls="ViTForImageClassification"), "blocks.0.attn.q.bias"),
])
def test_parts_that_our_network_lacks_or_misses_are_listed(make, names, tmp_path):
    path, _ = make(tmp_path)
    with pytest.raises(DataError, match=names.replace(".", r"\.")) as error:
        load_model(path, f"vit_nano_patch16_{OWN}")
    assert one_line(error).startswith(f"{path} doesn't fit the model: it ")


def test_torchvisions_pre_logits_are_refused_by_name(tmp_path):
    model = torchvision.models.VisionTransformer(image_size=OWN, patch_size=16, num_layers=2, num_heads=4,
                                                 hidden_dim=64, mlp_dim=96, num_classes=CLASSES,
                                                 representation_size=64)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(DataError, match=r"has too many heads\.pre_logits\.weight, heads\.pre_logits\.bias"):
        load_model(tmp_path / "vit.pth", f"vit_nano_patch16_{OWN}")


@pytest.mark.parametrize("lacking", ["blocks.1.norm2.bias", "blocks.1.attn.qkv.bias", "head.bias", "head_dist.weight",
                                     "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"])
def test_a_missing_tensor_is_named(lacking, tmp_path):
    path, _ = timm_state(tmp_path, "deit_tiny_distilled_patch16_224")
    state = load_file(path)
    state.pop(lacking)
    save_file(state, path)
    with pytest.raises(DataError) as error:
        load_model(path, f"vit_nano_patch16_{OWN}")
    if lacking != "patch_embed.proj.weight":        # by which the format is known
        assert lacking in one_line(error)


def test_partial_takes_what_fits_and_reports_the_rest(tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    path, _ = timm_state(tmp_path, "vit_tiny_patch16_224", scale_mlp_norm=True)
    state = load_file(path)
    state.pop("norm.bias")
    state["blocks.1.mlp.fc2.weight"] = torch.zeros(64, 90)
    save_file(state, path)
    net = create_model(f"vit_nano_patch16_{OTHER}", num_classes=CLASSES).set_train(False)
    report = load_weights(net, path, partial=True)
    kinds = [f"blocks.{i}.mlp.norm.{kind}" for i in range(2) for kind in ("weight", "bias")]
    assert report.missing == ["norm.bias"]
    assert sorted(report.left_over) == sorted([*kinds, "blocks.1.mlp.fc2.weight"])
    assert report.resized == ["positions 4x4 -> 6x6"]
    assert {"blocks.1.mlp.fc2.weight", "norm.bias"}.isdisjoint(report.loaded)
    assert len(report.loaded) == len(net.parameters_dict()) - 2
    for name in ("blocks.0.attn.qkv.weight", "head.weight"):
        assert (net.parameters_dict()[name].asnumpy() == state[name].numpy()).all()
    assert f"left at the start: norm.bias; not used: {report.left_over[0]}, " in str(report)


HOSTILE = ["timm distilled", "Facebook DeiT-III", "timm hub folder", "Hugging Face", "torchvision", "Google",
           "big_vision scan, mean pooling", "MindCV", "MindSpore tutorial"]


@pytest.mark.parametrize("case", HOSTILE)
def test_tensors_of_any_shape_give_a_network_or_one_line(case, tmp_path, monkeypatch):
    """Files that read well and hold nonsense: shapes turned, cut and flattened, tensors missing and too many."""
    path, _ = CASES[case][0](tmp_path)
    file = read_weights(path)
    random = np.random.default_rng(0)
    names = list(file.arrays)
    changes: list[Callable[[np.ndarray], np.ndarray | None]] = [
        lambda a: None, lambda a: a.reshape(-1), lambda a: a.T, lambda a: a[:0], lambda a: a[..., :-1],
        lambda a: a[None], lambda a: a.reshape(-1)[0], lambda a: np.concatenate([a, a]),
        lambda a: a[..., None], lambda a: a.astype(bool)]
    refused = 0
    for name in [name for name in names if "1." not in name]:
        for change in random.choice(len(changes), 4, replace=False):
            arrays = dict(file.arrays)
            arrays[name] = changes[change](arrays[name])
            if arrays[name] is None:
                del arrays[name]
            damaged = replace(file, arrays=arrays)
            monkeypatch.setattr("ms_vit.weights.loading.read_weights", lambda _, damaged=damaged: damaged)
            try:
                load_model(path, f"vit_nano_patch16_{OTHER}")
            except DataError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > len(names)


@pytest.mark.parametrize(("case", "changes"), [
    ("Hugging Face", {"config": {"hidden_act": "relu"}}),
    ("Hugging Face", {"config": {"hidden_act": ["gelu"]}}),
    ("Hugging Face", {"config": {"layer_norm_eps": "small"}}),
    ("Hugging Face", {"config": {"num_attention_heads": "many"}}),
    ("Hugging Face", {"config": {"id2label": {"zero": "cat"}}}),
    ("Hugging Face", {"config": {"id2label": ["cat", "dog"]}}),
    ("Hugging Face", {"config": {"id2label": {"0": "cat", "1": "dog"}}}),
    ("Hugging Face", {"preprocessor_config": {"image_mean": "grey", "image_std": 3}}),
    ("Hugging Face", {"preprocessor_config": {"image_mean": 0.5, "image_std": 0.5}}),
    ("Hugging Face", {"preprocessor_config": {"size": {"height": 0}, "do_center_crop": True}}),
    ("Hugging Face", {"preprocessor_config": {"size": "large", "do_center_crop": True}}),
    ("Hugging Face", {"preprocessor_config": {"resample": 77}}),
    ("timm hub folder", {"config": {"pretrained_cfg": ["mean"]}}),
    ("timm hub folder", {"config": {"pretrained_cfg": {"crop_pct": 0}}}),
    ("timm hub folder", {"config": {"pretrained_cfg": {"mean": None}}}),
    ("timm hub folder", {"config": {"global_pool": "max"}}),
    ("timm hub folder", {"config": {"model_args": {"act_layer": "quick_gelu"}}}),
    ("timm hub folder", {"config": {"label_names": ["one"]}}),
])
def test_a_config_that_contradicts_its_weights_or_sense_is_refused_in_one_line(case, changes, tmp_path, monkeypatch):
    path, _ = CASES[case][0](tmp_path)
    file = read_weights(path)
    for name, values in changes.items():
        file.configs[name] = file.configs.get(name, {}) | values
    monkeypatch.setattr("ms_vit.weights.loading.read_weights", lambda _: file)
    with pytest.raises(DataError) as error:
        load_model(path, f"vit_nano_patch16_{OWN}")
    assert one_line(error).startswith(str(path))


def test_a_network_of_another_kind_is_told_what_is_read(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(DataError, match=r"holds no ViT that we know \(its tensors are called conv1\.weight") as error:
        load_model(tmp_path / "resnet.pth", "vit_tiny_patch16_224")
    one_line(error)


@pytest.mark.parametrize("case", ["timm", "timm pth", "Google", "MindCV", "Hugging Face"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_gives_one_line_that_names_it(case, share, tmp_path):
    path, _ = CASES[case][0](tmp_path)
    file = path / "model.safetensors" if path.is_dir() else path
    content = file.read_bytes()
    file.chmod(0o600)       # MindSpore writes its files read-only
    file.write_bytes(content[:int(share * len(content))])
    with pytest.raises(DataError) as error:
        load_model(path, f"vit_nano_patch16_{OWN}")
    assert str(file) in one_line(error)


# --- what happens to a picture before the network sees it

@pytest.fixture(scope="module")
def mini(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ImageNet subset, unpacked: val/ of 400 photos in 10 folders, infer/ of 10 photos of many sizes."""
    folder = tmp_path_factory.mktemp("mini")
    with zipfile.ZipFile(shared_data / "imagenet_mini.zip") as archive:
        archive.extractall(folder)
    return folder / "dataset"


Prepare = Callable[[Image.Image], np.ndarray]


def timm_prepare(*, interpolation: str, crop_pct: float, size: int, mean: list[float], std: list[float]) -> Prepare:
    transform = timm.data.create_transform((3, size, size), interpolation=interpolation, crop_pct=crop_pct,
                                           mean=tuple(mean), std=tuple(std))
    return lambda image: transform(image).numpy()


def hugging_face_prepare(name: str, folder: Path, **settings: Any) -> Prepare:
    """By the processor that resizes with Pillow, as transformers did up to version 4; it leaves its settings."""
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(folder)
    return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


def largest_difference(made: Preprocessing, prepare: Prepare, photos: list[Path]) -> float:
    """Between ours, from a file's bytes as evaluation reads it and from a picture as Predictor takes it, and theirs."""
    operations, differences = made.operations(), []
    for photo in photos:
        with Image.open(photo) as opened:
            picture = opened.convert("RGB")
        expected = prepare(picture)
        pixels: Any = np.frombuffer(photo.read_bytes(), np.uint8)
        for each in operations:
            pixels = each(pixels)
        for got in (pixels, made.apply(operations, picture)):
            assert got.shape == expected.shape
            assert got.dtype == np.float32
            differences.append(float(np.abs(got - expected).max()))
    return max(differences)


PREPARED: dict[str, tuple[str, int, Callable[[Path], Prepare]]] = {
    "timm": ("timm", 224, lambda _: timm_prepare(
        interpolation="bicubic", crop_pct=0.9, size=224, mean=HALF[0], std=HALF[1])),
    "timm at another size": ("timm", 96, lambda _: timm_prepare(
        interpolation="bicubic", crop_pct=0.9, size=96, mean=HALF[0], std=HALF[1])),
    "timm enlarging": ("timm", 384, lambda _: timm_prepare(
        interpolation="bicubic", crop_pct=0.9, size=384, mean=HALF[0], std=HALF[1])),
    "timm hub folder": ("timm hub folder", 224, lambda _: timm_prepare(
        interpolation="bilinear", crop_pct=0.95, size=224, mean=[0.1, 0.2, 0.3], std=HALF[1])),
    "Facebook": ("Facebook DeiT", 224, lambda _: timm_prepare(
        interpolation="bicubic", crop_pct=0.875, size=224, mean=IMAGENET[0], std=IMAGENET[1])),
    "torchvision": ("torchvision", 224, lambda _: (
        lambda image: torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1.transforms()(image).numpy())),
    "Hugging Face": ("Hugging Face", 224, lambda folder: hugging_face_prepare("ViTImageProcessorPil", folder)),
    "Hugging Face Lanczos": ("Hugging Face", 224, lambda folder: hugging_face_prepare(
        "ViTImageProcessorPil", folder, resample=1)),
    "Hugging Face without normalisation": ("Hugging Face", 224, lambda folder: hugging_face_prepare(
        "ViTImageProcessorPil", folder, do_normalize=False)),
    "Hugging Face DeiT": ("Hugging Face DeiT", 224, lambda folder: hugging_face_prepare(
        "DeiTImageProcessorPil", folder)),
    "Hugging Face shortest edge": ("Hugging Face", 224, lambda folder: hugging_face_prepare(
        "DeiTImageProcessorPil", folder, size={"shortest_edge": 248}, image_mean=IMAGENET[0], image_std=IMAGENET[1])),
}


@pytest.mark.parametrize("name", PREPARED)
def test_a_picture_is_prepared_as_the_library_does(name, mini, tmp_path):
    case, size, prepare = PREPARED[name]
    expected = prepare(tmp_path)        # where it is Hugging Face's, this leaves its settings for ours to find
    path, _ = CASES[case][0](tmp_path)
    made = load_model(path, f"vit_nano_patch16_{size}")[1].preprocessing
    photos = [*sorted((mini / "infer").rglob("*.*")), *sorted((mini / "val").rglob("*.JPEG"))[::40]]
    assert len(photos) >= 20
    assert largest_difference(made, expected, photos) <= 1e-6


# --- real weights, real photos

REAL = "vit_tiny_patch16_224"


def test_real_weights_give_timms_logits(shared_data):
    net, _ = load_model(shared_data / f"{REAL}.safetensors", REAL)
    stored = np.load(shared_data / "reference_logits.npz")
    logits = ours(net, stored["images"])
    assert np.abs(logits - stored["logits"]).max() < 2e-3
    assert (logits.argmax(1) == stored["logits"].argmax(1)).all()


def test_real_weights_score_as_timm_does_on_400_photos(shared_data, mini, tmp_path, record_property):
    """Our whole way from files to top-1, and timm's; both choose among ImageNet's 1,000 classes."""
    path = shared_data / f"{REAL}.safetensors"
    evaluation = evaluate(path, data=mini, model=REAL, out=tmp_path / "eval.json")
    model = timm.create_model(REAL).eval()
    model.load_state_dict(load_file(path))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    labels = imagenet_labels().ids
    photos = sorted((mini / "val").rglob("*.JPEG"))
    right = 0
    for start in range(0, len(photos), 50):
        batch = torch.stack([transform(Image.open(photo).convert("RGB")) for photo in photos[start:start + 50]])
        with torch.no_grad():
            best = model(batch).argmax(1).tolist()
        right += sum(labels[index] == photo.parent.name for index, photo in zip(best, photos[start:], strict=False))
    record_property("top1_ours", evaluation.top1)
    record_property("top1_timms", right / len(photos))
    assert (evaluation.images, len(photos)) == (400, 400)
    assert abs(evaluation.top1 - right / len(photos)) <= 0.01
