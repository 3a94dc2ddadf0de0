"""A store of made-up runs that look like real ones: predictions that give their scores, curves, costs, a bad seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from made_up_records import a_record

from peftbench.files import write_atomic
from peftbench.formulations.predictions import Prediction
from peftbench.records.diagnosis import diagnose
from peftbench.records.predictions import write_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store, encode
from peftbench.tasks.base import Row

LABELS = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")
METHODS = ("dept", "full", "head_only", "lora", "prompt_tuning")
TRAINED = {"dept": 76_800, "full": 22_565_376, "head_only": 2_695, "lora": 147_456, "prompt_tuning": 38_400}


def fill(
    store: Store,
    methods: Sequence[str] = METHODS,
    subsets: Sequence[str] = ("eng", "swa"),
    shots: Sequence[int | str] = (5, 10, 20),
    draws: int = 3,
    items: int = 60,
    predictions: bool = True,
    durable: bool = True,
) -> list[Record]:
    """Runs of every method on every subset, number of shots and draw, saved in `store`."""
    records = []
    for number, (subset, count, method, draw) in enumerate(product(subsets, shots, methods, range(1, draws + 1))):
        rng = np.random.default_rng([number, 7])
        skill = (
            0.45 + 0.3 * ((_place(method) * 0.37) % 1) + 0.08 * math.log(1 + (100 if count == "full" else int(count)))
        )
        records.append(
            _run(
                store, f"{number:016x}", method, subset, count, draw, min(skill, 0.95), rng, items, predictions, durable
            )
        )
    return records


def _run(
    store: Store, run_id: str, method: str, subset: str, shots: int | str, draw: int, skill: float,
    rng: np.random.Generator, items: int, predictions: bool, durable: bool,
) -> Record:  # fmt: skip
    rows = [Row(f"test:{i}", "", LABELS[i % 7]) for i in range(items)]
    right = rng.random(items) < skill
    answers = [Prediction(r.id, r.target if ok else str(rng.choice(LABELS)), dict.fromkeys(LABELS, 0.1))
               for r, ok in zip(rows, right, strict=True)]  # fmt: skip
    accuracy = 100 * float(np.mean([a.label == r.target for a, r in zip(answers, rows, strict=True)]))
    trained = TRAINED.get(method, 1000 * (1 + _place(method)))
    seconds = 5 + 20 * rng.random() + trained / 1e6
    record = a_record(
        run_id, method=method, subset=subset, shots=shots, data_seed=draw, seed=1, metric="accuracy",
        score=accuracy, scores={"accuracy": accuracy, "f1_weighted": accuracy - 1}, dev_score=accuracy + 2,
        parameters={"module": trained - 2_310, "head": 2_310, "total": 22_713_216, "adapter_bytes": 4 * trained},
        seconds={"import": 4.0, "data": 0.4, "model": 0.6, "method": 0.1, "train": seconds, "eval": 9.0, "save": 0.1,
                 "other": 0.2, "total": seconds + 14.4},
        memory={"train_peak_mib": 100 + trained / 5e4 + 10 * rng.random(), "eval_peak_mib": 120.0, "saved_bytes": 9e7},
        draw={"unit": "per_class", "rows": {"train": 70, "dev": 35, "test": items}, "sha256": f"{shots}{subset}{draw}",
              "counts": {"train": dict.fromkeys(LABELS, 10)}},
        data={"sha256": f"data of {subset}", "labels": list(LABELS), "problem": "classification"},
        curves=_curves(rng, accuracy), lr={"module": 1e-3, "head": 1e-2},
        config={"method": {"name": method, "lr": {"module": 1e-3}}, "task": {"name": "masakhanews", "subset": subset},
                "trainer": {"steps": 160, "max_length": 128}, "shots": shots, "seed": 1, "data_seed": draw},
    )  # fmt: skip
    if predictions:
        record.predictions = write_predictions(store.folder(run_id), rows, answers)
    record.diagnosis = diagnose(record, [(r.target, a.label) for r, a in zip(rows, answers, strict=True)], {})
    write_atomic(store.path(run_id), encode(record), durable)
    return record


def _curves(rng: np.random.Generator, score: float) -> dict[str, list]:
    steps = list(range(1, 161))
    dev_steps = list(range(20, 161, 20))
    loss = [2 * math.exp(-s / 40) + 0.05 + 0.1 * float(rng.random()) for s in steps]
    return {
        "step": steps, "loss": loss, "dev_step": dev_steps,
        "dev": [score * (1 - math.exp(-s / 30)) for s in dev_steps],
        "norm_step": dev_steps, "gradient/module": [1.0] * 8, "update/module": [0.1] * 8, "weight/module": [10.0] * 8,
    }  # fmt: skip


def _place(method: str) -> int:
    return sum(map(ord, method)) % 97


def fill_folder(folder: Path, **settings: object) -> Store:
    """A fresh store with `fill(...)`."""
    store = Store(folder)
    fill(store, **settings)  # type: ignore[arg-type]
    return store
