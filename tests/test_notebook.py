"""docs/quickstart.ipynb: as it is committed, executed from a short run, against float64 and true labels."""

import base64
import io
import json
import re
import sys

import nbformat
import numpy as np
import pytest
import reference
from conftest import REPOSITORY
from nbclient import NotebookClient
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

import ms_vit

NOTEBOOK = REPOSITORY / "docs" / "quickstart.ipynb"
FIGURES = {"curves", "infer", "mistakes", "attention", "retrieval"}


def read():
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def test_it_is_committed_without_outputs_and_for_any_kernel():
    notebook = read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert notebook.metadata == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                                 "language_info": {"name": "python"}}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder of a quickstart whose run was short, and what each cell gave, opened in its docs/, by cell."""
    folder = tmp_path_factory.mktemp("ms-vit")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "quickstart.sh").touch()
    (folder / "docs").mkdir()
    kernel = folder / "jupyter" / "kernels" / "python3"     # whatever kernel the machine has by that name: this Python
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Python 3",
        "language": "python"}))
    notebook = read()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(folder / "jupyter"))
        patch.chdir(folder)
        ms_vit.download("digits")
        ms_vit.train(ms_vit.Recipe.load("digits", {"train.epochs": 3}), run="runs/digits")
        NotebookClient(notebook, timeout=200, kernel_name="python3",
                       resources={"metadata": {"path": str(folder / "docs")}}).execute()
    return folder, {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def expected(executed):
    """By a float64 ViT with the run's best weights: split -> its files, and of each what the network makes of it."""
    run = executed[0] / "runs" / "digits"
    weights = load_file(run / "checkpoints" / (run / "checkpoints" / "BEST").read_text().strip() / "ema.safetensors")

    def answers(split):
        """Files; logits [N, 10]; the class token as it leaves the last block [N, D]."""
        files = sorted((executed[0] / "data" / "digits" / split).rglob("*.png"))
        tokens: list[np.ndarray] = []
        logits = reference.vit(weights, np.stack([enlarged(file) for file in files]), patch_size=4, depth=4,
                               num_heads=4, pool="cls", form="tanh", tokens=tokens)
        return files, logits, tokens[-1][:, 0]
    return answers


def enlarged(file):
    """8x8 grey levels -> [3, 16, 16] from -1 to 1, linear between the pixels' centres."""
    small = np.pad(np.asarray(Image.open(file), np.float64), 1, mode="edge")
    for axis in (0, 1):
        inner = small.take(range(1, 9), axis)
        sides = [0.75 * inner + 0.25 * small.take(range(start, start + 8), axis) for start in (0, 2)]
        small = np.stack(sides, axis + 1).reshape([16 if i == axis else n for i, n in enumerate(small.shape)])
    return np.repeat(np.round(small)[None] / 127.5 - 1, 3, 0)


def printed(outputs):
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_every_cell_runs_and_its_figures_come_out(executed):
    folder, outputs = executed
    drawn = {cell for cell in outputs for output in outputs[cell] if "image/png" in output.get("data", {})}
    assert drawn == FIGURES
    for cell in FIGURES:
        (figure,) = (output.data["image/png"] for output in outputs[cell] if "image/png" in output.get("data", {}))
        with Image.open(io.BytesIO(base64.b64decode(figure))) as picture:
            assert min(picture.size) >= 300 and np.asarray(picture.convert("L")).std() > 10, cell
    assert not [output for cell in outputs.values() for output in cell if output.output_type == "error"]
    assert (folder / "runs" / "digits" / "report.html").is_file()
    assert not list((folder / "docs").iterdir())        # all of it is where the quickstart puts it


def test_its_accuracy_is_that_of_a_float64_forward(executed, expected):
    files, logits, _ = expected("val")
    right = [int(file.parent.name) == answer for file, answer in zip(files, logits.argmax(1), strict=True)]
    told = re.search(r"top-1 ([\d.]+) %, .* of (\d+) images", printed(executed[1]["eval"]))
    assert int(told[2]) == len(files) == 359
    assert float(told[1]) == pytest.approx(100 * np.mean(right), abs=0.3)       # one image
    assert 359 - round(3.59 * float(told[1])) == int(printed(executed[1]["mistakes"]).split()[0])
    assert 25 < float(told[1]) < 100                                            # it learnt, and there are mistakes


def test_the_names_of_unseen_pictures_are_those_of_a_float64_forward(executed, expected):
    files, logits, _ = expected("infer")
    told = dict(re.findall(r"(digit_\d+\.png): (\d)", printed(executed[1]["infer"])))
    assert told == {file.name: str(answer) for file, answer in list(zip(files, logits.argmax(1), strict=True))[:10]}
    targets = load_digits().target
    assert sum(int(name) == targets[int(file[6:10])] for file, name in told.items()) >= 3


def test_its_nearest_neighbours_are_those_of_float64_features(executed, expected):
    def directions(split):
        files, _, tokens = expected(split)
        names = np.array([int(file.parent.name) for file in files])
        return names, tokens / np.linalg.norm(tokens, axis=1, keepdims=True)

    (known, train), (names, val) = directions("train"), directions("val")
    votes = known[np.argsort(-(val @ train.T), axis=1)[:, :5]]
    right = np.mean([np.bincount(vote).argmax() for vote in votes] == names)
    told = re.search(r"name ([\d.]+) % of (\d+) images right", printed(executed[1]["features"]))
    assert int(told[2]) == 359
    assert float(told[1]) == pytest.approx(100 * right, abs=0.6)                # two images
