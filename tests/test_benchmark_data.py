import json

import pytest

from benchmarks import data
from benchmarks.data import CONTENDERS, MODES, Job

pytest.importorskip("torch", reason="the benchmark's other contender: pip install -e .[parity]")
pytest.importorskip("benchmarks.torch_cpu")


def test_every_contender_goes_through_the_folder_and_gets_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "JOBS", {"few": Job("PNG 40x30 -> 24", "PNG", 40, 30, 24, images=40, batch=10)})
    assert data.main(["--jobs", "few", "--rounds", "2", "--out", str(tmp_path), "--name", "data"]) == 0
    record = json.loads((tmp_path / "data.json").read_text())
    assert [(row["mode"], row["contender"]) for row in record["rows"]] == [(m, c) for m in MODES for c in CONTENDERS]
    assert all(len(row["speeds"]) == 2 and min(row["speeds"]) > 0 for row in record["rows"])
    assert (tmp_path / "data.md").read_text().count("| PNG 40x30 -> 24 |") == 6
    assert {path.name for path in tmp_path.iterdir()} == {"data.json", "data.md"}
