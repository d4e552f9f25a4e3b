"""ONNX, opset 17: the ViT of vit.py once more, of ONNX's operators, for any batch size.

MindSpore's own ONNX export fixes the batch size and leaves no names. This graph is written out: nodes carry the names
of our cells, and onnxruntime finds the patterns in it that it has fused kernels for. Three things are computed here,
once, that the network computes each time: what is added to the tokens (positions, and class, distillation and register
tokens), q's scale within its weights (or its norm's), and matrices transposed as MatMul takes them.

Input "images" [batch, C, H, W], float32 and normalised; output "logits" [batch, num_classes]. The file's metadata
(metadata_props) hold "config", "labels" (ids and names) and "preprocessing" as JSON.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import ms_vit
from ms_vit import caches
from ms_vit.errors import UsageError
from ms_vit.models.config import BATCH_NORM_EPSILON
from ms_vit.weights.exports.source import Source

OPSET = 17                  # the first with LayerNormalization
MAX_BYTES = 2_000_000_000   # of a protobuf, which an ONNX file is
LOGITS = "logits"           # the entry of metadata that holds a kept file's


class Graph:
    """Nodes and constants in the making. An operator is called by its ONNX name and returns its output's."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray | list[int] | int | float) -> str:
        """A constant's name; lists and whole numbers become int64, fractions float32."""
        if not isinstance(value, np.ndarray):
            value = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        self.constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def add(self, name: str, operator: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """Appends a node; its output has its name unless `outputs` gives others."""
        self.nodes.append(helper.make_node(operator, list(inputs), outputs or [name], name=name, **attributes))
        return name


class Writer:
    """Writes one network's graph, part by part as in vit.py. B images, N tokens of width D, H heads of width d."""

    def __init__(self, source: Source):
        self.graph = Graph()
        self.source = source
        self.config = source.config
        self.arrays = source.arrays
        self.extra = source.config.extra_tokens
        self.patches = source.config.patches

    def dense(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """A linear layer on [B, N, inputs]."""
        x = self.graph.add(f"{name}.matmul", "MatMul", x, self.graph.constant(f"{name}.weight", weight.T))
        return self.graph.add(name, "Add", x, self.graph.constant(f"{name}.bias", bias))

    def layer(self, name: str, x: str) -> str:
        return self.dense(name, x, self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"])

    def own(self, name: str) -> str:
        """A weight as it is."""
        return self.graph.constant(name, self.arrays[name])

    def norm(self, name: str, x: str, scale: float | np.floating = 1.0) -> str:
        """LayerNorm, and its result times `scale`."""
        parts = [self.graph.constant(f"{name}.{part}", self.arrays[f"{name}.{part}"] * np.float32(scale))
                 for part in ("weight", "bias")]
        return self.graph.add(name, "LayerNormalization", x, *parts, axis=-1, epsilon=self.config.epsilon)

    def patch_embed(self) -> str:
        """Images -> [B, N, D]. Sides that are no multiple of the patch are padded at the right and the bottom."""
        add, patch = self.graph.add, self.config.patch_size
        _, height, width = self.source.image_shape
        padding = (-height % patch, -width % patch)
        if self.config.stem:
            x = add("patch_embed.flat", "Reshape", self.stem("images", padding),
                    self.graph.constant("patch_embed.shape", [-1, self.patches, self.config.stem[-1]]))
            return self.layer("patch_embed.proj", x)
        x = self.conv("patch_embed.proj", "images", stride=patch, pads=[0, 0, *padding])
        shape = self.graph.constant("patch_embed.shape", [-1, self.config.dim, self.patches])
        return add("patch_embed", "Transpose", add("patch_embed.flat", "Reshape", x, shape), perm=[0, 2, 1])

    def stem(self, x: str, padding: tuple[int, int]) -> str:
        """[B, C, H, W] -> [B, H / p, W / p, C']."""
        add, (bottom, right) = self.graph.add, padding
        if self.config.stem_form == "pooled":
            return self.pooled_stem(x, [1, 1, 1 + bottom, 1 + right])
        for index in range(len(self.config.stem)):
            name = f"patch_embed.stem.{index}"
            if index:
                x, bottom, right = add(f"{name}.first", "Transpose", x, perm=[0, 3, 1, 2]), 0, 0
            x = self.conv(f"{name}.conv", x, stride=2, pads=[1, 1, 1 + bottom, 1 + right])
            x = self.norm(f"{name}.norm", add(f"{name}.last", "Transpose", x, perm=[0, 2, 3, 1]))
            x = self.gelu(f"{name}.gelu", x)
        return x

    def pooled_stem(self, x: str, pads: list[int]) -> str:
        """As stem; `pads` are those of the first convolution."""
        add = self.graph.add
        for index in range(len(self.config.stem)):
            for part in (1, 2):
                name = f"patch_embed.stem.{index}.norm{part}"
                x = self.conv(f"patch_embed.stem.{index}.conv{part}", x, stride=1, pads=pads)
                if part == 1:
                    x = add(f"patch_embed.stem.{index}.pool", "MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
                moments = [self.own(f"{name}.{each}") for each in ("weight", "bias", "running_mean", "running_var")]
                x = self.gelu(f"{name}.gelu", add(name, "BatchNormalization", x, *moments, epsilon=BATCH_NORM_EPSILON))
                pads = [1, 1, 1, 1]
        return add("patch_embed.last", "Transpose", x, perm=[0, 2, 3, 1])

    def conv(self, name: str, x: str, *, stride: int, pads: list[int]) -> str:
        """Channels first; `pads` are top, left, bottom, right."""
        return self.graph.add(name, "Conv", x, self.own(f"{name}.weight"), self.own(f"{name}.bias"),
                              strides=[stride, stride], pads=pads)

    def tokens(self, x: str) -> str:
        """[B, N, D] -> [B, extra + N, D]: extra tokens in front, positions added."""
        names = [name for name in ("cls_token", "dist_token", "reg_token") if name in self.arrays]
        front = np.concatenate([np.zeros((1, 0, self.config.dim), np.float32), *(self.arrays[n] for n in names)], 1)
        positions = self.arrays.get("pos_embed", np.zeros((1, self.config.positions, self.config.dim), np.float32))
        if self.config.class_position:
            front, positions = front + positions[:, :self.extra], positions[:, self.extra:]
        add, constant = self.graph.add, self.graph.constant
        if self.extra:      # room for the tokens in front, which are part of what is added
            x = add("tokens.room", "Pad", x, constant("tokens.pads", [0, self.extra, 0, 0, 0, 0]))
        return add("tokens", "Add", x, constant("pos_embed", np.concatenate([front, positions], 1)))

    def attention(self, name: str, x: str) -> str:
        add, constant = self.graph.add, self.graph.constant
        heads, head_dim = self.config.num_heads, self.config.head_dim
        inner, count = heads * head_dim, self.extra + self.patches
        weight, bias = self.arrays[f"{name}.qkv.weight"].copy(), self.arrays[f"{name}.qkv.bias"].copy()
        scale = np.float32(head_dim ** -0.5)
        if not self.config.qk_norm:
            weight[:inner] *= scale
            bias[:inner] *= scale
        parts = [f"{name}.{part}" for part in "qkv"]
        add(f"{name}.split", "Split", self.dense(f"{name}.qkv", x, weight, bias),
            constant(f"{name}.sizes", [inner, inner, inner]), outputs=parts, axis=-1)
        shape = constant(f"{name}.heads", [-1, count, heads, head_dim])
        apart = [add(f"{part}.apart", "Reshape", part, shape) for part in parts]
        if self.config.qk_norm:
            apart[:2] = self.norm(f"{name}.q_norm", apart[0], scale), self.norm(f"{name}.k_norm", apart[1])
        q, k, v = (add(f"{part}.heads", "Transpose", each, perm=order)
                   for part, each, order in zip(parts, apart, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True))
        x = add(f"{name}.softmax", "Softmax", add(f"{name}.scores", "MatMul", q, k), axis=-1)      # [B, H, N, N]
        x = add(f"{name}.joined", "Transpose", add(f"{name}.mix", "MatMul", x, v), perm=[0, 2, 1, 3])
        x = add(f"{name}.tokens", "Reshape", x, constant(f"{name}.shape", [-1, count, inner]))
        return self.layer(f"{name}.proj", x)

    def gelu(self, name: str, x: str) -> str:
        """As PlainGelu of kernels/__init__.py; the first in the form that onnxruntime fuses into one kernel."""
        add, constant = self.graph.add, self.graph.constant
        if self.config.gelu == "exact":
            y = add(f"{name}.erf", "Erf", add(f"{name}.scaled", "Div", x, constant("gelu.sqrt2", math.sqrt(2))))
            y = add(f"{name}.gated", "Mul", x, add(f"{name}.gate", "Add", y, constant("gelu.one", 1.0)))
            return add(name, "Mul", y, constant("gelu.half", 0.5))
        cube = add(f"{name}.cube", "Mul", add(f"{name}.square", "Mul", x, x), x)
        y = add(f"{name}.sum", "Add", x, add(f"{name}.cubic", "Mul", cube, constant("gelu.cubic", 0.044715)))
        y = add(f"{name}.scaled", "Mul", y, constant("gelu.scale", 2 * math.sqrt(2 / math.pi)))
        return add(name, "Mul", x, add(f"{name}.gate", "Sigmoid", y))

    def mlp(self, name: str, x: str) -> str:
        x = self.layer(f"{name}.fc2", self.gelu(f"{name}.gelu", self.layer(f"{name}.fc1", x)))
        return self.gelu(f"{name}.last", x) if self.config.gelu_twice else x

    def block(self, name: str, x: str) -> str:
        post_norm = self.config.post_norm
        for number, part, branch in ((1, "attn", self.attention), (2, "mlp", self.mlp)):
            y = branch(f"{name}.{part}", x if post_norm else self.norm(f"{name}.norm{number}", x))
            if self.config.layer_scale:
                y = self.graph.add(f"{name}.ls{number}", "Mul", y, self.own(f"{name}.ls{number}.gamma"))
            x = self.graph.add(f"{name}.plus_{part}", "Add", x, y)
            x = self.norm(f"{name}.norm{number}", x) if post_norm else x
        return x

    def token(self, index: int, x: str) -> str:
        """[B, N, D] -> [B, D]."""
        return self.graph.add(f"token_{index}", "Gather", x, self.graph.constant(f"token_{index}.index", index), axis=1)

    def head(self, name: str, x: str) -> str:
        """A linear layer on [B, inputs]."""
        return self.graph.add(name, "Gemm", x, self.own(f"{name}.weight"), self.own(f"{name}.bias"), transB=1)

    def pool(self, x: str) -> str:
        """[B, extra + N, D] -> what the head sees, [B, D] or [B, N * D]."""
        add, constant = self.graph.add, self.graph.constant
        if self.config.pool == "cls":
            return self.token(0, x)
        if self.extra:
            x = add("patch_tokens", "Slice", x, constant("patch_tokens.start", [self.extra]),
                    constant("patch_tokens.stop", [self.extra + self.patches]), constant("patch_tokens.axis", [1]))
        if self.config.pool == "mean":
            return add("pool", "ReduceMean", x, axes=[1], keepdims=0)
        return add("pool", "Reshape", x, constant("pool.shape", [-1, self.patches * self.config.dim]))

    def vit(self) -> str:
        """The whole network; returns the name of its logits."""
        x = self.tokens(self.patch_embed())
        for index in range(self.config.depth):
            x = self.block(f"blocks.{index}", x)
        after = self.config.fc_norm
        x = x if after or self.config.post_norm else self.norm("norm", x)
        if self.config.distilled:
            one, other = self.head("head", self.token(0, x)), self.head("head_dist", self.token(1, x))
            x = self.graph.add("sum", "Add", one, other)
            return self.graph.add("mean", "Mul", x, self.graph.constant("mean.half", 0.5))
        x = self.pool(x)
        x = self.norm("fc_norm", x) if after else x
        for index in range(len(self.config.head_hidden)):
            x = self.gelu(f"pre_logits.{index}.gelu", self.head(f"pre_logits.{index}.fc", x))
        return self.head("head", x)


def build(source: Source) -> onnx.ModelProto:
    """The network as an ONNX model. Raises UsageError where it is too large for one."""
    size = sum(array.nbytes for array in source.arrays.values())
    if size > MAX_BYTES:
        raise UsageError(f"the network's weights take {size / 1e9:.1f} GB, and an ONNX file holds "
                         f"{MAX_BYTES / 1e9:.0f} GB; safetensors and MindSpore have no bound")
    writer = Writer(source)
    graph = writer.graph
    graph.add("logits", "Identity", writer.vit())
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *source.image_shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", source.config.num_classes])
    opset = helper.make_opsetid("", OPSET)
    # The oldest file version that has this opset: older runtimes read it, too.
    model = helper.make_model(
        helper.make_graph(graph.nodes, "vit", [images], [logits], list(graph.constants.values())),
        opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]),
        producer_name="ms-vit", producer_version=ms_vit.__version__)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in asdict(source.spec).items()})
    return model


def write(source: Source, path: Path) -> None:
    path.write_bytes(build(source).SerializeToString())


def seal(path: Path, key: str, logits: np.ndarray) -> None:
    """Appends to an ONNX file two more entries of metadata: its network's own logits, and its seal; see caches.py.

    logits: [n, num_classes] float32. Protobufs that are joined end to end are read as one, so it is an ONNX file still.
    """
    entries = [onnx.StringStringEntryProto(key=LOGITS, value=json.dumps(logits.tolist())),
               onnx.StringStringEntryProto(key="seal", value="0" * caches.DIGITS)]
    caches.seal(path, key, onnx.ModelProto(metadata_props=entries).SerializeToString()[:-caches.DIGITS])


def sealed_logits(path: Path) -> np.ndarray:
    """The logits that a sealed file has, [n, num_classes] float32."""
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return np.array(json.loads(entries[LOGITS]), np.float32)
