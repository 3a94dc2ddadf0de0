"""Runs with their predictions, filed as a run files them, for the tests of what is computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from made_up_records import a_record

from peftbench.formulations.predictions import Prediction
from peftbench.records.predictions import write_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import score

LABELS = ("business", "health", "sports")


def task(problem: str = "classification", metric: str = "f1_weighted", labels: Sequence[str] = LABELS) -> TaskData:
    span = (0.0, 5.0) if problem == "regression" else None
    return TaskData(
        "masakhanews", "eng", (), (), (), tuple(labels), {}, ("text", "pair"), problem, metric, (metric,),
        DataSource("local", "here"), score_range=span,
    )  # fmt: skip


def file_run(store: Store, data: TaskData, rows: Sequence[Row], answers: Sequence[Any], **facts: Any) -> Record:
    """Write predictions and record of one run; `facts` are fields of the record and some short cuts."""
    draw, sha = facts.pop("draw_sha", f"draw {facts.get('data_seed', 1)}"), facts.pop("data_sha", "a" * 64)
    method = facts.get("method", "dept")
    tuner, extra = facts.pop("tuner", {}), facts.pop("extra", ((), ()))
    facts = {"data_seed": 1, "seed": 1, "method": method, "shots": 10, **facts}
    identity = hashlib.sha256(repr((sorted(facts.items()), draw, sha, tuner)).encode()).hexdigest()[:16]
    scores = score(data, rows, answers)
    record = a_record(
        identity,
        metric=data.main_metric,
        score=scores[data.main_metric],
        scores=scores,
        draw={"sha256": draw, "rows": {"test": len(rows)}},
        data={"sha256": sha, "problem": data.problem, "labels": list(data.labels), "score_range": data.score_range},
        config={"method": {"name": method, "tuner": tuner}, "shots": facts["shots"], "seed": facts["seed"],
                "data_seed": facts["data_seed"], "protocol": {"data_seed": 42}},
        **facts,
    )  # fmt: skip
    every, given = [*rows, *extra[0]], [*answers, *extra[1]]
    predictions = [Prediction(r.id, p) for r, p in zip(every, given, strict=True)]
    record.predictions = write_predictions(store.folder(identity), every, predictions)
    store.save(record)
    return record


def rows_of(targets: Sequence[Any], groups: Sequence[str | None] | None = None) -> list[Row]:
    return [Row(f"test:{i}", "text", t, group=groups[i] if groups else None) for i, t in enumerate(targets)]


def sweep(
    store: Store,
    methods: dict[str, float],
    draws: Sequence[int] = (1, 2, 3),
    n: int = 200,
    spread: float = 0.0,
    **facts: Any,
) -> None:
    """Runs of several methods, given with their accuracy, on the same items and draws; `spread` between the draws."""
    rng = np.random.default_rng(5)
    targets = [LABELS[i] for i in rng.integers(0, 3, n)]
    rows, data = rows_of(targets), task()
    for method, accuracy in methods.items():
        for draw in draws:
            wrong = rng.random(n) > accuracy + rng.normal(0, spread)
            answers = [LABELS[rng.integers(0, 3)] if w else t for w, t in zip(wrong, targets, strict=True)]
            file_run(store, data, rows, answers, method=method, data_seed=draw, **facts)
