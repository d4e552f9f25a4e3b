"""Weights of any format into a network, whatever its image size, patch size and classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter

from ms_vit import limits
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.errors import DataError, UsageError
from ms_vit.models.config import HEAD_DIM, SHARES, ViTConfig, configure, named
from ms_vit.models.vit import ViT
from ms_vit.progress import say
from ms_vit.weights.containers import read_weights
from ms_vit.weights.containers.weight_file import printable
from ms_vit.weights.files import METADATA_KEY, ModelSpec, misfits, refuse_misfits, spec_of
from ms_vit.weights.formats import Pretrained, recognise
from ms_vit.weights.resampling import resample_patch_kernel, resample_positions

# What weights are trained for, whatever the model's name says: with another GELU, say, they compute something else.
FILE_DECIDES = ("class_token", "distilled", "registers", "class_position", "pos_embed", "post_norm",
                "qk_norm", "layer_scale", "fc_norm", "pool", "epsilon", "gelu", "gelu_twice", "head_dim", "head_hidden")
# The kernels that see an image.
FIRST = ("patch_embed.proj.weight", "patch_embed.stem.0.conv.weight", "patch_embed.stem.0.conv1.weight")


@dataclass(kw_only=True)
class Loaded:
    """What became of a weight file: parameters set from it, resampled for other sizes, started anew, and not used.

    carried: classes of a new head whose rows come from the file's head. contradictions: in what else the network is
    another than the weights were trained for, e.g. "gelu tanh, not exact".
    """

    format: str
    loaded: list[str]
    resized: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = [f"{len(self.loaded)} tensors of {self.format} weights"]
        told += [f"resampled {', '.join(self.resized)}"] if self.resized else []
        if self.replaced:
            known = f", {len(self.carried)} of its classes known to the weights" if self.carried else ""
            told.append(f"a new head{known}")
        for what, names in (("left at the start", self.missing), ("not used", self.left_over),
                            ("trained with", self.contradictions)):
            told += [f"{what}: {', '.join(names)}"] if names else []
        return "; ".join(told)


def load_weights(net: ViT, path: str | Path, *, labels: Labels | None = None, partial: bool = False) -> Loaded:
    """Sets a network's weights from a file of any format; see formats/. Returns what was loaded, resized, replaced.

    Another image size resamples the position embedding, another patch size the patch kernel. Raises DataError where the
    weights don't fit, or were trained for a network that is another in what shapes don't show, such as its GELU.

    Args:
        net: the network.
        path: the file, or a folder of Hugging Face's or timm's layout.
        labels: the classes of the network's head. Where they aren't the file's, the head is new: rows of classes that
            the file knows, by id or name, carry over, the others start from zero.
        partial: takes what fits, and reports the rest instead of refusing it.
    """
    path = Path(path)
    pretrained = read_pretrained(path)
    contradictions = [f"{key} {pretrained.config[key]}, not {getattr(net.config, key)}"
                      for key in (*FILE_DECIDES, "num_heads") if pretrained.config.get(key) is not None
                      and pretrained.config[key] != getattr(net.config, key)]
    if contradictions and not partial:
        raise DataError(f"{path} is of another network: it was trained with {'; '.join(contradictions)}. Give that to "
                        "create_model, or take what fits by partial=True")
    report = fit(net, pretrained, path, labels=labels, partial=partial)
    report.contradictions = contradictions
    return report


def read_pretrained(path: Path) -> Pretrained:
    """The weights of a file of any format, ours included, under timm's names.

    Raises DataError where the file is damaged, holds no ViT, or describes one that can't be.
    """
    file = read_weights(path)
    if METADATA_KEY in file.metadata:
        spec = spec_of(file.metadata, path)
        preprocessing = {key: getattr(spec.preprocessing, key) for key in ("transforms", "crop_pct", "mean", "std")}
        pretrained = Pretrained(format="ms-vit", arrays=file.arrays, config=spec.config.as_dict(),
                                preprocessing=preprocessing, labels=spec.labels)
    else:
        pretrained = recognise(file, path)
    try:
        check(pretrained)
    except (TypeError, ValueError, UsageError) as error:
        raise DataError(f"{path} describes a network that can't be: {error}; download it again") from error
    return pretrained


def check(pretrained: Pretrained) -> None:
    """Raises TypeError, ValueError or UsageError where what a file says of its network contradicts itself, or ViT."""
    config = ViTConfig(**{"num_heads": 1, "num_classes": 1} | pretrained.config)
    labels = pretrained.labels
    if labels and (len(labels.ids), len(labels.names)) != (config.num_classes,) * 2:
        raise ValueError(f"{len(labels.ids)} ids and {len(labels.names)} names of {config.num_classes} classes")
    held = sum(array.size for array in pretrained.arrays.values())
    if config.weights > limits.MAX_LACKING * held:      # what it lacks else is told by name, once there is a network
        raise ValueError(f"of the {config.weights:,} weights by its depth, dim, mlp_dim and image_size it has {held:,}")
    for name, array in pretrained.arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{printable(name)} has values that are no numbers (NaN or infinite)")
    prepared = Preprocessing(image_size=config.image_size, **pretrained.preprocessing).for_channels(config.channels)
    prepared.check()
    if config.channels == 3 != len(prepared.mean):
        raise ValueError(f"a mean of {len(prepared.mean)} channels for images of three")


def fit(net: ViT, pretrained: Pretrained, path: Path, *, labels: Labels | None = None,
        partial: bool = False) -> Loaded:
    """Sets `net`, which is built for them, from converted weights; see load_weights."""
    wanted = {parameter.name: parameter for parameter in net.get_parameters()}
    arrays, report = dict(pretrained.arrays), Loaded(format=pretrained.format, loaded=[])
    if pretrained.config.get("class_position", True) == net.config.class_position:
        resize(arrays, wanted, net, report)
    if tuple(pretrained.config.get("head_hidden", ())) != net.config.head_hidden:
        deeper_head(arrays, wanted, report)
    else:
        new_head(arrays, wanted, pretrained.labels, labels, report)
    missing, left_over, shapes = misfits(wanted, arrays)
    if not partial:
        refuse_misfits(path, missing, left_over, shapes)
    report.missing, report.left_over = missing, left_over + [text.split(" ")[0] for text in shapes]
    for name, parameter in wanted.items():
        if name in arrays and name not in report.left_over:
            parameter.set_data(ms.Tensor(np.ascontiguousarray(arrays[name]), parameter.dtype))
            if name not in report.replaced:
                report.loaded.append(name)
    return report


def resize(arrays: dict[str, np.ndarray], wanted: dict[str, Parameter], net: ViT, report: Loaded) -> None:
    """Resamples positions and patch kernel where the network's image or patch size is another, or its images are grey.

    Of kernels that see red, green and blue the sum sees grey, as in timm.
    """
    for name in FIRST:
        if name in wanted and name in arrays and arrays[name].ndim == 4 and wanted[name].shape[1] == 1 and \
                arrays[name].shape[1] == 3:
            arrays[name] = arrays[name].sum(1, keepdims=True)
            report.resized.append("channels 3 -> 1")
    kernel, positions, config = arrays.get("patch_embed.proj.weight"), arrays.get("pos_embed"), net.config
    shape = tuple(wanted["patch_embed.proj.weight"].shape)
    if kernel is not None and kernel.shape[:2] == shape[:2] and \
            kernel.shape[2:] == kernel.shape[-1:] * 2 != shape[2:] and \
            0 < kernel.shape[-1] <= limits.NETWORK["patch_size"][1]:
        arrays["patch_embed.proj.weight"] = resample_patch_kernel(kernel, shape[-1])
        report.resized.append(f"patches {kernel.shape[-1]} -> {shape[-1]}")
    extra = config.extra_tokens if config.class_position else 0
    if positions is not None and config.pos_embed == "sincos":      # fixed: no matter of weights
        arrays["pos_embed"] = wanted["pos_embed"].asnumpy()
    elif positions is not None and positions.shape[::2] == (1, config.dim):
        side = round((positions.shape[1] - extra) ** 0.5)
        if side * side == positions.shape[1] - extra and (side, side) != config.grid:
            arrays["pos_embed"] = resample_positions(positions, config.grid, extra=extra)
            height, width = config.grid
            report.resized.append(f"positions {side}x{side} -> {height}x{width}")


def new_head(arrays: dict[str, np.ndarray], wanted: dict[str, Parameter], old: Labels | None, new: Labels | None,
             report: Loaded) -> None:
    """Replaces the file's head where the network's has other classes; rows of classes known by both carry over."""
    for head in ("head", "head_dist"):
        if f"{head}.weight" not in wanted:
            continue
        shape = tuple(wanted[f"{head}.weight"].shape)
        weight, bias = arrays.get(f"{head}.weight"), arrays.get(f"{head}.bias")
        fits = weight is not None and weight.shape == shape
        whole = weight is None or bias is None or bias.shape == weight.shape[:1]
        if fits and (old is None or new is None or old.ids == new.ids):
            continue
        if weight is not None and (weight.shape[1:] != shape[1:] or not whole):
            continue            # another width is no other head, but another model
        rows = {} if old is None or new is None or weight is None else known_rows(old, new)
        arrays[f"{head}.weight"], arrays[f"{head}.bias"] = np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
        for target, source in rows.items():
            arrays[f"{head}.weight"][target] = weight[source]       # type: ignore[index]
            arrays[f"{head}.bias"][target] = bias[source] if bias is not None else 0
        report.replaced += [f"{head}.weight", f"{head}.bias"]
        report.carried = [new.ids[target] for target in rows] if new else []


def deeper_head(arrays: dict[str, np.ndarray], wanted: dict[str, Parameter], report: Loaded) -> None:
    """Leaves a head of other hidden layers than the file's as it is, new."""
    for name in [name for name in arrays if name.startswith(("pre_logits.", "head."))]:
        del arrays[name]
    report.replaced = [name for name in wanted if name.startswith(("pre_logits.", "head."))]
    arrays.update((name, wanted[name].asnumpy()) for name in report.replaced)


def known_rows(old: Labels, new: Labels) -> dict[int, int]:
    """Class index in `new` -> in `old`, for the classes that both know by id or name."""
    index = old.index
    pairs = enumerate(zip(new.ids, new.names, strict=True))
    found = {target: index.get(id, index.get(name)) for target, (id, name) in pairs}
    return {target: source for target, source in found.items() if source is not None}


def load_model(path: Path, model: str | None = None) -> tuple[ViT, ModelSpec]:
    """The network of a weight file, ready to predict, and what goes with it; see read_model."""
    pretrained, spec = read_model(path, model)
    return network(pretrained, spec, path), spec


def read_model(path: Path, model: str | None = None) -> tuple[Pretrained, ModelSpec]:
    """What a weight file holds, and what it makes: the network's config, its labels, its preprocessing.

    `model` names the network, where it is for another image or patch size, or the file doesn't tell enough.
    """
    pretrained = read_pretrained(path)
    if "num_classes" not in pretrained.config:
        raise DataError(f"{path} has no head to predict with; train one first, with --model.weights {path}")
    labels = pretrained.labels or numbered(pretrained.config["num_classes"])
    config = merged_config(pretrained, path, None if pretrained.format == "ms-vit" else model)
    prepared = Preprocessing(image_size=config.image_size, **pretrained.preprocessing)
    return pretrained, ModelSpec(config=config, labels=labels, preprocessing=prepared.for_channels(config.channels))


def network(pretrained: Pretrained, spec: ModelSpec, path: Path) -> ViT:
    """The network that `read_model` describes, ready to predict."""
    net = ViT(spec.config)
    refuse_misfits(path, fit(net, pretrained, path).replaced, [], [])      # a new head predicts nothing
    net.set_train(False)
    return net


def merged_config(pretrained: Pretrained, path: Path, name: str | None = None, **changes: Any) -> ViTConfig:
    """A network for weights: what the file tells, for a named model's image and patch size, with the user's `changes`.

    Raises DataError where the file is no such model, UsageError where it doesn't tell enough and nobody else does.
    """
    told = pretrained.config
    if name is None:
        values = {key: value for key, value in told.items() if key not in SHARES}
    else:
        values = named(name)
        other = [f"{key} {told[key]}, not {values[key]}" for key in ("dim", "depth", "mlp_dim", "num_heads")
                 if key in told and changes.get(key) is None and told[key] != values[key]]
        if other:
            raise DataError(f"{path} is no {name}: it has {', '.join(other)}")
        values |= {key: told[key] for key in (*FILE_DECIDES, "channels", "num_classes") if key in told}
    if "num_heads" not in values and changes.get("num_heads") is None:
        if told["dim"] % HEAD_DIM:
            raise UsageError(f"{path} doesn't tell its attention heads, and its width of {told['dim']} is none of "
                             f"heads of {HEAD_DIM}; say by --model which ViT it is, for instance vit_base_patch16_224")
        values["num_heads"] = told["dim"] // HEAD_DIM
        say(f"{path} doesn't tell its attention heads; {values['num_heads']} of {HEAD_DIM} are assumed, the width that "
            "they have in all published ViTs")
    return configure(values, **changes)


def numbered(count: int) -> Labels:
    """Labels of a head whose classes nobody named."""
    ids = [str(index) for index in range(count)]
    return Labels(ids, ids)
