#!/usr/bin/env python
"""What `trainer.reuse_frozen=true` saves: the same runs without it, with an empty cache, and with a full one.

    PEFTBENCH_DATA=DATA OMP_NUM_THREADS=1 python scripts/bench_reuse.py
    OMP_NUM_THREADS=1 python scripts/bench_reuse.py task=demo_news model=tiny-bert     # a look at it, without data

By default few-shot runs of MiniLM on MasakhaNEWS English: 10 shots, 80 steps of 8, 64 tokens, 300 test rows. The ways
take turns, seed by seed, in one process; CPU seconds are of training and evaluation. The first seed finds an empty
cache, the others what it has kept. Scores, losses and predictions must be the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peftbench
from peftbench.cache import cache_dir
from peftbench.records.record import Record

METHODS = {
    "head_only": ["method=head_only"],
    "last_layer": ["method=last_layer"],
    "LoRA, upper half": ["method=lora", "method.tuner.layers=upper_half"],
    "LoRA": ["method=lora"],
}
COMMON = [
    "model=minilm", "task=masakhanews", "shots=10", "trainer.steps=80", "trainer.max_length=64",
    "protocol.test_rows=300", "trainer.probe=false", "trainer.progress=false", "trainer.save=none",
    "tracking.wandb=disabled",
]  # fmt: skip


def seconds(record: Record) -> float:
    """CPU seconds of training and evaluation."""
    return (record.cpu_seconds["train"] or 0) + (record.cpu_seconds["eval"] or 0)


def same(one: Record, other: Record) -> bool:
    """Whether two runs came to the same, bit for bit."""
    return (one.scores, one.curves["loss"], one.predictions["sha256"]) == (
        other.scores, other.curves["loss"], other.predictions["sha256"])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    print("| method | plain, CPU s | first run | later runs | later / plain | equal |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    models = cache_dir() / "models"
    for label, method in METHODS.items():
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder, "cache")
            empty.mkdir()
            (empty / "models").symlink_to(models)  # converted weights stay where they are
            os.environ["PEFTBENCH_CACHE"] = str(empty)
            plain, reused = list[Record](), list[Record]()
            for seed in range(1, args.seeds + 1):
                command = [*COMMON, *args.overrides, *method, f"seed={seed}"]
                plain.append(peftbench.run(*command, f"out_dir={folder}/plain").record)
                reused.append(peftbench.run(*command, "trainer.reuse_frozen=true", f"out_dir={folder}/reused").record)
        without = statistics.median(map(seconds, plain))
        later = statistics.median(map(seconds, reused[1:]))
        equal = sum(map(same, plain, reused))
        cells = [label, f"{without:.1f}", f"{seconds(reused[0]):.1f}", f"{later:.1f}", f"{later / without:.2f}"]
        print("|", " | ".join([*cells, f"{equal} of {len(plain)}"]), "|", flush=True)


if __name__ == "__main__":
    main()
