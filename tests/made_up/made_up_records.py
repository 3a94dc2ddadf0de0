"""Records to write: made up, but with every field filled as a run fills it."""

from __future__ import annotations

from typing import Any

from peftbench.records.record import Record


def a_record(run_id: str = "0123456789abcdef", **changes: Any) -> Record:
    facts: dict[str, Any] = {
        "run_id": run_id,
        "status": "done",
        "created": "2026-11-21T08:00:00+00:00",
        "model": "minilm",
        "method": "dept",
        "task": "masakhanews",
        "subset": "eng",
        "protocol": "masakhanews",
        "shots": 10,
        "data_seed": 1,
        "seed": 2,
        "metric": "f1_weighted",
        "score": 82.93708474831107,
        "scores": {"f1_weighted": 82.93708474831107, "f1_macro": 80.5, "accuracy": 83.0},
        "seconds": {"train": 54.25, "eval": 10.5, "import": 4.0, "total": 70.0},
        "memory": {"train_peak_mib": 412.5, "eval_peak_mib": 120.0, "saved_bytes": 92274688},
        "compute": {"step_flops": 1.25e12, "tokens_per_second": 1234.5, "tokens": 60000, "steps": 160},
        "parameters": {"module": 15360, "head": 2310, "total": 22713216, "adapter_bytes": 70680},
        "draw": {"unit": "per_class", "rows": {"train": 60, "dev": 60, "test": 948}, "sha256": "d" * 64},
        "data": {"sha256": "a" * 64},
        "predictions": {"file": "predictions.jsonl", "sha256": "c" * 64, "count": 948, "invalid": 0},
        "curves": {"step": list(range(160)), "loss": [1 / (i + 1) for i in range(160)]},
        "environment": {
            "versions": {"torch": "2.13.0", "peftbench": "0.1.0"},
            "device": "cpu",
            "n_devices": 1,
            "precision": "bf16",
            "git_sha": "b" * 40,
            "dirty": False,
        },
        "config": {"method": {"name": "dept"}, "shots": 10, "seed": 2, "data_seed": 1},
    }
    return Record(**{**facts, **changes})
