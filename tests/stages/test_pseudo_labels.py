"""Weighted means of logits and iPET's growing sets, against computations by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from peftbench.stages.pseudo_labels import draw_others, draw_pseudo_labelled, softmax, weighted_mean, wishes
from peftbench.tasks.base import Row

LABELS = ("a", "b", "c")


def random_logits(models: int = 3, rows: int = 5, seed: int = 0) -> list[np.ndarray]:
    random = np.random.RandomState(seed)
    return [random.randn(rows, len(LABELS)).astype(np.float32) * 3 for _ in range(models)]


def stream(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


def test_the_weighted_mean_by_hand() -> None:
    one, two = np.array([[1.0, 3.0]], np.float32), np.array([[5.0, -1.0]], np.float32)
    assert weighted_mean([one, two], [1.0, 3.0]).tolist() == [[4.0, 0.0]]
    assert weighted_mean([one, two], [30.0, 90.0]).tolist() == [[4.0, 0.0]]
    logits, weights = random_logits(), [12.5, 3.6, 80.0]
    assert weighted_mean(logits, weights) == pytest.approx(np.average(logits, axis=0, weights=weights), rel=1e-6)


def test_weights_that_are_equal_zero_or_alone() -> None:
    logits = random_logits()
    assert np.array_equal(weighted_mean(logits, [7.0] * 3), weighted_mean(logits, [1.0] * 3))
    wild = [logits[0], logits[1], logits[2] * 1e6]
    assert np.array_equal(weighted_mean(wild, [1.0, 1.0, 0.0]), weighted_mean(logits[:2], [1.0, 1.0]))
    assert np.array_equal(weighted_mean(logits, [0.0] * 3), weighted_mean(logits, [1.0] * 3))
    assert np.array_equal(weighted_mean(logits[:1], [3.0]), logits[0])
    assert weighted_mean(logits, [1.0] * 3).dtype == np.float32


def test_softmax_at_a_temperature() -> None:
    logits = np.array([[2.0, 0.0, 1000.0], [np.log(3.0), 0.0, -1000.0]], np.float32)
    assert softmax(logits)[1] == pytest.approx([0.75, 0.25, 0.0], abs=1e-6)
    root = np.sqrt(3.0)
    assert softmax(logits, 2.0)[1] == pytest.approx([root / (1 + root), 1 / (1 + root), 0.0], abs=1e-6)
    assert softmax(logits)[0].tolist() == [0.0, 0.0, 1.0]
    assert np.array_equal(softmax(logits).argmax(1), softmax(logits, 9.0).argmax(1))


@pytest.mark.parametrize(("count", "share", "size"), [(15, 0.25, 4), (5, 0.25, 1), (2, 0.25, 1), (5, 1.0, 4)])
def test_teachers_are_others(count: int, share: float, size: int) -> None:
    seen = set()
    for position in range(count):
        for seed in range(20):
            drawn = draw_others(position, count, share, stream(seed))
            assert position not in drawn
            assert len(drawn) == len(set(drawn)) == size
            seen |= set(drawn)
    assert seen == set(range(count))


def test_sets_grow_and_keep_the_proportions() -> None:
    targets = ["a"] * 10 + ["b"] * 5
    assert wishes(targets, LABELS, 5.0) == {"a": 40, "b": 20, "c": 0}
    assert wishes(targets, LABELS, 25.0) == {"a": 240, "b": 120, "c": 0}
    assert len(targets) + sum(wishes(targets, LABELS, 5.0).values()) == 5 * len(targets)


def rows(count: int) -> list[Row]:
    return [Row(f"train:{i}", f"text {i}", None) for i in range(count)]


def test_pseudo_labels_are_the_models_own_and_as_many_as_wanted() -> None:
    probabilities = softmax(random_logits(1, 60)[0])
    want = {"a": 4, "b": 0, "c": 1000}
    drawn = draw_pseudo_labelled(rows(60), probabilities, LABELS, want, 0, stream())
    predicted = {f"train:{i}": LABELS[c] for i, c in enumerate(probabilities.argmax(1))}
    assert all(row.target == predicted[row.id] for row in drawn)
    assert len({row.id for row in drawn}) == len(drawn)
    counted = Counter(row.target for row in drawn)
    assert counted == {"a": 4, "c": list(predicted.values()).count("c")}
    again = draw_pseudo_labelled(rows(60), probabilities, LABELS, want, 0, stream())
    assert again == drawn
    assert draw_pseudo_labelled(rows(60), probabilities, LABELS, want, 0, stream(1)) != drawn


def test_surer_rows_are_drawn_sooner_in_proportion() -> None:
    """One row of three: by chance in the ratio of the confidences, 0.9 : 0.6 : 0.5."""
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.5, 0.3, 0.2]], np.float32)
    want = {"a": 1, "b": 0, "c": 0}
    draws = 4000
    random = stream()
    counted = Counter(draw_pseudo_labelled(rows(3), probabilities, LABELS, want, 0, random)[0].id for _ in range(draws))
    for i, confidence in enumerate((0.9, 0.6, 0.5)):
        share = confidence / 2.0
        error = np.sqrt(share * (1 - share) / draws)
        assert counted[f"train:{i}"] / draws == pytest.approx(share, abs=5 * error)


def test_the_most_probable_rows_of_a_label_that_no_row_got() -> None:
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.7, 0.2, 0.1], [0.5, 0.45, 0.05]], np.float32)
    want = {"a": 1, "b": 2, "c": 2}
    drawn = draw_pseudo_labelled(rows(4), probabilities, LABELS, want, 2, stream())
    assert [row.id for row in drawn if row.target == "b"] == ["train:1", "train:3"]
    assert [row.id for row in drawn if row.target == "c"] == ["train:2", "train:3"]
    off = draw_pseudo_labelled(rows(4), probabilities, LABELS, want, 0, stream())
    assert {row.target for row in off} == {"a"}
    few = draw_pseudo_labelled(rows(4), probabilities, LABELS, {"a": 0, "b": 1, "c": 0}, 2, stream())
    assert [(row.id, row.target) for row in few] == [("train:3", "b")]
