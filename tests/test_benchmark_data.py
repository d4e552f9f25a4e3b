import json

import numpy as np
import pytest

from benchmarks import data
from benchmarks.data import MODES, Job

pytest.importorskip("torch", reason="the benchmark's other contender: pip install -e .[parity]")
pytest.importorskip("benchmarks.torch_cpu")


EVERY = ("files", "pillow reduced", "torch", "torch reduced")


def test_every_contender_goes_through_the_folder_and_gets_its_row(tmp_path, monkeypatch):
    job = Job("JPEG 160x120 -> 24", "JPEG", 160, 120, 24, 40, EVERY, batch=10)
    monkeypatch.setattr(data, "JOBS", {"few": job})
    assert data.main(["--jobs", "few", "--rounds", "2", "--out", str(tmp_path), "--name", "data"]) == 0
    record = json.loads((tmp_path / "data.json").read_text())
    rows = [(mode, who) for mode in MODES for who in EVERY if mode == "evaluation" or "pillow" not in who]
    assert [(row["mode"], row["contender"]) for row in record["rows"]] == rows
    assert all(len(row["speeds"]) == 2 and min(row["speeds"]) > 0 for row in record["rows"])
    assert (tmp_path / "data.md").read_text().count("| JPEG 160x120 -> 24 |") == len(rows)
    assert {path.name for path in tmp_path.iterdir()} == {"data.json", "data.md"}


@pytest.mark.parametrize("suffix", ["", data.REDUCED])
def test_by_pillow_the_pixels_are_torchvisions_whole_or_reduced(suffix, tmp_path):
    job = Job("JPEG 150x110 -> 24", "JPEG", 150, 110, 24, 20, EVERY, batch=10)
    data.make_folder(job, tmp_path)
    ours, torchs = (list(make(who + suffix, job, "evaluation", tmp_path)())
                    for make, who in ((data.ours, "pillow"), (data.torchs, "torch")))
    for (images, labels), (expected, its_labels) in zip(ours, torchs, strict=True):
        np.testing.assert_allclose(images, expected.numpy(), atol=1e-5)     # a level of a pixel's is 0.017
        assert labels.tolist() == its_labels.tolist()
