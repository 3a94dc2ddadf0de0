"""Finished runs to make tables of: made up, but filed as a run files them, with a composed config and predictions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from made_up_records import a_record

from peftbench import __version__
from peftbench.config.many import Composer
from peftbench.formulations.predictions import Prediction
from peftbench.records.ids import run_id
from peftbench.records.predictions import write_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import score

_COMPOSER = Composer()
LABELS = ("business", "health", "sports")


def task_data(name: str, subset: str, items: int = 90) -> TaskData:
    """A test set of three balanced classes; its items depend on task and subset only."""
    rows = [Row(f"test:{i}", f"{name} {subset} {i}", LABELS[i % 3]) for i in range(items)]
    metrics = ("f1_weighted", "accuracy")
    source = DataSource("packaged", "made up")
    return TaskData(
        name, subset, (), (), rows, LABELS, {}, ("text", "pair"), "classification", metrics[0], metrics, source
    )


def file_run(
    store: Store,
    overrides: Sequence[str],
    accuracy: float = 0.8,
    data_seed: int = 42,
    seed: int = 1,
    version: str = __version__,
    items: int = 90,
    **changes: Any,
) -> Record:
    """File a run of the config that `overrides` make, right on about `accuracy` of its test items.

    Args:
        data_seed: of the draw, as the record has it.
        changes: other values of the record's fields.
    """
    config = asdict(_COMPOSER.compose([*overrides, f"seed={seed}"]))
    task, method = config["task"], config["method"]
    data = task_data(task["name"], task["subset"], items)
    chance = random.Random(f"{overrides} {data_seed} {seed} {accuracy}")
    predictions = [_answer(row, accuracy, chance) for row in data.test]
    draw_sha = hashlib.sha256(f"{data.name} {data.subset} {config['shots']} {data_seed}".encode()).hexdigest()
    notes = changes.pop("data_notes", [])
    name = run_id(config, draw_sha, data.sha256())
    scores = score(data, data.test, [p.label for p in predictions])
    facts: dict[str, Any] = {
        "model": config["model"]["name"] if method["needs_model"] else "none",
        "method": method["name"],
        "task": data.name,
        "subset": data.subset,
        "protocol": config["protocol"]["name"],
        "shots": config["shots"],
        "data_seed": data_seed,
        "seed": seed,
        "metric": data.main_metric,
        "scores": scores,
        "score": scores[data.main_metric],
        "draw": {"sha256": draw_sha, "rows": {"test": len(data.test)}},
        "data": {"sha256": data.sha256(), "labels": list(LABELS), "problem": data.problem, "notes": notes},
        "predictions": write_predictions(store.folder(name), data.test, predictions),
        "environment": {"versions": {"peftbench": version}, "device": "cpu"},
        "config": config,
    }
    record = a_record(name, **{**facts, **changes})
    store.save(record)
    return record


def _answer(row: Row, accuracy: float, chance: random.Random) -> Prediction:
    label = str(row.target) if chance.random() < accuracy else chance.choice([x for x in LABELS if x != row.target])
    return Prediction(row.id, label, {})
