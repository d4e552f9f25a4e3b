"""Weights of any format into a network, whatever its image size, patch size and classes."""

import inspect
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
from ms_vit.models.config import check_config, model_config, weights_of
from ms_vit.models.kernels import Gelu, LayerNorm
from ms_vit.models.vit import FeedForward, ViT
from ms_vit.weights.containers import read_weights
from ms_vit.weights.containers.weight_file import printable
from ms_vit.weights.files import METADATA_KEY, ModelSpec, misfits, refuse_misfits, spec_of
from ms_vit.weights.formats import Pretrained, recognise
from ms_vit.weights.resampling import resample_patch_kernel, resample_positions

# Of ViT's arguments those that come from the weights, whatever the model's name says.
FILE_DECIDES = ("channels", "class_token", "distilled", "registers", "class_position", "layer_scale", "norm_after_pool",
                "pool", "epsilon", "gelu", "head_dim")


@dataclass(kw_only=True)
class Loaded:
    """What became of a weight file: parameters set from it, resampled for other sizes, started anew, and not used.

    carried: classes of a new head whose rows come from the file's head.
    """

    format: str
    loaded: list[str]
    resized: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors of {self.format} weights"]
        parts += [f"resampled {', '.join(self.resized)}"] if self.resized else []
        if self.replaced:
            known = f", {len(self.carried)} of its classes known to the weights" if self.carried else ""
            parts.append(f"a new head{known}")
        for what, names in (("left at the start", self.missing), ("not used", self.left_over)):
            parts += [f"{what}: {', '.join(names)}"] if names else []
        return "; ".join(parts)


def load_weights(net: ViT, path: str | Path, *, labels: Labels | None = None, partial: bool = False) -> Loaded:
    """Sets a network's weights from a file of any format; see formats.py. Returns what was loaded, resized, replaced.

    labels: the classes of the network's head. Where they aren't the file's, the head is new: rows of classes that the
        file knows, by id or name, carry over, the others start from zero.
    partial: takes what fits, and reports the rest instead of refusing it.

    Another image size resamples the position embedding, another patch size the patch kernel. The network gets the
    format's LayerNorm epsilon and GELU; so call this before it first runs.
    """
    path = Path(path)
    pretrained = read_pretrained(path)
    return fit(net, pretrained, path, config=pretrained.config, labels=labels, partial=partial)


def read_pretrained(path: Path) -> Pretrained:
    """The weights of a file of any format, ours included, under timm's names.

    Raises DataError where the file is damaged, holds no ViT, or describes one that can't be.
    """
    file = read_weights(path)
    if METADATA_KEY in file.metadata:
        spec = spec_of(file.metadata, path)
        preprocessing = {key: getattr(spec.preprocessing, key) for key in ("transforms", "crop_pct", "mean", "std")}
        pretrained = Pretrained(format="ms-vit", arrays=file.arrays, config=spec.config, preprocessing=preprocessing,
                          labels=spec.labels)
    else:
        pretrained = recognise(file, path)
    try:
        check(pretrained)
    except (TypeError, ValueError, UsageError) as error:
        raise DataError(f"{path} describes a network that can't be: {error}; download it again") from error
    return pretrained


def check(pretrained: Pretrained) -> None:
    """Raises TypeError, ValueError or UsageError where what a file says of its network contradicts itself, or ViT."""
    config, labels = pretrained.config, pretrained.labels
    if pretrained.format == "ms-vit":
        inspect.signature(ViT).bind(**config)
    check_config(config)
    if labels and (len(labels.ids), len(labels.names)) != (config["num_classes"],) * 2:
        raise ValueError(f"{len(labels.ids)} ids and {len(labels.names)} names of {config['num_classes']} classes")
    held, described = sum(array.size for array in pretrained.arrays.values()), weights_of(config)
    if described > limits.MAX_LACKING * held:      # what a file lacks else is told by name, once the network is there
        raise ValueError(f"of the {described:,} weights by its depth, dim, mlp_dim and image_size it has {held:,}")
    for name, array in pretrained.arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{printable(name)} has values that are no numbers (NaN or infinite)")
    Preprocessing(image_size=config["image_size"], **pretrained.preprocessing).check()


def fit(net: ViT, pretrained: Pretrained, path: Path, *, config: dict[str, Any], labels: Labels | None = None,
        partial: bool = False) -> Loaded:
    """Sets `net` from converted weights, with the epsilon and GELU of `config`; see load_weights."""
    wanted = {parameter.name: parameter for parameter in net.get_parameters()}
    arrays, report = dict(pretrained.arrays), Loaded(format=pretrained.format, loaded=[])
    if pretrained.config.get("class_position", True) == net.class_position:
        resize(arrays, wanted, net, report)
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
    for cell in (cell for _, cell in net.cells_and_names()):
        if isinstance(cell, LayerNorm):
            cell.set_epsilon(config.get("epsilon", 1e-6))
        elif isinstance(cell, FeedForward):
            cell.gelu = Gelu(config.get("gelu", "exact"))
    return report


def resize(arrays: dict[str, np.ndarray], wanted: dict[str, Parameter], net: ViT, report: Loaded) -> None:
    """Resamples positions and patch kernel where the network's image or patch size is another."""
    kernel, positions = arrays.get("patch_embed.proj.weight"), arrays.get("pos_embed")
    shape = tuple(wanted["patch_embed.proj.weight"].shape)
    if kernel is not None and kernel.shape[:2] == shape[:2] and \
            kernel.shape[2:] == kernel.shape[-1:] * 2 != shape[2:] and \
            0 < kernel.shape[-1] <= limits.NETWORK["patch_size"][1]:
        arrays["patch_embed.proj.weight"] = resample_patch_kernel(kernel, shape[-1])
        report.resized.append(f"patches {kernel.shape[-1]} -> {shape[-1]}")
    extra = net.extra_tokens if net.class_position else 0
    if positions is not None and positions.shape[::2] == tuple(net.pos_embed.shape)[::2]:
        side = round((positions.shape[1] - extra) ** 0.5)
        if side * side == positions.shape[1] - extra and (side, side) != net.patch_embed.grid:
            arrays["pos_embed"] = resample_positions(positions, net.patch_embed.grid, extra=extra)
            height, width = net.patch_embed.grid
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
    """What a weight file holds, and what it makes: the network's arguments, its labels, its preprocessing.

    A file of ours says all by itself; for another library's, `model` names the network.
    """
    pretrained = read_pretrained(path)
    if pretrained.format != "ms-vit":
        if model is None:
            raise UsageError(f"{path} holds {pretrained.format} weights; say by --model which ViT it is, "
                             "for instance vit_base_patch16_224")
        if "num_classes" not in pretrained.config:
            raise DataError(f"{path} has no head to predict with; train one first, with --model.weights {path}")
    labels = pretrained.labels or numbered(pretrained.config["num_classes"])
    config = merged_config(pretrained, model, path)
    return pretrained, ModelSpec(config=config, labels=labels,
                              preprocessing=Preprocessing(image_size=config["image_size"], **pretrained.preprocessing))


def network(pretrained: Pretrained, spec: ModelSpec, path: Path) -> ViT:
    """The network that `read_model` describes, ready to predict."""
    try:
        net = ViT(**spec.config)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} describes a network that this version doesn't know: {error}") from error
    loaded = fit(net, pretrained, path, config=spec.config)
    refuse_misfits(path, loaded.replaced, [], [])     # a new head predicts nothing
    net.set_train(False)
    return net


def merged_config(pretrained: Pretrained, name: str | None, path: Path, **changes: Any) -> dict[str, Any]:
    """ViT's arguments: the file's, for the named model's image and patch size, with the user's `changes`."""
    if name is None:
        return pretrained.config
    named = model_config(name, **changes)
    other = [f"{key} {pretrained.config[key]}, not {named[key]}" for key in ("dim", "depth", "mlp_dim", "num_heads")
             if key in pretrained.config and key not in changes and pretrained.config[key] != named[key]]
    if other:
        raise DataError(f"{path} is no {name}: it has {', '.join(other)}")
    told = pretrained.config
    kept = {key: told[key] for key in FILE_DECIDES if key in told and changes.get(key) is None}
    classes = {"num_classes": pretrained.config.get("num_classes", named["num_classes"])}
    return named | kept | (classes if changes.get("num_classes") is None else {})


def numbered(count: int) -> Labels:
    """Labels of a head whose classes nobody named."""
    ids = [str(index) for index in range(count)]
    return Labels(ids, ids)
