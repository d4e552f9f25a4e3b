"""Weight files of every container that people have, read into plain NumPy. Nothing in a file is ever run.

safetensors; PyTorch's .pth and .bin, without PyTorch; NumPy's .npz; MindSpore's .ckpt; their shards by an index; and
folders of them as Hugging Face and timm lay them out. A file is known by its content, whatever its name.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ms_vit.errors import DataError
from ms_vit.weights.containers.ckpt import read_ckpt
from ms_vit.weights.containers.npz import read_npz
from ms_vit.weights.containers.safetensors_file import is_safetensors, read_safetensors
from ms_vit.weights.containers.torch_files import is_stream, read_stream, read_zip
from ms_vit.weights.containers.weight_file import BadFile, WeightFile, printable, read_object

T = TypeVar("T")
__all__ = ["WeightFile", "read_weights"]

HUB_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
CONFIGS = ("config", "preprocessor_config")
HEAD = 512  # bytes by which a container is known
BINARY = re.compile(rb"[^\t\n\r -\xff]")  # what no text has
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml|!--)", re.IGNORECASE)


def read_weights(path: Path) -> WeightFile:
    """The weights in a file, in the shards that an index names, or in a folder of Hugging Face's or timm's layout.

    Raises DataError in one line where the file is damaged, asks for more than weights need, or holds none. In memory it
    takes about the size of the arrays and of the largest tensor.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in HUB_FILES if (path / name).is_file()]
        if not found:
            raise DataError(f"{path} has none of {', '.join(HUB_FILES)}; name the file that holds the weights")
        file = found[0]
    weights = attempt(file, read)
    if not weights.arrays:
        raise DataError(f"{file} holds no tensors; was it written completely?")
    if file.name in HUB_FILES:  # a config.json beside another file may be anybody's
        configs = {name: file.with_name(f"{name}.json") for name in CONFIGS}
        weights.configs = {name: attempt(config, read_object) for name, config in configs.items() if config.is_file()}
    return weights


def attempt(path: Path, reader: Callable[[Path], T]) -> T:
    """What a reader makes of a file; whatever goes wrong becomes one line that names the file."""
    try:
        return reader(path)
    except DataError:
        raise
    except BadFile as error:
        raise DataError(f"{path} {error}") from error
    except OSError as error:
        raise DataError(f"can't read {path}: {(error.strerror or str(error)).lower()}") from error
    except MemoryError as error:
        raise DataError(f"{path} needs more memory than this machine has to give; use a larger one") from error
    except Exception as error:  # a damaged file makes its reader raise nearly anything
        raise DataError(f"{path} is damaged ({type(error).__name__}: {printable(error)}); download it again") from error


def read(path: Path) -> WeightFile:
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head.lstrip().startswith(b"{") and not BINARY.search(head):
        return read_shards(path)
    return read_container(path, head)


def read_container(path: Path, head: bytes) -> WeightFile:
    """The weights in one file, by its first bytes. Raises BadFile."""
    if not head:
        raise BadFile("is empty; download it again")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return read_zipped(path)
    if is_stream(head):
        return read_stream(path)
    if is_safetensors(head):
        return read_safetensors(path)
    if is_openvino(head):
        raise BadFile("is an OpenVINO model, which eval and infer run by --engine openvino, and nothing else does")
    if WEB_PAGE.match(head):
        raise BadFile("is a web page, not weights; the download went wrong")
    if head.startswith(b"version https://git-lfs"):
        raise BadFile('is a pointer of Git LFS, not weights; run "git lfs pull" where it lies')
    if head.startswith(b"\n"):  # the tag of a message's first field
        return read_ckpt(path)
    if head.startswith(b"\x80"):
        raise BadFile("is a pickle, but not one of torch.save's; save the state dict by torch.save, or as safetensors")
    raise BadFile("is no safetensors, PyTorch, NumPy (.npz) or MindSpore (.ckpt) file; look at what it is")


def is_openvino(head: bytes) -> bool:
    """Whether a file that begins so is the graph of an OpenVINO model."""
    return head.startswith(b"<?xml") and b"<net " in head


def read_zipped(path: Path) -> WeightFile:
    with zipfile.ZipFile(path) as archive:
        members = {info.orig_filename: info for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise BadFile("is refused: it has a member twice; save it again")
        if any(name.endswith("/data.pkl") for name in members):
            return read_zip(path, members, archive)
        if any(name.endswith(".npy") for name in members):
            return read_npz(path, members, archive)
    raise BadFile("is a zip without weights (*/data.pkl or *.npy); unpack it if they are further inside")


def read_shards(path: Path) -> WeightFile:
    """What an index (model.safetensors.index.json) lists: "weight_map" says in which file beside it each tensor is."""
    weight_map: Any = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadFile('is JSON, but no index of weights (it has no "weight_map"); name the file that holds the weights')
    weights = WeightFile({})
    for name in sorted(set(weight_map.values())):
        if not re.fullmatch(r"[\w.,+-]{1,255}", name, re.ASCII) or name in (".", ".."):
            raise BadFile(f"is refused: its shard {printable(name)} is no plain file name")
        shard = path.with_name(name)
        if not shard.is_file():
            raise BadFile(f"needs {name} beside it, which is missing; download it")
        part = attempt(shard, read_shard)
        if twice := part.arrays.keys() & weights.arrays.keys():
            raise BadFile(f"is damaged: {printable(min(twice))} is in two of its shards; download them again")
        weights.arrays |= part.arrays
        weights.metadata |= part.metadata
    for name, shard in weight_map.items():
        if name not in weights.arrays:
            raise BadFile(f"promises {printable(name)} in {shard}, which lacks it; download both again")
    return weights


def read_shard(path: Path) -> WeightFile:
    with open(path, "rb") as file:
        return read_container(path, file.read(HEAD))
