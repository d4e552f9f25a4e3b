"""What matters on a card that is at hand: python -m pytest -m device [--device Ascend:3] [--report FILE].

Under ten minutes. Verbs are run as they are typed, each in a process of its own, and what they come to is compared with
the CPU's. `--device CPU` tries these tests themselves.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from ms_vit.device import CARDS, cards

pytestmark = [pytest.mark.device, pytest.mark.timeout(600)]
LOGITS = Path(__file__).with_name("logits.py")
# Of the largest logit. A 910 computes float32 in float16, a 910B in HF32, a GPU from Ampere on in TF32.
CLOSE = {"float32": 0.01, "float16": 0.02, "bfloat16": 0.06}


@pytest.fixture(scope="module")
def device(request) -> str:
    asked = request.config.getoption("--device")
    found = next((kind for kind in CARDS if cards(kind)), None)
    if not asked and not found:
        pytest.skip("no driver of an Ascend or a GPU is on this machine")
    return asked or found


@pytest.fixture(scope="module")
def tell(request, device) -> Iterator[Callable[[str, object], None]]:
    """tell("images/s", 262): a line of the report."""
    lines: list[tuple[str, object]] = []
    yield lambda what, came_to: lines.append((what, came_to))
    if file := request.config.getoption("--report"):
        rows = "".join(f"| {what} | {came_to} |\n" for what, came_to in lines)
        file.write_text(f"# {device}\n\n`python -m pytest -m device`, {time.strftime('%Y-%m-%d')}\n\n"
                        f"| what | came to |\n| :-- | :-- |\n{rows}")


def verb(*words: object, **environment: str) -> dict:
    """What `ms-vit ... --json` came to."""
    ran = subprocess.run([sys.executable, "-m", *map(str, words), "--json"], cwd=REPOSITORY, capture_output=True,
                         text=True, env={**os.environ, **environment})
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return Path(verb("ms_vit.download", "digits", "--root", tmp_path_factory.mktemp("data"))["folder"])


def trained(digits: Path, run: Path, device: str, *options: object) -> dict:
    return verb("ms_vit.train", "--recipe", "digits", "--data.name", digits, "--run", run, "--device", device, *options)


def epochs(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val_top1" in line]


def test_the_doctor_finds_nothing_wrong(device, tell):
    for what, found in verb("ms_vit.doctor", "--device", device)["found"].items():
        tell(what, found)


@pytest.mark.parametrize("precision", CLOSE)
def test_logits_are_the_cpus(device, precision, tell, tmp_path):
    found = {}
    for where, how in (("CPU", "float32"), (device, precision)):
        ran = subprocess.run([sys.executable, str(LOGITS), where, how, str(tmp_path / f"{len(found)}.npy")],
                             capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."})
        assert ran.returncode == 0, ran.stderr[-3000:]
        if not (tmp_path / f"{len(found)}.npy").is_file():
            pytest.skip(ran.stdout.strip())
        found[len(found)] = np.load(tmp_path / f"{len(found)}.npy")
    expected, got = found.values()
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    tell(f"logits in {precision}, beside the CPU's in float32", f"differ by {difference:.1e} of the largest")
    assert difference < CLOSE[precision]


def test_training_goes_as_on_the_cpu(device, digits, tell, tmp_path):
    mine, cpus = (trained(digits, tmp_path / name, where, "--train.epochs", 6, "--train.precision", "float32")
                  for name, where in (("mine", device), ("cpus", "CPU")))
    assert mine["steps"] == cpus["steps"]
    for one, other in zip(epochs(tmp_path / "mine"), epochs(tmp_path / "cpus"), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)
    tell("digits, 6 epochs in float32, top-1 here and on the CPU",
         f"{100 * mine['best']:.2f} %, {100 * cpus['best']:.2f} %")
    scored = verb("ms_vit.eval", tmp_path / "mine", "--data", digits, "--device", device)
    assert scored["top1"] == pytest.approx(mine["best"], abs=0.01)


def test_training_by_default_learns(device, digits, tell, tmp_path):
    """In the precision that auto takes here."""
    result = trained(digits, tmp_path / "run", device, "--train.epochs", 30)
    tell(f"digits, 30 epochs by default ({result['precision']})", f"{100 * result['best']:.2f} %, "
         f"{result['images_per_second']:,.0f} images/s")
    assert result["best"] > 0.9


def test_a_run_in_two_parts_repeats_the_bits_of_one(device, digits, tell, tmp_path):
    for name, parts in (("whole", (3,)), ("parted", (2, 3))):
        for epochs in parts:
            trained(digits, tmp_path / name, device, "--train.epochs", epochs, "--train.deterministic", "true",
                    "--schedule.name", "constant")
    last = [max((tmp_path / name / "checkpoints").glob("0*")) / "model.safetensors" for name in ("whole", "parted")]
    assert last[0].read_bytes() == last[1].read_bytes()
    tell("train.deterministic: a run in two parts", "has the bits of one")


def test_how_fast_it_trains(device, tell, tmp_path):
    """ViT-B/16 at 224 from photos that are made here, in the precision that auto takes: a figure, and no claim."""
    batch, steps = (64, 60) if device != "CPU" else (2, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for number in range(batch * steps):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(pixels, number, 1)).resize((256, 256)).save(file)
    result = verb("ms_vit.train", "--recipe", "imagenet-subset", "--data.name", tmp_path / "data", "--data.holdout",
                  0.05, "--model.name", "vit_base_patch16_224", "--model.num_classes", 2, "--train.epochs", 1,
                  "--train.batch_size", batch, "--run", tmp_path / "run", "--device", device)
    tell(f"ViT-B/16, batch {batch}, {result['precision']}, images/s", f"{result['images_per_second']:,.0f}")
    tell("of which waiting for images", f"{100 * result['data_wait']:.0f} %")


def test_several_cards_come_to_what_one_does(device, digits, tell, tmp_path):
    kind = device.partition(":")[0]
    if kind != "CPU" and len(cards(kind).split(", ")) < 2:
        pytest.skip("there is one card")
    options = ["--recipe", "digits", "--data.name", str(digits), "--train.epochs", "2", "--train.precision", "float32",
               "--optimizer.eps", "1e-3", "--augment.train",
               json.dumps(["Decode()", "Resize(image_size)", "Normalize(mean, std)", "HWC2CHW()"])]
    ran = subprocess.run(["bash", "scripts/train_distributed.sh", *options, "--run", str(tmp_path / "two")],
                         cwd=REPOSITORY, capture_output=True, text=True, env={
                             **os.environ, "NPROC": "2", "DEVICE": kind, "LOGS": str(tmp_path / "logs"),
                             "VENV": str(Path(sys.executable).parents[1])})
    assert ran.returncode == 0, ran.stderr[-3000:]
    verb("ms_vit.train", *options, "--run", tmp_path / "one", "--device", kind)
    losses = [[epoch["train_loss"] for epoch in epochs(tmp_path / name)] for name in ("two", "one")]
    tell("loss of two epochs by two cards and by one", losses)
    np.testing.assert_allclose(*losses, rtol=0.02)
