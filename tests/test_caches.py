"""Compiled graphs that several processes keep in one folder."""

import os
import subprocess
import sys
from pathlib import Path

from ms_vit.caches import forget_all_but_newest, keep_graph

PROGRAM = """
import sys

import mindspore as ms
from mindspore import nn

from ms_vit.caches import graph_cache


class Times(nn.Cell):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def construct(self, x):
        return x * self.factor


ms.set_context(mode=ms.GRAPH_MODE)
for what, factor in (word.split(":") for word in sys.argv[1:]):
    with graph_cache(what):
        print(Times(float(factor))(ms.Tensor(1.0)), Times(-1.0)(ms.Tensor(1.0)))
"""


def test_each_graph_is_found_by_its_name_alone_in_any_process_and_order(tmp_path):
    """MindSpore tells them by their order in the process: a second run would be given another one's learning rate."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def products(*words: str) -> list[int]:
        """Of what a name is asked for with: that one's factor shows what was compiled, the kept one's what was read."""
        ran = subprocess.run([sys.executable, tmp_path / "program.py", *words], capture_output=True, text=True,
                             env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
        lines = [[float(word) for word in line.split()] for line in ran.stdout.splitlines()]
        assert all(second == -1 for _, second in lines), ran.stderr     # only the first inside is kept
        return [int(first) for first, _ in lines]

    assert products("two:2", "three:3", "two:4") == [2, 3, 2]
    assert products("five:5", "three:6", "two:7", "eight:8") == [5, 3, 2, 8]
    assert products("two:9", "nine:9", "ten:10", "five:11") == [2, 9, 10, 5]
    assert len(list((tmp_path / "ms-vit/graphs").iterdir())) == 6       # and nothing of the processes


def test_a_graph_that_another_process_was_the_first_to_keep_stays(tmp_path):
    ours, kept = tmp_path / "process/rank_0/graph_cache/compile_cache_3.mindir", tmp_path / "kept"
    for graph, text in ((ours, "ours"), (kept / "graph.mindir", "theirs")):
        graph.parent.mkdir(parents=True)
        graph.write_text(text)
    keep_graph(tmp_path / "process", 3, kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "process"]
    assert (kept / "graph.mindir").read_text() == "theirs"


def test_the_newest_are_kept_whatever_another_process_takes_away_meanwhile(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    listed = [*tmp_path.iterdir(), tmp_path / "gone"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda folder: iter(listed))
        forget_all_but_newest(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
