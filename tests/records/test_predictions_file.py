"""Predictions are kept item by item, and a file that is not the run's own is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.formulations.predictions import Prediction
from peftbench.records.predictions import Item, read_predictions, write_predictions
from peftbench.tasks.base import Row

ROWS = [Row("test:0", "a", "sports"), Row("test:1", "b", "health"), Row("test:2", "c", "sports")]
ANSWERS = [
    Prediction("test:2", None, answer="I do not\nknow \udce9"),
    Prediction("test:0", "sports", {"sports": 0.1234567891234, "health": float("-inf")}),
    Prediction("test:1", "sports", {"sports": 1.0, "health": 0.5}),
]


def test_written_in_test_order_and_read_back(tmp_path: Path) -> None:
    facts = write_predictions(tmp_path, ROWS, ANSWERS)
    assert (facts["file"], facts["count"], facts["invalid"]) == ("predictions.jsonl", 3, 1)
    items = read_predictions(tmp_path / "predictions.jsonl", facts["sha256"])
    assert items == [
        Item("test:0", "sports", "sports", {"sports": 0.123456789, "health": None}),
        Item("test:1", "health", "sports", {"sports": 1.0, "health": 0.5}),
        Item("test:2", "sports", None, {}, "I do not\nknow \udce9"),
    ]
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["test:0", "test:1", "test:2"]


def test_regression_without_an_answer(tmp_path: Path) -> None:
    rows = [Row("test:0", "a", 2.5), Row("test:1", "b", 1.0)]
    facts = write_predictions(tmp_path, rows, [Prediction("test:0", 2.25), Prediction("test:1", float("nan"))])
    assert facts["invalid"] == 1
    assert [i.prediction for i in read_predictions(tmp_path / "predictions.jsonl")] == [2.25, None]


@pytest.mark.parametrize(
    "answers",
    [ANSWERS[:2], [*ANSWERS, Prediction("test:9", "sports")], [*ANSWERS, ANSWERS[0]], [*ANSWERS[:2], ANSWERS[1]]],
)
def test_every_item_is_answered_exactly_once(tmp_path: Path, answers: list[Prediction]) -> None:
    with pytest.raises(ValueError, match="do not fit 3 test rows"):
        write_predictions(tmp_path, ROWS, answers)
    assert list(tmp_path.iterdir()) == []


def test_no_items(tmp_path: Path) -> None:
    assert write_predictions(tmp_path, [], [])["count"] == 0
    assert read_predictions(tmp_path / "predictions.jsonl") == []


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    facts = write_predictions(tmp_path, ROWS, ANSWERS)
    path = tmp_path / "predictions.jsonl"
    path.write_text(path.read_text().replace('"health"', '"sports"'))
    with pytest.raises(UsageError, match="SHA-256 differs"):
        read_predictions(path, facts["sha256"])
    path.write_text("{\n")
    with pytest.raises(UsageError, match="line 1"):
        read_predictions(path)
    path.unlink()
    with pytest.raises(UsageError, match="Cannot read"):
        read_predictions(path)
