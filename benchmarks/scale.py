"""How far training scales, on paper: python -m benchmarks.scale --help. Makes the tables of docs/scale.md.

A step takes as long as what is computed and what is exchanged after it, or as the reading of its images, if that
is longer. What is computed goes by a measured rate; the rest by a machine's figures, which are the reader's to change.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.jobs import vit
from benchmarks.processes import NETWORKS, Row, exchanged
from benchmarks.report import RESULTS, filled, markdown
from ms_vit import cli
from ms_vit.models.config import ViTConfig
from ms_vit.models.costs import forward_flops
from ms_vit.progress import say
from ms_vit.writing import write_whole

PROCESSES = RESULTS / "processes-2026-11-28.json"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
GIGA = 1e9


@dataclass(frozen=True)
class Network:
    """A ViT that is trained; `parameters` are its number."""

    title: str
    shape: ViTConfig
    parameters: int

    @property
    def flops(self) -> int:
        """Of one image in training: three forward passes."""
        return 3 * forward_flops(self.shape)


@dataclass(frozen=True)
class Machine:
    """Nodes of `cards` cards. Rates are per second.

    flops: that a card reaches in training. link, wire: bytes that a card sends to the next in a node, and a node to the
    next. latency: seconds of one hop. decoded: images that a node's cores decode and augment. read: bytes that a node
    reads. written: bytes that a checkpoint is written with.
    """

    cards: int = 8
    flops: float = 0.0
    link: float = 30 * GIGA
    wire: float = 12.5 * GIGA
    latency: float = 20e-6
    decoded: float = 96 * 800
    read: float = 2 * GIGA
    written: float = 1 * GIGA


@dataclass(frozen=True)
class Step:
    """Seconds of one step of all devices, by what they are spent on."""

    devices: int
    images: int
    computed: float
    exchanged: float
    decoded: float
    read: float

    @property
    def seconds(self) -> float:
        return max(self.computed + self.exchanged, self.decoded, self.read)

    @property
    def rate(self) -> float:
        return self.images / self.seconds

    @property
    def efficiency(self) -> float:
        """Of what as many devices would do, each on its own and with images at hand."""
        return self.computed / self.seconds

    @property
    def bound(self) -> str:
        parts = {"compute": self.computed, "exchange": self.exchanged}
        if self.seconds > self.computed + self.exchanged:
            parts = {"decoding": self.decoded, "reading": self.read}
        return max(parts, key=lambda part: parts[part])


def all_reduce(size: float, devices: int, machine: Machine, arrays: int = 1) -> float:
    """Seconds of the sum of `size` bytes over all devices by two rings, within each node and between nodes.

    arrays: how many they are exchanged as: on the CPU each gradient by itself, else one of all, by MindSpore's pass.

    Within: reduce-scatter and all-gather among k cards, 2 (k - 1) hops of size / k. Between: the same among n nodes, of
    which each sends all that its cards hold, once, over its wire (Patarasuk & Yuan 2009).
    """
    cards = min(devices, machine.cards)
    nodes = -(-devices // machine.cards)
    within = 2 * (cards - 1) * (size / cards / machine.link + arrays * machine.latency)
    between_nodes = 2 * (nodes - 1) * (size / nodes / machine.wire + arrays * machine.latency)
    return within + between_nodes


def step(network: Network, devices: int, machine: Machine, *, batch: int, image_bytes: int) -> Step:
    """A step of `batch` images a device, whose files have `image_bytes`; gradients are float32."""
    images, nodes = batch * devices, -(-devices // machine.cards)
    return Step(devices, images, batch * network.flops / machine.flops,
                all_reduce(4 * network.parameters, devices, machine), images / nodes / machine.decoded,
                images / nodes * image_bytes / machine.read)


B16 = Network("ViT-B/16", vit(768, 12, image_size=224, patch_size=16, num_classes=1000), 86_567_656)
B32 = Network("ViT-B/32", vit(768, 12, image_size=224, patch_size=32, num_classes=1000), 88_224_232)
L32 = Network("ViT-L/32", vit(1024, 24, image_size=224, patch_size=32, num_classes=1000), 306_535_400)
PUBLISHED = [("MindFormers, Atlas 800, one card of eight", B16, 1, 262.0),
             ("MindSpore's models, 8 Ascend 910", B32, 8, 8930.0),
             ("MindCV, 8 Ascend 910", L32, 8, 4815.0)]
# What MindFormers' ViT-B/16 comes to is what a card is taken to reach.
ATLAS = replace(Machine(), flops=262.0 * B16.flops)
# Images, bytes of one, and epochs of the usual recipe.
DATA = {"ImageNet-1k": (1_281_167, 110_000, 300), "ImageNet-21k": (14_197_122, 90_000, 90),
        "a billion images": (1_000_000_000, 60_000, 1)}
COUNTS = (1, 8, 64, 256, 1024)


def against_published() -> list[list[str]]:
    rows = [["published", "network", "devices", "images/s", "here", "TFLOP/s a device"]]
    for title, network, devices, rate in PUBLISHED:
        ours = step(network, devices, ATLAS, batch=128, image_bytes=0).rate
        rows.append([title, network.title, str(devices), f"{rate:,.0f}", f"{ours:,.0f} ({ours / rate - 1:+.0%})",
                     f"{rate / devices * network.flops / 1e12:.0f}"])
    return rows


def against_two_processes() -> list[list[str]]:
    """Two processes that were measured, and the link and latency by which the model comes closest to all of them."""
    measured = [Row(**row) for row in json.loads(PROCESSES.read_text())["rows"]]
    networks = [(row.network, row.parameters, 12 * NETWORKS[row.network]["depth"] + 8,
                 exchanged(measured, row.network, 2)) for row in measured if row.way == "several"]
    (bytes_took, array_took), *_ = np.linalg.lstsq(
        [[4 * parameters, 2 * arrays] for _, parameters, arrays, _ in networks],
        [seconds for *_, seconds in networks], rcond=None)
    here = Machine(cards=2, link=1 / bytes_took, latency=array_took)
    rows = [["network", "gradients, MB", "arrays", "exchange measured, ms", "here",
             f"by {here.link / 1e6:.0f} MB/s and {1000 * here.latency:.2f} ms a hop"]]
    for network, parameters, arrays, seconds in networks:
        taken = all_reduce(4 * parameters, 2, here, arrays)
        rows.append([network, f"{4 * parameters / 1e6:.1f}", str(arrays), f"{1000 * seconds:.0f}",
                     f"{1000 * taken:.0f}", f"{taken / seconds - 1:+.0%}"])
    return rows


def scaling(network: Network = B16, machine: Machine = ATLAS) -> list[list[str]]:
    rows = [["data", "devices", "images/s", "efficiency", "bound by", "hours of the recipe", "exchange, ms of a step"]]
    for data, (images, size, epochs) in DATA.items():
        for devices in COUNTS:
            taken = step(network, devices, machine, batch=128, image_bytes=size)
            rows.append([f"{data}, {epochs} epoch{'s' * (epochs > 1)}" if devices == COUNTS[0] else "", f"{devices:,}",
                         f"{taken.rate:,.0f}", f"{taken.efficiency:.0%}", taken.bound,
                         f"{images * epochs / taken.rate / 3600:,.1f}",
                         f"{1000 * taken.exchanged:.1f} of {1000 * taken.seconds:.0f}"])
    return rows


def checkpoints(machine: Machine = ATLAS) -> list[list[str]]:
    """Weights and Adam's two moments, and an average of the weights."""
    rows = [["network", "a checkpoint", "written in", "every 10 minutes that is"]]
    for network in (B16, L32):
        size = 4 * 4 * network.parameters
        seconds = size / machine.written
        rows.append([network.title, f"{size / GIGA:.1f} GB", f"{seconds:.1f} s", f"{seconds / 600:.2%}"])
    return rows


TABLES = {"published": against_published, "processes": against_two_processes, "scaling": scaling,
          "checkpoints": checkpoints}


@dataclass
class Written:
    """The page whose tables were made."""

    page: Path


def scale(page: Path = PAGE) -> Written:
    """Make the tables of docs/scale.md from the model and its figures.

    Args:
        page: file whose tables stand between comments that name them.
    """
    for name, table in TABLES.items():
        write_whole(page, filled([page], name, markdown(table()))[page])
    say(f"{page}: {len(TABLES)} tables")
    return Written(page)


if __name__ == "__main__":
    sys.exit(cli.run(scale, prog="python -m benchmarks.scale"))
