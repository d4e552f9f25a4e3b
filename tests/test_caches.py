"""Compiled graphs that several processes keep in one folder."""

import os
import sys
from pathlib import Path

from ms_vit.caches import forget_all_but_newest, graph_cache


def test_a_graph_that_another_process_was_the_first_to_keep_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [__file__])
    with graph_cache("what"):
        (new,) = (tmp_path / "ms-vit/graphs").iterdir()
        (new / "graph").write_text("ours")
        kept = new.with_suffix("")
        kept.mkdir()
        (kept / "graph").write_text("theirs")
    assert list(kept.parent.iterdir()) == [kept] and (kept / "graph").read_text() == "theirs"


def test_the_newest_are_kept_whatever_another_process_takes_away_meanwhile(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    listed = [*tmp_path.iterdir(), tmp_path / "gone"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda folder: iter(listed))
        forget_all_but_newest(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
