"""Weight files: every container gives the arrays that its own library reads; hostile and damaged ones give one line."""

import argparse
import collections
import io
import json
import os
import pickle
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packing import (
    HACK,
    ODDITIES,
    Calls,
    cases,
    laughs,
    make_zip,
    mapping,
    message,
    name_of,
    npy,
    number,
    numbers,
    put,
    refusal,
    safetensors,
    storage,
    tensor,
    terabyte,
    text,
    varint,
    write_ckpt,
    write_safetensors,
    write_stream,
    write_zip,
    written,
)
from safetensors.numpy import save_file

from ms_vit import limits, unpickling
from ms_vit.errors import DataError
from ms_vit.weights.containers import WeightFile, read_weights, torch_pickle, weight_file

ARRAYS = {"patch_embed.proj.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
          "norm.bias": np.array([1.5, -2.5], np.float16), "steps": np.array(7)}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch writes these files; the reader needs none")


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return list(found) == list(wanted) and all(
        found[name].dtype == wanted[name].dtype and found[name].shape == wanted[name].shape
        and found[name].tobytes() == wanted[name].tobytes() and found[name].flags.c_contiguous for name in wanted)


def error(path: Path) -> str:
    """The one line that a file is answered with, without the file's name."""
    text = refusal(read_weights, path, DataError)
    assert str(path) in text and len(text) < 500
    return text.replace(str(path), "FILE")


SIX = np.arange(6, dtype="<f4")
DATA = SIX.tobytes()
ONE_TENSOR = mapping({"w": tensor(storage("0", 6), (2, 3), (3, 1))})


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_a_pth_is_read_without_pytorch(write, tmp_path):
    content = mapping({"a": tensor(storage("0", 6), (3, 2), (1, 3)), "b": tensor(storage("1", 2), (), (), 1)})
    path = write(tmp_path / "w.pth", content, {"0": DATA, "1": np.array([8, 9], "<f4").tobytes()})
    assert same(read_weights(path).arrays, {"a": SIX.reshape(2, 3).T.copy(), "b": np.array(9, np.float32)})


# ----------------------------------------------------------------------------------------------- PyTorch as the oracle

def as_numpy(value: Any) -> np.ndarray:
    value = value.detach()
    return np.ascontiguousarray((value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()).reshape(
        value.shape)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_type_and_every_view_that_pytorch_saves_is_read(zipped, torch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    types = [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int16, torch.int32,
             torch.int64, torch.uint8, torch.bool]
    tensors = {str(dtype): (base * 50).abs().to(dtype) for dtype in types}
    tensors |= {"parameter": torch.nn.Parameter(base), "transposed": base.T, "row": base[1], "column": base[:, 2],
                "every second": base[::2, 1::2], "scalar": base[2, 3], "empty": torch.empty(0, 3),
                "bfloat16 view": tensors["torch.bfloat16"][1:, ::2], "expanded": torch.ones(1).expand(3, 2),
                "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-40]).to(torch.bfloat16)}
    torch.save(collections.OrderedDict(tensors), path := tmp_path / "w", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path).arrays, {name: as_numpy(value) for name, value in tensors.items()})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_modules_state_dict_is_read_with_tied_weights(zipped, torch, tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    net[2].weight = net[0].weight
    torch.save(net.state_dict(), path := tmp_path / "w", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path).arrays, {name: value.numpy() for name, value in net.state_dict().items()})


@pytest.mark.parametrize("zipped", [True, False])
def test_of_a_training_checkpoint_the_weights_are_read_and_what_surrounds_them_is_not(zipped, torch, tmp_path):
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "arch": "vit", "optimizer": optimizer.state_dict(), "version": 2,
                  "args": argparse.Namespace(lr=0.1, mean=[0.5], device=torch.device("cpu"), dtype=torch.bfloat16),
                  "metric": np.float64(81.5), "best": np.float32(3), "shape": torch.Size([1, 2]),
                  "state_dict": {f"module._orig_mod.{name}": value for name, value in net.state_dict().items()}}
    path = tmp_path / "w"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    weights = read_weights(path)
    assert weights.wrapper == "state_dict"
    assert same(weights.arrays, {name: value.numpy() for name, value in net.state_dict().items()})


@pytest.mark.parametrize("keys, wanted", [
    (["model"], "model"), (["module"], "module"), (["model", "state_dict"], "state_dict"),
    (["model", "model_ema", "state_dict"], "model_ema"), (["state_dict", "model_ema", "state_dict_ema"],
                                                          "state_dict_ema"), (["student"], None)])
def test_the_weights_lie_below_the_key_that_timm_prefers(keys, wanted, tmp_path):
    entries = {key: mapping({f"module.{key}": tensor(storage("0", 6), (6,), (1,))}) for key in keys}
    path = write_zip(tmp_path / "w", mapping(entries | {"epoch": number(3)}), {"0": DATA})
    if wanted is None:
        assert "holds no tensors where weights are kept; it has student, epoch" in error(path)
    else:
        weights = read_weights(path)
        assert weights.wrapper == wanted and list(weights.arrays) == [wanted]


def test_the_choice_of_weights_is_timms(torch, tmp_path):
    pytest.importorskip("benchmarks.torch_cpu", reason="timm is the oracle here")
    helpers = pytest.importorskip("timm.models._helpers", reason="timm is the oracle here")
    for keys in (["state_dict", "state_dict_ema"], ["model_ema", "model"], ["state_dict", "model"]):
        path = tmp_path / "w.pth"
        torch.save({key: {"_orig_mod.module._orig_mod.x": torch.full((1,), index)} for index, key in enumerate(keys)},
                   path)
        wanted = {name: value.numpy() for name, value in helpers.load_state_dict(str(path)).items()}
        assert same(read_weights(path).arrays, wanted)


def test_a_pth_saved_without_checksums_is_read(torch, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(6.0)}, tmp_path / "w")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_weights(tmp_path / "w").arrays, {"w": SIX})


SIZES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(dims=SIZES, offset=st.integers(0, 30), zipped=st.booleans())
@example(dims=[], offset=24, zipped=True)
@example(dims=[(2, 1)], offset=23, zipped=True)
@example(dims=[(0, 9)], offset=30, zipped=False)
def test_a_view_is_what_pytorch_makes_of_it_or_refused_where_it_leaves_its_storage(dims, offset, zipped, torch):
    shape, strides = (tuple(dim[side] for dim in dims) for side in (0, 1))
    base = torch.arange(24.0)
    with tempfile.TemporaryDirectory() as folder:
        path = (write_zip if zipped else write_stream)(
            Path(folder) / "w", mapping({"w": tensor(storage("0", 24), shape, strides, offset)}),
            {"0": base.numpy().tobytes()})
        last = offset + sum((length - 1) * stride for length, stride in dims)
        if 0 not in shape and last >= 24:
            assert "reaches beyond its storage 0" in error(path)
        else:
            wanted = base.as_strided(shape, strides, offset).numpy() if 0 not in shape else np.empty(shape, np.float32)
            assert same(read_weights(path).arrays, {"w": np.ascontiguousarray(wanted).reshape(shape)})


def test_only_the_storages_of_the_weights_are_read(tmp_path):
    big = mapping({"m": tensor(storage("1", 5_000_000), (5_000_000,), (1,))})
    path = write_zip(tmp_path / "w", mapping({"optimizer": big, "model": ONE_TENSOR}),
                     {"0": DATA, "1": bytes(20_000_000)})
    assert peak_of(path) < 2_000_000


# ---------------------------------------------------------------------------------------------- the other containers

def test_safetensors_are_read_with_their_metadata(tmp_path):
    save_file(ARRAYS, tmp_path / "anything.bin", metadata={"format": "pt"})
    weights = read_weights(tmp_path / "anything.bin")
    assert weights.metadata == {"format": "pt"} and weights.wrapper is None and weights.configs == {}
    assert same({name: weights.arrays[name] for name in ARRAYS}, ARRAYS)


def test_bfloat16_becomes_the_same_float32_in_every_container(tmp_path):
    halves = np.arange(1 << 16, dtype="<u2")  # all there are, NaNs and denormals too
    wanted = {"w": (halves.astype(np.uint32) << 16).view(np.float32)}
    np.savez(tmp_path / "npz", w=halves.view("V2"))
    content = mapping({"w": tensor(storage("0", 1 << 16, "torch.BFloat16Storage"), (1 << 16,), (1,))})
    paths = [write_safetensors(tmp_path / "safetensors", {"w": ("BF16", [1 << 16], halves.tobytes())}),
             write_zip(tmp_path / "zip", content, {"0": halves.tobytes()}), tmp_path / "npz.npz",
             write_stream(tmp_path / "stream", content, {"0": halves.tobytes()}, size=2),
             write_ckpt(tmp_path / "ckpt", [("w", "BFloat16", [1 << 16], halves.tobytes())])]
    for path in paths:
        assert same(read_weights(path).arrays, wanted), path


def entry(shape: Any = (6,), offsets: Any = (0, 24), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(("content", "wanted"), cases({
    "a header of a byte too much": (safetensors({}, DATA, limits.MAX_HEADER + 1), "its header claims 8,000,001 bytes"),
    "a header of as much as it may have, and lacks it": (safetensors({}, DATA, limits.MAX_HEADER), "cut short"),
    "a header of 2^60": (safetensors({}, DATA, 1 << 60), "is no safetensors"),
    "a header longer than the file": (safetensors({"w": entry()}, DATA, 5000), "cut short"),
    "no header": (safetensors(b"", DATA), "is no safetensors"),
    "a list for a header": (safetensors(b"[]", DATA), "is no safetensors"),
    "a header of no JSON": (safetensors(b"{w}", DATA), "damaged"),
    "a header in no encoding": (safetensors(b'{"\xff": 1}', DATA), "damaged"),
    "a deep header": (safetensors(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}", DATA), "damaged"),
    **{f"an entry {each}": (safetensors({"w": each}, DATA), "damaged") for each in (
        entry([600], [0, 2400]), entry([1 << 58], [0, 1 << 60]), entry([6], [24, 0]), entry([6], [-24, 0]), entry([7]),
        entry([-6]), entry([1 << 32, 1 << 32]), entry([6.0]), entry(dtype="F7"), entry(dtype=[1]), {"shape": [6]}, 1)},
    "overlapping tensors": (safetensors({"a": entry(), "b": entry()}, DATA), "damaged"),
    "a hole": (safetensors({"a": entry([3], [0, 12]), "b": entry([3], [24, 36])}, bytes(36)), "damaged"),
    "a shape of no numbers": (safetensors({"w": entry([0, 1 << 62], [0, 0])}, b""), ""),
    "a type that we don't know": (safetensors({"\x1b": entry([24], dtype="F8_E5M2")}, DATA), "holds \\x1b as F8_E5M2"),
    "metadata of numbers": (safetensors({"__metadata__": {"ms_vit": 1}, "w": entry()}, DATA), "damaged"),
    "a terabyte of nothing": (terabyte, "needs more memory than this machine has"),
    "no tensors": (safetensors({}, b""), "holds no tensors"),
}))
def test_a_safetensors_file_that_contradicts_itself_is_refused(content, wanted, tmp_path):
    assert wanted in error(put(tmp_path / "w", content))


def test_a_safetensors_header_that_names_a_tensor_twice_reads_nothing_beyond_the_file(tmp_path):
    first = '"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}'
    for second in (first.replace("[0,24]", "[0,9000]"), first.replace("[6]", "[7]"), first):
        for header in (f"{{{first},{second}}}", f"{{{second},{first}}}"):
            (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header.encode() + DATA)
            weights = read_or_fault(tmp_path / "w")
            assert weights is None or same(weights.arrays, {"w": SIX})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_are_read_and_text_in_them_is_left_out(save, tmp_path):
    arrays = ARRAYS | {"Transformer/encoderblock_0/kernel": np.asfortranarray(np.random.rand(3, 4))}
    save(tmp_path / "w.npz", comment="made by JAX", big=np.arange(3, dtype=">i4"), **arrays)
    assert same(read_weights(tmp_path / "w.npz").arrays,
                {"big": np.arange(3, dtype="i4")} | {name: array.copy("C") for name, array in arrays.items()})


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(("member", "wanted"), cases({
    "an object that calls": (npy(pickle.dumps(Calls(os.system, "touch hacked")), descr="|O"), "is an array of object"),
    "complex numbers": (npy(DATA, descr="<c8", shape=(3,)), "is an array of complex64"),
    "dates": (npy(DATA, descr="<M8[s]", shape=(3,)), "is an array of datetime64"),
    "records": (npy(DATA, descr=[("a", "<f4")]), "is an array of"),
    "bytes without a type": (npy(DATA, descr="|V4"), "is an array of |V4"),
    "a header that calls": (npy_header(f"{{'descr': {HACK}, 'shape': (6,), 'fortran_order': 0}}") + DATA, "no header"),
    "a header of 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "no header of NumPy's"),
    "another version": (b"\x93NUMPY\x09\x00", "no header of NumPy's"),
    "a shape of 2^48": (npy(DATA, shape=(1 << 48,)), "impossible shape"),
    "a shape of 2^40": (npy(DATA, shape=(1 << 40,)), "another size"),
    "a shape below 0": (npy(DATA, shape=(-6,)), "impossible shape"),
    "a shape too large": (npy(DATA, shape=(7,)), "another size"),
    "a shape too small": (npy(DATA, shape=(5,)), "another size"),
    "a shape of 33 dimensions": (npy(DATA, shape=(6,) + (1,) * 32), "impossible shape"),
    "no content": (b"", "no header of NumPy's"),
}))
def test_an_array_in_an_npz_that_is_none_of_numbers_is_refused_by_name(member, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert wanted in (told := error(make_zip(tmp_path / "w.npz", [("a/\x1b.npy", member)]))) and "a/\\x1b" in told
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_an_npz_of_32_dimensions_with_a_header_of_either_version_is_read(tmp_path):
    old = npy(DATA, shape=(6,) + (1,) * 31)
    new = b"\x93NUMPY\x02\x00" + old[8:10] + b"\0\0" + old[10:]
    make_zip(tmp_path / "w", [("old.npy", old), ("new.npy", new), ("notes.txt", b"x")])
    assert same(read_weights(tmp_path / "w").arrays, dict.fromkeys(("old", "new"), SIX.reshape((6,) + (1,) * 31)))


@pytest.mark.parametrize("crc", [True, False])
def test_mindspores_checkpoints_are_read_as_mindspore_reads_them(crc, tmp_path):
    import mindspore as ms

    tensors = {str(dtype): ms.Tensor([[0, 1, 2]], dtype) for dtype in (
        ms.float16, ms.float32, ms.float64, ms.int8, ms.int16, ms.int32, ms.int64, ms.uint8, ms.bool_)}
    tensors |= {"scalar": ms.Tensor(2.5, ms.float32), "bfloat16": ms.Tensor([1.5, -2.0], ms.bfloat16)}
    path = tmp_path / "w.ckpt"
    ms.save_checkpoint([{"name": name, "data": value} for name, value in tensors.items()], str(path), crc_check=crc,
                       append_dict={"epoch": 3, "arch": "vit"})
    loaded = ms.load_checkpoint(str(path))
    wanted = {name: value.float().asnumpy() if value.dtype == ms.bfloat16 else value.asnumpy()
              for name, value in loaded.items() if name != "arch"}
    assert same(read_weights(path).arrays, wanted)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"Float32") + 12] ^= 1  # within the numbers
    path.chmod(0o600)
    path.write_bytes(content)
    assert crc == (read_or_fault(path) is None)


def test_a_tensor_that_mindspore_wrote_in_slices_is_whole(tmp_path, monkeypatch):
    import mindspore as ms

    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)  # kB
    array = np.random.rand(50, 20).astype(np.float32)
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(array)} for name in "ab"], str(tmp_path / "w.ckpt"))
    assert (tmp_path / "w.ckpt").read_bytes().count(b"Float32") > 2
    assert same(read_weights(tmp_path / "w.ckpt").arrays, {"a": array, "b": array})


@pytest.mark.parametrize("packed", [True, False])
def test_a_ckpt_is_read_however_its_shape_is_written(packed, tmp_path):
    path = write_ckpt(tmp_path / "w", [("a", "Float32", [2, 3], DATA), ("epoch", "Int64", [0], bytes(8)),
                                       ("scalar", "Float32", [], DATA[4:8]), ("one", "Float32", [1], DATA[4:8]),
                                       ("none", "Float32", [0], b"")], packed)
    assert same(read_weights(path).arrays, {"a": SIX.reshape(2, 3), "epoch": np.array(0), "scalar": SIX[1].reshape(()),
                                            "one": SIX[1:2], "none": SIX[:0]})


def test_a_bool_is_true_or_false_whatever_its_byte(tmp_path):
    path = write_ckpt(tmp_path / "w", [("mask", "Bool", [3], b"\0\1\2")])
    assert same(read_weights(path).arrays, {"mask": np.array([False, True, True])})


def test_a_ckpt_that_claims_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "w.ckpt"
    size = varint(1 << 47)
    value = message(1, b"w") + b"\x12" + size + b"\x08" + size + message(2, b"Int8") + b"\x1a" + size
    path.write_bytes(b"\n" + size + value)
    assert "no MindSpore checkpoint" in error(path)
    path.write_bytes(message(1, value))
    assert "no MindSpore checkpoint" in error(path)


def tensors(*entries: tuple[str, str, list[int], bytes]) -> bytes:
    return written(lambda path: write_ckpt(path, list(entries)))


@pytest.mark.parametrize(("content", "wanted"), cases({
    "a shape too large": (tensors(("w", "Float32", [7], DATA)), "w has another size than its shape"),
    "a shape too small": (tensors(("w", "Float32", [5], DATA)), "w has another size than its shape"),
    "a shape of [0] with two numbers": (tensors(("w", "Float32", [0], DATA[:8])), "w has another size than its shape"),
    "a shape of 2^62": (tensors(("w", "Float32", [1 << 62, 4], DATA)), "w has an impossible shape"),
    "33 dimensions": (tensors(("w", "Float32", [6] + [1] * 32, DATA)), "no MindSpore checkpoint"),
    "33 dimensions, packed": (written(lambda path: write_ckpt(path, [("w", "Float32", [6] + [1] * 32, DATA)], True)),
                              "no MindSpore checkpoint"),
    "an unknown type": (tensors(("w", "Int4", [6], DATA)), "holds w as Int4"),
    "a type with an escape": (tensors(("w", "\x1b[2J", [6], DATA)), "holds w as \\x1b[2J, which is not supported"),
    "a name twice": (tensors(*[(name, "Float32", [6], DATA) for name in "wvw"]), "holds w twice"),
    "a name twice, of two shapes": (tensors(("w", "Float32", [6], DATA), ("w", "Float32", [5], DATA[4:])), "twice"),
    "text alone": (tensors(("w", "str", [0], b"text")), "holds no tensors"),
    "a tag in no encoding": (message(1, message(1, b"\xff\xfe") + message(2, message(2, b"Int8"))), "damaged"),
    "a tag of a letter too many": (tensors(("x" * (limits.MAX_CKPT_TEXT + 1), "Int8", [1], b"x")), "no MindSpore"),
    "200,000 fields": (message(1, b"\x18\x01" * 200_000), "no MindSpore checkpoint"),
    **{f"bytes {each}": (each, "no MindSpore checkpoint") for each in (
        b"\n", b"\n" + varint(1 << 60) + b"x", b"\n" + b"\xff" * 30, message(1, b"\x0b\x0c"))},
    "a wrong CRC": (tensors(("w", "Float32", [6], DATA)) + b"crc_num" + bytes(10), "its CRC is another than it says"),
}))
def test_a_ckpt_that_contradicts_itself_is_refused(content, wanted, tmp_path):
    assert wanted in error(put(tmp_path / "w.ckpt", content))


@pytest.mark.parametrize("packed", [True, False])
def test_a_ckpt_at_the_bounds_is_read(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_CKPT_FIELDS", 33)        # 32 dimensions and a type, and the content after them
    name, shape = "x" * limits.MAX_CKPT_TEXT, [6] + [1] * 31
    path = write_ckpt(tmp_path / "w", [(name, "Float32", shape, DATA)], packed)
    if not packed:
        assert "no MindSpore checkpoint" in error(path)
        monkeypatch.setattr(limits, "MAX_CKPT_FIELDS", 35)
    assert same(read_weights(path).arrays, {name: SIX.reshape(shape)})


def test_a_ckpt_whose_beginning_looks_like_json_is_read(tmp_path):
    path = write_ckpt(tmp_path / "w", [("n" * 34, "Float32", [16, 1, 1, 1, 1], bytes(64))])
    assert path.read_bytes().startswith(b"\n{\n\"")
    assert list(read_weights(path).arrays) == ["n" * 34]


# ------------------------------------------------------------------------------------------------- folders and indexes

def write_shards(folder: Path, files: dict[str, list[str]], weight_map: dict[str, Any] | None = None) -> Path:
    for file, names in files.items():
        save_file({name: np.full(2, len(name), np.float32) for name in names}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map or {
        name: file for file, names in files.items() for name in names}}))
    return index


def test_shards_are_read_by_their_index_or_their_folder(tmp_path):
    files = {"model-00001-of-00002.safetensors": ["a", "bb"], "model-00002-of-00002.safetensors": ["ccc"]}
    index = write_shards(tmp_path, files)
    for path in (index, tmp_path):
        arrays = read_weights(path).arrays
        assert {name: array.tolist() for name, array in arrays.items()} == {"a": [1, 1], "bb": [2, 2], "ccc": [3, 3]}
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "FILE needs model-00002-of-00002.safetensors beside it, which is missing" in error(index)


def test_shards_of_pytorch_are_read(tmp_path):
    write_zip(tmp_path / "pytorch_model-00001-of-00001.bin", ONE_TENSOR, {"0": DATA})
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}')
    assert same(read_weights(tmp_path).arrays, {"w": SIX.reshape(2, 3)})


@pytest.mark.parametrize("shard", ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "C:x", "a\nb", "a\0",
                                   "x" * 256])
def test_an_index_that_leaves_its_folder_is_refused(shard, tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"w": SIX}, tmp_path / "secret")
    assert "is no plain file name" in error(write_shards(tmp_path / "in", {}, {"w": shard}))


@pytest.mark.parametrize("files, weight_map, wanted", [
    ({"x": ["a"]}, {"a": "x", "b": "x"}, "FILE promises b in x, which lacks it"),
    ({"x": ["a"], "y": ["a"]}, {"a": "x", "b": "y"}, "a is in two of its shards"),
    ({}, {"a": 1}, 'no index of weights'), ({}, ["a"], "no index of weights"),
    ({}, {"a": "model.safetensors.index.json"}, "file; look at what it is")])
def test_an_index_that_contradicts_its_shards_is_refused(files, weight_map, wanted, tmp_path):
    assert wanted in error(write_shards(tmp_path, files, weight_map))


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_shard_that_is_no_file_is_told_and_not_waited_for(oddity, tmp_path):
    index = write_shards(tmp_path, {}, {"w": "odd"})
    ODDITIES[oddity](tmp_path / "odd")
    assert "FILE needs odd beside it, which is missing" in error(index)


def test_a_damaged_shard_is_named(tmp_path):
    index = write_shards(tmp_path, {"x": ["a"]})
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(DataError, match=r"/x is empty"):
        read_weights(index)


def test_configs_travel_with_a_hub_folders_weights_and_with_no_other(tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors")
    save_file(ARRAYS, tmp_path / "mine")
    (tmp_path / "config.json").write_text('{"hidden_size": 192}')
    assert read_weights(tmp_path).configs == {"config": {"hidden_size": 192}}
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    wanted = {"config": {"hidden_size": 192}, "preprocessor_config": {"image_mean": [0.5]}}
    assert read_weights(tmp_path / "model.safetensors").configs == wanted
    assert read_weights(tmp_path / "mine").configs == {}


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b"{}" + b" " * limits.MAX_HEADER])
def test_a_damaged_config_is_named(content, tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json is (damaged|refused)"):
        read_weights(tmp_path)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path):
    assert "FILE has none of model.safetensors, model.safetensors.index.json, pytorch_model.bin" in error(tmp_path)


# ------------------------------------------------------------------------------------------ what is no weight file

@pytest.mark.parametrize("content, wanted", [
    (b"", "FILE is empty"), (b"<!DOCTYPE html><html>", "FILE is a web page, not weights; the download went wrong"),
    (b"\n <HTML>Sign in", "is a web page"), (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    (b"just some text", "is no safetensors"), (b"\x00" * 600, "is no safetensors"), (b'{"a": 1}', "no index"),
    (b'{"a":', "no valid JSON"), (b'{"a":' + b"[" * 99_999, "no valid JSON"),
    (pickle.dumps({"a": 1}), "not one of torch.save's"),
    (b"\n" * 9, "no MindSpore checkpoint"), (b"PK\x05\x06" + bytes(18), "zip without weights"),
    (b"PK\x03\x04" + bytes(99), "damaged (BadZipFile"),
    (struct.pack("<Q", 1 << 31) + b"{" + bytes(99), "header claims"),
    (struct.pack("<Q", 900) + b"{" + bytes(99), "cut short")])
def test_a_file_of_something_else_is_told_what_it_is(content, wanted, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert wanted in error(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert error(tmp_path / "no.pth") == "can't read FILE: no such file or directory"


# ------------------------------------------------------------------------------------------------------ hostile files

def call(name: str, *arguments: bytes) -> bytes:
    return name_of(name) + b"(" + b"".join(arguments) + b"tR"


@pytest.mark.parametrize("write", [write_zip, write_stream])
@pytest.mark.parametrize("content, wanted", [
    (call("os.system", text("touch hacked")), "asks for os.system"),
    (call("builtins.eval", text(HACK)), "asks for builtins.eval"),
    (call("io.open", text("hacked"), text("w")), "asks for io.open"),
    (call("torch.os.system", text("touch hacked")), "asks for torch.os.system"),
    (name_of("subprocess.Popen") + b")\x81", "asks for subprocess.Popen"),
    (call("torch.storage._load_from_bytes", text("x")), "asks for torch.storage._load_from_bytes"),
    (call("torch.hub.load", text("x")), "asks for torch.hub.load"),
    (call("os.\x1b[2Jsystem"), "asks for os.\\x1b[2Jsystem"),
    (call("torch.float8_e4m3fn"), "asks for torch.float8_e4m3fn"),
    (call("torch._utils._rebuild_tensor_v2", text("a"), number(0), numbers((1,)), numbers((1,))), "else than a"),
    (call("torch._utils._rebuild_tensor_v2", number(1)), "can't be read (TypeError)"),
    (call("torch._utils._rebuild_tensor_v2", name_of("torch.FloatStorage"), number(0), b"))"), "else than a storage"),
    (b"(" + text("module") + name_of("torch.FloatStorage") + text("x") * 3 + b"tQ", "in a way that torch.save"),
    (b"(" + storage("0", 6)[1:-2] + numbers((0, 1, 2)) + b"tQ", "in a way that torch.save"),
    (number(1) + b"Q", "can't be read"), (b"\x8c\x01a", "another protocol"), (b"Vtext\n", "another protocol"),
    (b"h\x05", "can't be read"), (b"u", "can't be read"), (b"}(((", "can't be read"),
    (b"X\xff\xff\xff\xff", "can't be read"),       # a text of 4 GB
    (call("torch._utils._rebuild_tensor_v2", storage("0", 0), number(0), laughs(), laughs()), ""),
    (b"]", "holds no dictionary"), (b"}", "it has nothing"),
    (b"}(" + b")\x85\x85" + number(1) + b"u", "asks for a tuple for a key")])
def test_a_pickle_that_wants_more_than_tensors_is_refused(write, content, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert wanted in error(write(tmp_path / "w.pth", content, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("target", ["torch._utils._rebuild_tensor_v2", "argparse.Namespace", "torch.FloatStorage",
                                    "collections.OrderedDict"])
def test_a_pickle_cannot_change_the_stand_ins(target, tmp_path):
    # BUILD with a pair of states calls setattr, on a class or a function as well.
    state = b"(N}" + text("__defaults__") + numbers((1, 2)) + b"s" + b"t"
    content = mapping({"x": name_of(target) + state + b"b", "w": tensor(storage("0", 6), (2, 3), (3, 1))})
    read_weights(write_zip(tmp_path / "w", content, {"0": DATA}))
    assert torch_pickle.rebuild_tensor.__defaults__ == (None, None, None)
    assert not hasattr(torch_pickle.Nothing, "__defaults__") and not hasattr(unpickling.Mapping, "__defaults__")


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("deep", [
    pytest.param(b")" + b"\x85" * 200_000, id="tuples"), pytest.param(b"]" * 100_000 + b"a" * 99_999, id="lists"),
    pytest.param(b"}" + b"K\x01}" * 100_000 + b"s" * 100_000, id="mappings")])
def test_deep_nesting_does_not_end_the_process(deep, key, tmp_path):
    content = b"}" + (deep + number(1) if key else text("x") + deep) + b"s"
    assert ("for a key" if key else "holds no tensors") in error(write_zip(tmp_path / "w", content, {}))


@pytest.mark.parametrize("count, size, wanted", [
    (6, 20, "is missing or of another size"), (6, 28, "is missing or of another size"),
    (1 << 60, 24, "is missing or of another size"), (-1, 24, "in a way that torch.save does not")])
def test_a_storage_of_another_size_than_its_member_is_refused(count, size, wanted, tmp_path):
    content = mapping({"w": tensor(storage("0", count), (2, 3), (3, 1))})
    assert wanted in error(write_zip(tmp_path / "w", content, {"0": bytes(size)}))
    error(write_stream(tmp_path / "w", content, {"0": bytes(size)}))


@pytest.mark.parametrize("shape, strides, offset, wanted", [
    ((7,), (1,), 0, "beyond its storage"), ((6,), (1,), 1, "beyond its storage"), ((2,), (6,), 0, "beyond its storage"),
    ((2,), (1 << 62,), 0, "beyond its storage"), ((2,), (-1,), 1, "else than a storage"),
    ((2,), (1,), -1, "else than a storage"), ((1 << 40,), (0,), 0, "expand to more than"), ((2,), (), 0, "else than a"),
    ((-1,), (1,), 0, "impossible shape"), ((1,) * 33, (1,) * 33, 0, "impossible shape")])
def test_a_tensor_never_leaves_its_storage(shape, strides, offset, wanted, tmp_path):
    content = mapping({"w": tensor(storage("0", 6), shape, strides, offset)})
    assert wanted in error(write_zip(tmp_path / "w", content, {"0": DATA}))


def test_a_storage_is_of_the_archive_and_no_file_beside_it(tmp_path):
    path = write_zip(tmp_path / "w", mapping({"w": tensor(storage("../../canary", 6), (6,), (1,))}), {})
    put(tmp_path / "canary", DATA)
    assert "its storage ../../canary is missing" in error(path)


def test_tensors_may_expand_to_their_bound_and_no_further(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "w", mapping({"a": tensor(storage("0", 6), (100,), (0,)), "b": tensor(
        storage("1", 2, "torch.BFloat16Storage"), (50,), (0,))}), {"0": DATA, "1": bytes(4)})
    monkeypatch.setattr(limits, "MAX_TORCH_RATIO", 0)
    monkeypatch.setattr(limits, "FREE_TORCH_BYTES", 600)      # a bfloat16 becomes a float32
    assert [len(array) for array in read_weights(path).arrays.values()] == [100, 50]
    monkeypatch.setattr(limits, "FREE_TORCH_BYTES", 599)
    assert "expand to more than 599 bytes" in error(path)


def test_an_npz_may_unpack_to_its_bound_and_no_further(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "w", [("w.npy", member := npy(DATA))])
    monkeypatch.setattr(limits, "MAX_NPZ_RATIO", 0)
    monkeypatch.setattr(limits, "FREE_NPZ_BYTES", len(member))
    assert same(read_weights(path).arrays, {"w": SIX})
    monkeypatch.setattr(limits, "FREE_NPZ_BYTES", len(member) - 1)
    assert f"unpacks to more than {len(member) - 1} bytes" in error(path)


def test_a_thousand_copies_of_one_storage_are_refused(tmp_path):
    content = mapping({f"w{index}": tensor(storage("0", 250_000), (250_000, 1), (1, 1)) for index in range(1000)})
    assert "expand to more than" in error(write_zip(tmp_path / "w", content, {"0": bytes(1_000_000)}))


def test_a_stream_whose_parts_contradict_each_other_is_refused(tmp_path):
    path = tmp_path / "w"
    small, large = (tensor(storage("0", count), (count,), (1,)) for count in (6, 600))
    write_stream(path, mapping({"a": small, "b": large}), {"0": DATA})
    assert "describes its storage 0 in two ways" in error(path)
    assert "list of storages is another" in error(write_stream(path, ONE_TENSOR, {}))
    assert "list of storages is another" in error(write_stream(path, ONE_TENSOR, dict.fromkeys("01", DATA)))
    good = write_stream(path, ONE_TENSOR, {"0": DATA}).read_bytes()
    keys = b"](" + text("0") + b"e"
    for old, new in ((number(1001), number(1000)), (keys, b"}" + text("0") + number(1) + b"s"), (keys, text("0")),
                     (keys, b"](" + number(0) + b"e")):
        put(path, good.replace(old, new))
        assert "list of storages is another" in error(path)
    put(path, good[:-1])
    assert "cut short: its storages need" in error(path)


def test_names_that_meet_without_their_prefixes_are_refused(tmp_path):
    one = tensor(storage("0", 6), (6,), (1,))
    path = write_zip(tmp_path / "w", mapping({"w": one, "module.w": one}), {"0": DATA})
    assert "holds w twice" in error(path)


def test_bombs_are_refused(tmp_path):
    bomb = write_zip(tmp_path / "w.pth", ONE_TENSOR, {"0": bytes(90_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert "it unpacks to more than its own size" in error(bomb)
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros(90_000_000, np.uint8))
    assert "unpacks to more than" in error(tmp_path / "w.npz")
    huge = write_zip(tmp_path / "w.pth", b"0" * limits.MAX_HEADER, {})
    assert "more than 8,000,000 bytes" in error(huge)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("member, content, wanted", [
    ("archive/constants.pkl", b"", "is TorchScript"), ("archive/byteorder", b"big", "big-endian"),
    ("other/data.pkl", b"", "is damaged"), ("archive/data.pkl", b"", "has a member twice")])
def test_zips_of_pytorchs_that_are_no_plain_weights_are_refused(member, content, wanted, tmp_path):
    path = write_zip(tmp_path / "w", ONE_TENSOR, {"0": DATA})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, content)
    assert wanted in error(path)


# --------------------------------------------------------------------------------------------------- damaged files

def samples() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        model = mapping({"a": tensor(storage("0", 6), (3, 2), (1, 3)),
                         "b": tensor(storage("1", 2, "torch.LongStorage"), (2,), (1,))})
        write_zip(path, mapping({"epoch": number(3), "model": model}), {"0": DATA, "1": bytes(16)})
        found = {"zip": path.read_bytes()}
        write_stream(path, mapping({"a": tensor(storage("0", 6), (3, 2), (1, 3))}), {"0": DATA})
        found["stream"] = path.read_bytes()
        save_file(ARRAYS, path, metadata={"format": "pt"})
        found["safetensors"] = path.read_bytes()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **ARRAYS)
        found["npz"] = buffer.getvalue()
        write_ckpt(path, [("a", "Float32", [2, 3], DATA), ("b", "Int8", [2], b"ab")])
        found["ckpt"] = path.read_bytes()
        write_shards(Path(folder), {}, {"w": "shard"})
        found["index"] = (Path(folder) / "model.safetensors.index.json").read_bytes()
    return found


SAMPLES = samples()


def read_or_fault(path: Path) -> WeightFile | None:
    """None where the file was answered with one line. Anything else that is raised fails the test."""
    try:
        return read_weights(path)
    except DataError as error:
        assert str(path) in str(error) and str(error).isprintable() and len(str(error)) < 500
        return None


@pytest.mark.timeout(20)
def test_a_file_that_shrinks_as_it_is_read_is_told():
    assert weight_file.read_bytes(io.BytesIO(b"abcd"), 4, "w").tobytes() == b"abcd"
    with pytest.raises(weight_file.BadFile, match="is cut short: it ends within w; download it again"):
        weight_file.read_bytes(io.BytesIO(b"abc"), 4, "w")


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_truncation_is_noticed(kind, tmp_path):
    content = SAMPLES[kind]
    path = tmp_path / "w"
    whole_tensors = {content.index(b"\n", 40)} if kind == "ckpt" else set()  # a message may end after any of its fields
    for end in range(0, len(content), 1 + len(content) // 150):
        path.write_bytes(content[:end])
        assert read_or_fault(path) is None or end in whole_tensors, end


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(SAMPLES)), flips=st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4), tail=st.binary(max_size=4))
def test_a_damaged_file_gives_arrays_or_one_line(kind, flips, tail, damaged_path):
    content = bytearray(SAMPLES[kind])
    for position, value in flips:
        content[position % len(content)] = value
    damaged_path.write_bytes(bytes(content) + tail)
    weights = read_or_fault(damaged_path)
    if weights is not None:
        assert all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in weights.arrays.values())


@settings(max_examples=200, deadline=None)
@given(program=st.lists(st.sampled_from([
    *[bytes([code]) for code in torch_pickle.Unpickler.dispatch], text("a"), number(3), ONE_TENSOR, storage("0", 6),
    tensor(storage("0", 6), (2,), (1,)), *[name_of(".".join(known)) for known in torch_pickle.KNOWN]]), max_size=25))
def test_any_program_that_a_pickle_can_be_gives_arrays_or_one_line(program, damaged_path):
    read_or_fault(write_zip(damaged_path, b"".join(program), {"0": DATA}))


@pytest.fixture(scope="module")
def damaged_path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "w"


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_a_flipped_bit_in_a_zipped_tensor_is_noticed(kind, tmp_path):
    path = tmp_path / "w"
    if kind == "zip":
        write_zip(path, ONE_TENSOR, {"0": DATA})
    else:
        np.savez(path.with_suffix(".npz"), w=SIX)
        path = path.with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[content.index(DATA) + 5] ^= 4
    path.write_bytes(content)
    assert "Bad CRC-32" in error(path)


# --------------------------------------------------------------------------------------------------------- memory

def peak_of(path: Path) -> int:
    """Bytes at most in use while a file is read, those of its arrays included."""
    tracemalloc.start()
    try:
        read_or_fault(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors", "npz", "ckpt"])
def test_reading_takes_little_more_memory_than_the_arrays(kind, tmp_path):
    arrays = {f"w{index}": np.random.rand(250_000).astype(np.float32) for index in range(40)}
    entries = mapping({name: tensor(storage(name, 250_000), (500, 500), (500, 1)) for name in arrays})
    contents = {name: array.tobytes() for name, array in arrays.items()}
    path = tmp_path / "w.npz"
    if kind == "zip":
        write_zip(path, entries, contents)
    elif kind == "stream":
        write_stream(path, entries, contents)
    elif kind == "safetensors":
        save_file(arrays, path)
    elif kind == "npz":
        np.savez(path, **arrays)
    else:
        write_ckpt(path, [(name, "Float32", [500, 500], data) for name, data in contents.items()])
    assert 40_000_000 < peak_of(path) < 43_000_000
