"""The recipe mnist-token by PyTorch's own layers: python -m benchmarks.token_by_torch --help.

A tutorial has one token for a digit, four of PyTorch's encoder layers with their defaults (post-norm, ReLU) and Adam at
a constant rate of 1e-3. Here is what that comes to without our code, and with the GELU of our recipe, so that what
the recipe misses can be told from what nobody reaches this way. Float32; test images are never chosen by.
"""

import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import torch_cpu  # noqa: F401 (before torchvision)
from benchmarks.contenders import cores
from benchmarks.jobs import chosen
from benchmarks.report import RESULTS, machine, markdown, percent, save, spread, text

# isort: split
import torch
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from ms_vit import cli
from ms_vit.errors import DataError
from ms_vit.progress import say

ACTIVATIONS = ("relu", "gelu")
BATCH = 64
HEADER = ["activation", "seeds", "test top-1 of the last epoch, %", "loss in training", "minutes"]


@dataclass(frozen=True)
class Run:
    """train_loss: of each epoch, mean over its images. top1: of the test images after each, from 0 to 1."""

    activation: str
    seed: int
    train_loss: list[float]
    top1: list[float]
    seconds: float


@dataclass
class Finished:
    """Its files are out/name.json and .md; `new` runs were added to those that were there."""

    out: Path
    name: str
    new: int


class TokenNet(nn.Module):
    """Pixels of a digit [B, 784] -> logits [B, 10], through one token."""

    def __init__(self, activation: str):
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, nhead=8, dim_feedforward=2048, dropout=0.1, activation=activation,
                                           batch_first=True)
        self.embed, self.encoder, self.head = nn.Linear(784, 256), nn.TransformerEncoder(layer, 4), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)[:, None]).mean(1))


def token_by_torch(activations: str = ",".join(ACTIVATIONS), seeds: int = 3, epochs: int = 10,
                   root: Path = Path("data"), out: Path = RESULTS, name: str = "mnist-token-by-torch") -> Finished:
    """Train the network of mnist-token in PyTorch, several seeds each; print means and standard deviations.

    Args:
        activations: which, by commas - relu, PyTorch's default, and gelu, as our recipe has it.
        seeds: how many, from 0 on.
        epochs: of training.
        root: the folder of the download mnist.
        out: folder of the results.
        name: of the results' files; runs that are there already are not done again.
    """
    cli.at_least_one(seeds=seeds, epochs=epochs)
    kinds, here = chosen(activations, ACTIVATIONS, "activation"), machine()
    file = out / f"{name}.json"
    runs = read(file, epochs)
    missing = [(seed, kind) for seed, kind in itertools.product(range(seeds), kinds)
               if (seed, kind) not in {(run.seed, run.activation) for run in runs}]
    if missing:
        torch.set_num_threads(cores())
        train_set, test_set = digits(root / "mnist" / "train"), digits(root / "mnist" / "val")
    for seed, kind in missing:
        runs.append(run := train(kind, seed, epochs, train_set, test_set))
        say(f"{kind}, seed {seed}: test top-1 {percent([run.top1[-1]])} %, {run.seconds:.0f} s")
        save(out, name, {"command": f"python -m benchmarks.token_by_torch --activations {activations} --seeds {seeds} "
                                    f"--epochs {epochs}",
                         "machine": here | {"torch": torch.__version__}, "runs": [asdict(run) for run in runs]},
             f"{len(train_set[1]):,} images to train on, {epochs} epochs, float32, PyTorch {torch.__version__}.\n\n"
             + markdown(table(runs)))
    print(text(table(runs)))
    return Finished(out, name, len(missing))


def read(file: Path, epochs: int) -> list[Run]:
    """The runs that are recorded there. Raises DataError where they are none, or of another number of epochs."""
    try:
        runs = [Run(**run) for run in json.loads(file.read_text())["runs"]] if file.is_file() else []
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file} holds no runs ({error}); remove it, or give another --name") from error
    if others := {len(run.top1) for run in runs} - {epochs}:
        raise DataError(f"{file} has runs of {others.pop()} epochs, not {epochs}; give another --name")
    return runs


def digits(folder: Path) -> tuple[Tensor, Tensor]:
    """Pixels [N, 784] from -1 to 1, and labels [N]. Raises DataError where there are none."""
    try:
        images = ImageFolder(str(folder), lambda image: pil_to_tensor(image.convert("L")).flatten())
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no digits; ms-vit download mnist, or give --root") from error
    pixels, labels = zip(*images, strict=True)
    return torch.stack(pixels) / 127.5 - 1, torch.tensor(labels)


def train(activation: str, seed: int, epochs: int, train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]
          ) -> Run:
    began = time.perf_counter()
    torch.manual_seed(seed)
    net, (images, labels) = TokenNet(activation), train_set
    adam, run = torch.optim.Adam(net.parameters(), 1e-3), Run(activation, seed, [], [], 0.0)
    for _ in range(epochs):
        total = 0.0
        net.train()
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(batch)
        run.train_loss.append(total / len(images))
        run.top1.append(accuracy(net, *test_set))
    return Run(**asdict(run) | {"seconds": round(time.perf_counter() - began, 1)})


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    hits = [net(part).argmax(-1) == wanted for part, wanted in zip(images.split(1000), labels.split(1000), strict=True)]
    return torch.cat(hits).double().mean().item()


def table(runs: list[Run]) -> list[list[str]]:
    kinds = [[run for run in runs if run.activation == kind] for kind in ACTIVATIONS]
    return [HEADER, *([found[0].activation, str(len(found)), percent([run.top1[-1] for run in found]),
                       spread([run.train_loss[-1] for run in found], 3),
                       spread([run.seconds / 60 for run in found], 1)] for found in kinds if found)]


def main(argv: list[str] | None = None) -> int:
    return cli.run(token_by_torch, argv, prog="python -m benchmarks.token_by_torch")


if __name__ == "__main__":
    sys.exit(main())
