"""The benchmark of several processes: what it makes of runs, which it starts as a user would."""

import json

import pytest

from benchmarks import processes
from benchmarks.processes import BATCH, Row, exchanged


def test_what_several_need_beyond_what_each_computes_is_exchange():
    rows = [Row("net", "one", 10, [100.0]), Row("net", "share", 10, [40.0, 50.0, 60.0]),
            Row("net", "several", 10, [80.0])]
    assert exchanged(rows, "net", 2) == pytest.approx(BATCH / 80 - BATCH / 2 / 50)
    assert processes.table(rows, 2)[-1] == ["net", "10", "several", "80", "80 - 80", "0.80", "160 of 800"]


def test_a_share_trains_and_all_is_written_down(tmp_path, monkeypatch):
    """The script for several is tests/test_distributed.py's; here a process with its share stands for every way."""
    monkeypatch.setattr(processes, "NETWORKS", {"tiny": {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}})
    monkeypatch.setattr(processes, "STEPS", 3)
    results = []
    train = processes.train

    def once(way, *rest):
        results.append(results[0] if results else train("share", *rest))
        return results[-1]

    monkeypatch.setattr(processes, "train", once)
    assert processes.processes(rounds=1, out=tmp_path, name="p").name == "p"
    record = json.loads((tmp_path / "p.json").read_text())
    assert [row["way"] for row in record["rows"]] == ["one", "share", "several"]
    assert all(row["parameters"] > 0 and row["speeds"][0] > 0 for row in record["rows"])
    assert (tmp_path / "p.md").read_text().count("| tiny |") == 3
