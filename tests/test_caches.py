"""Compiled graphs that several processes keep in one folder, and threads and networks of one process."""

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import mindspore as ms
import numpy as np

import ms_vit
from ms_vit.caches import cache_folder, forget_all_but_newest, graph_cache, hash_of, keep_graph, sources
from ms_vit.data.labels import Labels
from ms_vit.data.preprocessing import Preprocessing
from ms_vit.inference import engines
from ms_vit.models.config import ViTConfig
from ms_vit.models.vit import ViT
from ms_vit.weights.files import ModelSpec, save_parameters

PROGRAM = """
import sys

import mindspore as ms

from ms_vit.caches import graph_cache
from ms_vit.cell import TopCell


class Times(TopCell):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def construct(self, x):
        return x * self.factor


sys.displayhook = sys.stderr = sys.stdout
before = dict(vars(sys))
ms.set_context(mode=ms.GRAPH_MODE)
for what, factor in (word.split(":") for word in sys.argv[1:]):
    with graph_cache(what):
        print(Times(float(factor))(ms.Tensor(1.0)), Times(-1.0)(ms.Tensor(1.0)))
    assert vars(sys) == before, {name for name in before if vars(sys)[name] is not before[name]}
"""


def test_each_graph_is_found_by_its_name_alone_in_any_process_and_order(tmp_path):
    """MindSpore tells them by their order in the process: a second run would be given another one's learning rate."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def products(*words: str) -> list[int]:
        """Of what a name is asked for with: that one's factor shows what was compiled, the kept one's what was read."""
        ran = subprocess.run([sys.executable, tmp_path / "program.py", *words], capture_output=True, text=True,
                             env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
        assert not ran.returncode, ran.stdout       # where the program has its stderr
        lines = [[float(word) for word in line.split()] for line in ran.stdout.splitlines()]
        assert all(second == -1 for _, second in lines)     # only the first inside is kept
        return [int(first) for first, _ in lines]

    assert products("two:2", "three:3", "two:4") == [2, 3, 2]
    assert products("five:5", "three:6", "two:7", "eight:8") == [5, 3, 2, 8]
    kept = list((tmp_path / "ms-vit/graphs").iterdir())
    for graph in kept:
        os.utime(graph, (0, 0))
    assert products("two:9", "nine:9", "ten:10", "five:11") == [2, 9, 10, 5]
    assert sum(graph.stat().st_mtime > 0 for graph in kept) == 2    # which are forgotten last
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


def test_of_two_threads_one_waits_for_the_other():
    """MindSpore numbers the graphs of a process: the one would be given what was laid out for the other."""
    ms.set_context(mode=ms.GRAPH_MODE)
    inside = []

    def enter():
        with graph_cache("the second thread's"):
            inside.append("second")

    second = threading.Thread(target=enter)
    with graph_cache("the first thread's"):
        second.start()
        second.join(0.5)
        assert inside == []
    second.join()
    assert inside == ["second"]


def test_predictors_of_one_network_share_its_graph_and_of_another_do_not(tmp_path, monkeypatch):
    images, mark = np.random.default_rng(0).normal(size=(3, 3, 12, 12)).astype(np.float32), uuid.uuid4()
    monkeypatch.setattr(engines, "compiled_with", lambda precision: str(mark))      # else kept since the last time
    asked = set()       # other tests, in other processes, keep graphs beside these

    def graph_cache_of_this_test(what):
        asked.add(hash_of(ms.__version__, what, sources())[:16])
        return graph_cache(what)
    monkeypatch.setattr(engines, "graph_cache", graph_cache_of_this_test)

    def logits_of(seed: int, gelu: str) -> tuple[np.ndarray, set[Path]]:
        """What a network with random weights answers, and the graphs that were kept by that."""
        config = ViTConfig(image_size=12, patch_size=4, num_classes=3, dim=20, depth=1, num_heads=2, mlp_dim=28,
                           pool="flatten", gelu=gelu)
        net, random = ViT(config), np.random.default_rng(seed)
        for parameter in net.get_parameters():
            parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape).astype(np.float32)))
        file, names = tmp_path / f"{seed}-{gelu}.safetensors", ["a", "b", "c"]
        save_parameters(file, net.parameters_dict(), ModelSpec(config=config, labels=Labels(names, names),
                                                               preprocessing=Preprocessing(image_size=12)))
        before = set((cache_folder() / "graphs").glob("*"))
        with monkeypatch.context() as patch:
            patch.setattr(engines, "graph_cache", lambda what: contextlib.nullcontext())
            compiled = ms_vit.Predictor(file, batch_size=3).logits(images)
        kept = ms_vit.Predictor(file, batch_size=3).logits(images)
        np.testing.assert_array_equal(kept, compiled)
        return kept, {graph for graph in (cache_folder() / "graphs").glob("*") if graph.name in asked} - before

    first, made = logits_of(1, "exact")
    again, none = logits_of(2, "exact")
    other, more = logits_of(2, "tanh")
    assert (len(made), len(none), len(more)) == (1, 0, 1)
    assert not np.allclose(first, again) and (again != other).any()
