"""What the README says, done: the quickstart in a fresh folder, then every other command; and in Chinese."""

import difflib
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

pytestmark = pytest.mark.timeout(900)      # the quickstart trains for minutes, longer on a busy machine
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CHINESE = (REPOSITORY / "README.zh-CN.md").read_text(encoding="utf-8")


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


def bash(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    done = subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"VENV": sys.prefix, **variables})
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def quickstart(fresh, tmp_path_factory):
    return bash(f"bash {fresh}/scripts/quickstart.sh", tmp_path_factory.mktemp("elsewhere"), MS_VIT_REPORT="on")


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


# --- the same in Chinese

PIECE = re.compile(r"^(?P<level>#+) (?P<title>[^\n]+)$"
                   r"|^(?P<same>```.*?^```|<!-- (?P<name>\w+): .*?^<!-- end of (?P=name) -->)$"
                   r"|^\|(?P<row>[^\n]*)\|$"
                   r"|^(?P<paragraph>[^\n]+(?:\n(?!```|<!-- |\||#)[^\n]+)*)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^]]*)\]\((\S+?)\)")
SPAN = re.compile(r"(`[^`]+`)")
# What may follow a number and belongs to it; a further unit needs its pair here.
UNITS = {"%": "%", "MB": "MB", "MiB": "MiB", "GiB": "GiB", "s": "秒", "minutes": "分钟", "cores": "核", "bits": "位",
         "pixels": "像素", "point": "个百分点", "images": "张图像", "photos": "张照片", "classes": "个类别"}
ENGLISH = {chinese: english for english, chinese in UNITS.items()}
NUMBER = re.compile(rf"(\d+(?:[.,/]\d+)*(?:e-?\d+)?)(?:\s?({'|'.join([*UNITS, *ENGLISH])})(?![A-Za-z/]))?")


def sections(text: str) -> list[tuple[str, list[str]]]:
    """Each heading, and a line for all that its section has to state alike in both languages.

    First, in their order: code and programs' tables line by line, what each cell of other tables states, and that there
    is a paragraph. Then what its prose states, numbers as often as they stand there. Numbers in words (ten, 十) are
    left to who translates.
    """
    found: list[tuple[str, list[str], list[str]]] = []
    for piece in PIECE.finditer(text):
        if piece["title"]:
            found.append((piece["title"], [f"heading: {piece['level']}"], []))
            continue
        _, lines, prose = found[-1]
        if piece["same"]:
            lines += piece["same"].splitlines()
        elif piece["row"] is not None:
            cells = piece["row"].split("|")
            lines.append("row: " + " | ".join(", ".join(stated(cell)) for cell in cells))
        else:
            lines.append("paragraph")
            prose.append(piece["paragraph"])
    return [(title, lines + stated("\n".join(prose))) for title, lines, prose in found]


def stated(text: str) -> list[str]:
    """The links' targets, the code spans, the numbers with their units ("2.2 秒" as "2.2 s"), each kind sorted."""
    targets = {target for _, target in LINK.findall(text)} - {"README.md", "README.zh-CN.md"}
    text = LINK.sub(r"\1", text)
    spans = {" ".join(span.split()) for span in SPAN.findall(text)}
    numbers = [f"{number} {ENGLISH.get(unit, unit)}".strip() for number, unit in NUMBER.findall(SPAN.sub("", text))]
    return [f"{kind}: {what}" for kind, found in (("link", targets), ("code", spans), ("number", numbers))
            for what in sorted(found)]


def differences(english: str, chinese: str) -> list[str]:
    """Of each section that differs: its headings, what README.md alone states (-), and README.zh-CN.md alone (+)."""
    ours, theirs = sections(english), sections(chinese)
    if len(ours) != len(theirs):
        return [f"README.md has {len(ours)} headings, README.zh-CN.md {len(theirs)}"]
    return [line for (title, lines), (titled, others) in zip(ours, theirs, strict=True) if lines != others
            for line in (f'in "{title}" ("{titled}"):',
                         *(line for line in difflib.ndiff(lines, others) if line.startswith(("- ", "+ "))))]


def test_the_chinese_readme_states_what_the_english_one_does():
    assert README.splitlines()[:3] == ["# ms-vit", "", "[中文](README.zh-CN.md)"]
    assert CHINESE.splitlines()[:3] == ["# ms-vit", "", "[English](README.md)"]
    if found := differences(README, CHINESE):
        pytest.fail("\n".join(["README.md (-) and README.zh-CN.md (+) differ; bring the older one up to date", *found]),
                    pytrace=False)


def test_every_paragraph_of_the_chinese_readme_is_in_chinese():
    for piece in PIECE.finditer(CHINESE.partition("[English](README.md)")[2]):
        assert not (words := piece["title"] or piece["paragraph"]) or re.search("[一-鿿]", words), words


@pytest.mark.parametrize(("old", "new", "told"), [
    ("## Data sets\n", "### Data sets\n", ["- heading: ##", "+ heading: ###"]),
    ("ms-vit download digits\n", "ms-vit download mnist\n", ["- ms-vit download digits", "+ ms-vit download mnist"]),
    ("| 489 MB |", "| 490 MB |", ["- row: code: `imagenet-subset` |  | number: 489 MB",
                                  "+ row: code: `imagenet-subset` |  | number: 490 MB"]),
    ("| `imagenet-subset` |", "| `imagenet-subset` | |", ["- row: code: `imagenet-subset` |  | number: 489 MB",
                                                          "+ row: code: `imagenet-subset` |  |  | number: 489 MB"]),
    ("(datasets/README.md)", "(datasets)", ["- link: datasets/README.md", "+ link: datasets"]),
    ("How to describe", "With `--root`, 2.5 s later, by 2.5 images/s: how to describe",
     ["+ code: `--root`", "+ number: 2.5", "+ number: 2.5 s"]),
    ("How to describe", "\n\nHow to describe", ["+ paragraph"]),
])
def test_what_differs_between_the_readmes_is_told(old, new, told):
    english = README[README.index("## Data sets"):README.index("## Weights from elsewhere")]
    assert old in english and differences(english, english) == []
    title, *lines = differences(english, english.replace(old, new, 1))
    assert title == 'in "Data sets" ("Data sets"):' and sorted(lines) == sorted(told)


def test_a_slip_of_the_translation_is_told():
    assert "2.0 秒" in CHINESE and "| 70.32 |" in CHINESE
    assert differences(README, CHINESE.replace("2.0 秒", "2.0 分钟")) == [
        'in "Your own images" ("使用自己的图像"):', "- number: 2.0 s", "+ number: 2.0 minutes"]
    (title, ours, theirs) = differences(README, CHINESE.replace("| 70.32 |", "| 70.23 |"))
    assert title == 'in "Accuracy" ("准确率"):' and "| 70.32 |" in ours and "| 70.23 |" in theirs
    assert differences(README, CHINESE.replace("## 导出\n", "")) == ["README.md has 11 headings, README.zh-CN.md 10"]
