import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from ms_vit.data.labels import Labels
from ms_vit.distributed import World
from ms_vit.inference.scores import Scores


@pytest.fixture(scope="module")
def answers():
    random = np.random.default_rng(0)
    labels = random.integers(0, 9, 200)                 # class 9 has no image
    logits = random.normal(size=(200, 10)).astype(np.float32)
    logits[np.arange(200), labels] += 1
    return logits, labels


def scored(logits, labels, batch=33):
    scores = Scores(logits.shape[1])
    for start in range(0, len(labels), batch):
        scores.add(logits[start:start + batch], labels[start:start + batch])
    return scores


def test_scores_equal_scikit_learns_in_any_batches(answers):
    logits, labels = answers
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for batch in (1, 33, 200):
        scores = scored(logits, labels, batch)
        assert scores.images == 200
        for k, value in ((1, scores.top1), (5, scores.top5)):
            assert value == pytest.approx(top_k_accuracy_score(labels, logits, k=k, labels=np.arange(10)))
        assert (scores.confusion == confusion_matrix(labels, logits.argmax(1), labels=np.arange(10))).all()
        assert scores.loss == pytest.approx(log_loss(labels, probabilities, labels=np.arange(10)), rel=1e-5)


def test_two_classes_have_a_top5_of_one(answers):
    logits, labels = answers
    assert scored(logits[:, :2], labels % 2).top5 == 1


def test_the_report_counts_every_image_once_per_class(answers):
    labels = Labels([f"n{i}" for i in range(10)], [f"name {i}" for i in range(10)])
    report = json.loads(json.dumps(scored(*answers).as_dict(labels)))
    assert sum(entry["images"] for entry in report["per_class"].values()) == 200
    assert sum(sum(row.values()) for row in report["confusion"].values()) == 200
    assert "n9" not in report["per_class"]
    assert report["per_class"]["n3"]["name"] == "name 3"
    hits = sum(entry["images"] * entry["top1"] for entry in report["per_class"].values())
    assert hits == pytest.approx(200 * report["top1"])


def test_the_most_frequent_mix_up_is_told():
    logits = np.eye(3)[[0, 1, 1, 1, 2]]
    scores = scored(logits, np.array([0, 0, 0, 1, 2]))
    assert scores.mistakes(Labels(["a", "b", "c"], ["ant", "bee", "cow"])) == ["ant taken for bee, 2 of 3"]


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (3, 3), (10, 1), (9, 2)])
def test_what_processes_found_comes_in_the_order_of_the_images(count, size):
    class Together(World):
        """Knows what the others bring: each the squares of its own samples."""

        def gather(self, values):
            parts = [np.array(World(rank, size).scatter(range(count)), np.int32)**2 for rank in range(size)]
            longest = max(map(len, parts))
            return np.stack([np.pad(part, (0, longest - len(part))) for part in parts])

    for rank in range(size):
        world = Together(rank, size)
        mine = np.array(world.scatter(range(count)), np.int32)**2
        assert world.collect(mine, count).tolist() == [number**2 for number in range(count)]
