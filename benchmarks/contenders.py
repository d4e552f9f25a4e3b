"""Who is timed. A contender builds its network for a job and hands back a function that takes one step of it.

A training step is the same for all: forward, cross-entropy with label smoothing, backward, clipping by the joint norm,
AdamW. An inference step gives the logits as a NumPy array. Images are noise, labels at random; both are made once.
Libraries are imported where they are used: each contender has a process to itself, and needs only its own.
"""

import importlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import Job

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
CLIP_NORM = 1.0
SGEMM_SIDE = 2048


@dataclass(frozen=True)
class Running:
    """A contender, ready: what a step is, the framework under it, and what a step works through.

    step: returns the loss or the logits, on the host, so that all its work is done by then.
    parameters: of the network; equal for all contenders of a job if they are the same network.
    images, flops: of one step.
    """

    step: Callable[[], Any]
    framework: str
    parameters: int
    images: int
    flops: int


def data(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, 3, S, S] float32 and labels [B] int32."""
    random, shape = np.random.default_rng(0), job.shape
    images = random.standard_normal((job.batch, 3, *shape.height_and_width), np.float32)
    return images, random.integers(shape.num_classes, size=job.batch, dtype=np.int32)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- MindSpore

def on_mindspore(job: Job, net: Any, train_step: Callable[[], Any]) -> Running:
    """`train_step` makes the cell (images, labels) -> loss, or a tuple that begins with it, for training."""
    import mindspore as ms

    training = job.mode == "train"
    arguments = [ms.Tensor(array) for array in data(job)]
    cell, arguments = (train_step(), arguments) if training else (net, arguments[:1])
    cell.set_train(training)
    parameters = sum(parameter.size for parameter in net.trainable_params())

    def step() -> Any:
        result = cell(*arguments)
        return (result[0] if isinstance(result, tuple) else result).asnumpy()

    return Running(step, f"MindSpore {ms.__version__}", parameters, job.batch, job.flops)


def ours(job: Job, *, precision: str = "float32") -> Running:
    """As training/trainer.py and predictor.py put it together."""
    from ms_vit.device import use_device
    from ms_vit.models.kernels.precision import computing_in
    from ms_vit.models.vit import ViT
    from ms_vit.training.losses import CrossEntropy
    from ms_vit.training.optimizers import Adam
    from ms_vit.training.step import TrainStep

    use_device("CPU")
    with computing_in(precision):
        net = ViT(job.shape)

    def train_step():
        optimizer = Adam(net.trainable_params(), np.array([LEARNING_RATE], np.float32), weight_decay=WEIGHT_DECAY)
        return TrainStep(net, CrossEntropy(LABEL_SMOOTHING), optimizer, clip_norm=CLIP_NORM)

    return on_mindspore(job, net, train_step)


def ours_bf16(job: Job) -> Running:
    """With matrix products in bfloat16."""
    return ours(job, precision="bfloat16")


def ours_plain(job: Job) -> Running:
    """Where there is no C++ compiler."""
    os.environ["MS_VIT_KERNELS"] = "plain"
    return ours(job)


def mindcv(job: Job) -> Running:
    """As MindCV's train.py puts it together, whose GELU is the tanh form."""
    import mindspore as ms
    from mindcv.loss import create_loss
    from mindcv.models.vit import VisionTransformer
    from mindcv.optim import create_optimizer
    from mindcv.utils import create_trainer

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU", jit_config={"jit_level": "O2"})
    shape = job.shape
    net = VisionTransformer(image_size=shape.image_size, patch_size=shape.patch_size, embed_dim=shape.dim,
                            depth=shape.depth, num_heads=shape.num_heads, mlp_ratio=shape.mlp_dim / shape.dim,
                            num_classes=shape.num_classes)

    def train_step():
        optimizer = create_optimizer(net, opt="adamw", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY,
                                     weight_decay_filter="norm_and_bias")
        return create_trainer(net, create_loss("CE", label_smoothing=LABEL_SMOOTHING), optimizer, None,
                              amp_level="O0", amp_cast_list=None, loss_scale_type="fixed",
                              clip_grad=True, clip_value=CLIP_NORM).train_network

    return on_mindspore(job, net, train_step)


def sgemm_mindspore(job: Job) -> Running:
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    multiply, a, b = ms.ops.MatMul(), *(ms.Tensor(matrix) for matrix in matrices())
    return Running(lambda: multiply(a, b).asnumpy(), f"MindSpore {ms.__version__}", 0, 0, 2 * SGEMM_SIDE**3)


def matrices() -> np.ndarray:
    """Two squares, float32."""
    return np.random.default_rng(0).standard_normal((2, SGEMM_SIDE, SGEMM_SIDE), np.float32)


# --- ONNX Runtime

def ours_onnx(job: Job) -> Running:
    """Our export, run as `ms-vit export` runs it. Another process writes it, so that this one is without MindSpore."""
    import onnxruntime

    images, _ = data(job)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit.onnx"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            parameters = pool.apply(write_export, ("onnx", job, path))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return Running(lambda: session.run(["logits"], {"images": images})[0], f"onnxruntime {onnxruntime.__version__}",
                   parameters, job.batch, job.flops)


# --- OpenVINO

def ours_openvino(job: Job, *, precision: str = "float32", int8: bool = False) -> Running:
    """Our export, run as `--engine openvino` runs it. int8 is calibrated on noise, which is as fast as any other."""
    import openvino

    from ms_vit.weights.exports import openvino_ir

    images, _ = data(job)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit.xml"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            parameters = pool.apply(write_export, ("openvino", job, path, int8))
        logits = openvino_ir.run(path, precision)
    return Running(lambda: logits(images), f"OpenVINO {openvino.__version__.split('-')[0]}", parameters, job.batch,
                   job.flops)


def ours_openvino_bf16(job: Job) -> Running:
    return ours_openvino(job, precision="bfloat16")


def ours_openvino_int8(job: Job) -> Running:
    """What isn't int8 is float32."""
    return ours_openvino(job, int8=True)


def write_export(format: str, job: Job, path: Path, int8: bool = False) -> int:
    """Returns the network's parameters."""
    from ms_vit.data.labels import Labels
    from ms_vit.data.preprocessing import Preprocessing
    from ms_vit.models.vit import ViT
    from ms_vit.weights.exports import Source, exporter
    from ms_vit.weights.files import ModelSpec

    net = ViT(job.shape)
    names = [str(index) for index in range(job.shape.num_classes)]
    spec = ModelSpec(config=job.shape, labels=Labels(names, names),
                     preprocessing=Preprocessing(image_size=job.shape.image_size))
    exporter(format).write(Source(net, spec), path)
    if int8:
        from ms_vit.weights.exports.openvino_int8 import quantize

        quantize(path, list(data(job)[0][:4, None]))
    return sum(parameter.size for parameter in net.trainable_params())


# --- PyTorch

def timm(job: Job, *, compile: bool = False, bfloat16: bool = False) -> Running:
    """timm's ViT and optimiser groups. AdamW is the fused one, which on a CPU is many times PyTorch's default."""
    import torch

    importlib.import_module("benchmarks.torch_cpu")     # before timm
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import create_optimizer_v2

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    shape = job.shape
    model = VisionTransformer(img_size=shape.image_size, patch_size=shape.patch_size, embed_dim=shape.dim,
                              depth=shape.depth, num_heads=shape.num_heads, mlp_ratio=shape.mlp_dim / shape.dim,
                              num_classes=shape.num_classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    forward = torch.compile(model) if compile else model
    images, labels = (torch.from_numpy(array) for array in data(job))
    labels = labels.long()
    precision = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()

    def infer() -> np.ndarray:
        with torch.inference_mode(), precision:
            return forward(images).float().numpy()

    optimizer = create_optimizer_v2(model, "adamw", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)

    def train() -> float:
        with precision:
            mean = loss(forward(images), labels)
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        return mean.item()

    model.train(job.mode == "train")
    return Running(train if job.mode == "train" else infer, f"PyTorch {torch.__version__}", parameters, job.batch,
                   job.flops)


def timm_compiled(job: Job) -> Running:
    return timm(job, compile=True)


def timm_bf16(job: Job) -> Running:
    return timm(job, bfloat16=True)


def timm_bf16_compiled(job: Job) -> Running:
    return timm(job, compile=True, bfloat16=True)


def sgemm_torch(job: Job) -> Running:
    import torch

    torch.set_num_threads(cores())
    a, b = (torch.from_numpy(matrix) for matrix in matrices())
    return Running(lambda: torch.mm(a, b).numpy(), f"PyTorch {torch.__version__}", 0, 0, 2 * SGEMM_SIDE**3)


CONTENDERS: dict[str, Callable[[Job], Running]] = {
    "sgemm-mindspore": sgemm_mindspore,
    "sgemm-torch": sgemm_torch,
    "ours": ours,
    "ours-bf16": ours_bf16,
    "ours-plain": ours_plain,
    "ours-onnx": ours_onnx,
    "ours-openvino": ours_openvino,
    "ours-openvino-bf16": ours_openvino_bf16,
    "ours-openvino-int8": ours_openvino_int8,
    "timm": timm,
    "timm-compiled": timm_compiled,
    "timm-bf16": timm_bf16,
    "timm-bf16-compiled": timm_bf16_compiled,
    "mindcv": mindcv,
}
INFERENCE_ONLY = {"ours-onnx", "ours-openvino", "ours-openvino-bf16", "ours-openvino-int8"}
