"""What the README says, done: the quickstart in a fresh folder, then every other command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from PIL import Image

from ms_vit.recipe import Recipe

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A folder with the scripts and nothing done yet, whose environment is the one that the tests run in."""
    folder = tmp_path_factory.mktemp("fresh") / "ms-vit"
    folder.mkdir()
    for name in ("scripts", "setup.py", "pyproject.toml", "README.md", "LICENSE", "ms_vit", "datasets"):
        (folder / name).symlink_to(REPOSITORY / name) if name != "scripts" else shutil.copytree(
            REPOSITORY / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def bash(command: str, folder: Path) -> subprocess.CompletedProcess:
    done = subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"VENV": sys.prefix, "MS_VIT_REPORT": "on"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def quickstart(fresh, tmp_path_factory):
    return bash(f"bash {fresh}/scripts/quickstart.sh", tmp_path_factory.mktemp("elsewhere"))


def test_the_quickstart_reaches_97_percent_and_leaves_pictures(quickstart, fresh):
    top1 = float(re.search(r"digits/val: top-1 ([\d.]+) %", quickstart.stderr)[1])
    assert top1 >= 97
    assert len(list((fresh / "runs/digits/predictions").glob("digit_*.png"))) == 20
    for page in ("report.html", "predictions/gallery.html"):
        assert str(fresh / "runs/digits" / page) in quickstart.stderr
        assert (fresh / "runs/digits" / page).is_file()
    with Image.open(fresh / "runs/digits/curves.png") as curves:
        curves.load()


def test_the_quickstart_can_be_run_again(quickstart, fresh):
    again = bash("bash scripts/quickstart.sh", fresh)
    assert "verified" in again.stderr and "all there is to do" in again.stderr


def test_every_other_command_of_the_readme_works(quickstart, fresh):
    commands = [block for block in blocks("bash") if "quickstart.sh" not in block and "test.sh" not in block]
    assert len(commands) >= 3
    for block in commands:
        bash(block if "activate" in block else f". .venv/bin/activate\n{block}", fresh)
    assert (fresh / "runs/mine/eval.json").is_file()


def test_the_fine_tuning_of_the_readme_works(fresh, shared_data):
    """With the head alone and fewer, larger steps: the whole of it takes minutes."""
    (fresh / "vit_tiny_patch16_224.safetensors").symlink_to(shared_data / "vit_tiny_patch16_224.safetensors")
    bash(f". .venv/bin/activate; ms-vit download imagenet-subset --source {shared_data / 'imagenet_mini.zip'}", fresh)
    (fresh / "data/imagenet-mini").symlink_to("imagenet-subset")
    (block,) = blocks("sh")
    block = re.sub(r"(ms-vit train .*)", r"\1 --optimizer.tune head --train.epochs 1 --train.batch_size 50", block)
    told = bash(f". .venv/bin/activate\n{block}", fresh).stderr
    assert float(re.search(r"val: top-1 ([\d.]+) %, top-5", told)[1]) == pytest.approx(75.5, abs=1)     # 1000-way
    assert "a new head, 10 of its classes known to the weights" in told
    assert float(re.search(r"best top-1 on val: ([\d.]+) %", told)[1]) >= 98
    assert "English springer" in told


def test_the_python_of_the_readme_works(quickstart, fresh):
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=fresh, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("7 0.")


def test_the_recipe_of_the_readme_loads(tmp_path):
    (text,) = blocks("yaml")
    (tmp_path / "my.yaml").write_text(text)
    assert Recipe.load(tmp_path / "my.yaml").model.drop_path == 0.1
