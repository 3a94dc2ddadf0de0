"""CPU seconds from stored runs to a paper's table, and how they grow: `make bench-tables`.

Files made-up runs of `masakhanews-fewshot` in a folder of its own: real records and predictions, 400 test items and a
loss curve each; the table's own 2,240 runs first, then further seeds. Then times `peftbench table` in fresh processes:
the first time after the runs, when intervals come from the stored predictions, and again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count, islice
from typing import Any

import numpy as np

from peftbench import __version__
from peftbench.config.many import Composer
from peftbench.records.ids import run_id
from peftbench.records.leaderboard import rebuild
from peftbench.records.record import Record
from peftbench.records.store import Store, encode
from peftbench.tables import spec
from peftbench.tables.commands import cell_sweep, merge, value

TABLE = "masakhanews-fewshot"
SEEDS = 5
"""Training seeds that the table asks for."""
ITEMS = 400
LABELS = ("business", "health", "politics", "sports")


def configs() -> Iterator[tuple[dict[str, Any], int]]:
    """(config, seed) of the table's runs, then of the same cells with further seeds, without end."""
    composer = Composer()
    cells = [c for c in spec.lay_out(TABLE, spec.load(TABLE)) if not c.missing and not c.mean_of]
    composed = [asdict(composer.compose([f"{k}={value(v)}" for k, v in c.run.items()])) for c in cells]
    for seed in count(1):
        for config in composed:
            yield {**config, "seed": seed}, seed


def file_runs(store: Store, runs: int) -> None:
    """Write records and predictions, without the syncing to disk that a run would pay for.

    Predictions are written for the runs that the table asks for; those of further seeds are never read.
    """
    store.records.mkdir(parents=True, exist_ok=True)
    for number, (config, seed) in enumerate(islice(configs(), runs)):
        subset = config["task"]["subset"]
        data_sha = hashlib.sha256(subset.encode()).hexdigest()
        name = run_id(config, f"draw {config['shots']}", data_sha)
        content, accuracy = predictions(subset, number) if seed <= SEEDS else (b"", 80.0)
        if content:
            folder = store.folder(name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "predictions.jsonl").write_bytes(content)
        store.path(name).write_bytes(encode(record(name, config, seed, data_sha, content, accuracy)))


def predictions(subset: str, number: int) -> tuple[bytes, float]:
    """A predictions file and its accuracy; the test items depend on the subset alone."""
    targets = np.random.default_rng(int.from_bytes(subset.encode(), "big")).integers(0, len(LABELS), ITEMS)
    rng = np.random.default_rng(number)
    answers = np.where(rng.random(ITEMS) < 0.8, targets, rng.integers(0, len(LABELS), ITEMS))
    lines = [
        {"id": f"test:{i}", "target": LABELS[t], "prediction": LABELS[a], "scores": {}, "answer": None}
        for i, (t, a) in enumerate(zip(targets, answers, strict=True))
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines), 100 * float((targets == answers).mean())


def record(name: str, config: dict[str, Any], seed: int, data_sha: str, content: bytes, accuracy: float) -> Record:
    """A record as a run would file it; without f1 scores, which the table computes from the predictions."""
    return Record(
        run_id=name, status="done", created="2026-11-21T08:00:00+00:00", model=config["model"]["name"],
        method=config["method"]["name"], task=config["task"]["name"], subset=config["task"]["subset"],
        protocol=config["protocol"]["name"], shots=config["shots"], data_seed=42, seed=seed, metric="accuracy",
        score=accuracy, scores={"accuracy": accuracy}, seconds={"train": 10.0, "total": 20.0},
        draw={"sha256": f"draw {config['shots']}", "rows": {"test": ITEMS}},
        data={"sha256": data_sha, "labels": list(LABELS), "problem": "classification", "notes": []},
        predictions={"file": "predictions.jsonl", "sha256": hashlib.sha256(content).hexdigest(), "count": ITEMS},
        curves={"step": list(range(160)), "loss": [1 / (i + 1) for i in range(160)]},
        parameters={"module": 7680, "head": 2310, "total": 22713216}, 
        environment={"versions": {"peftbench": __version__}},
        config=config,
    )  # fmt: skip


def timed(out_dir: str, *options: str) -> tuple[float, float]:
    """CPU seconds (user and system) and greatest resident set in MiB of one `peftbench table` in a fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "peftbench", "table", TABLE, "--out-dir", out_dir, "--out", os.devnull, *options]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, after.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="1000,10000", help="how many stored runs, with commas; default: 1000,10000")
    sizes = [int(size) for size in parser.parse_args().runs.split(",")]
    cells = [c for c in spec.lay_out(TABLE, spec.load(TABLE)) if not c.missing and not c.mean_of]
    sweeps = merge(cell_sweep(c.run, c.repeat) for c in cells)
    print(f"table {TABLE}: {len(cells)} cells in {len(sweeps)} sweep(s); CPU seconds of one `peftbench table`")
    print("| stored runs | leaderboard | first table | again | one panel, again | peak, MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-tables-") as folder:
            file_runs(Store(folder), size)
            started = time.process_time()
            rebuild(Store(folder))
            leaderboard = time.process_time() - started
            first, peak = timed(folder)
            again, _ = timed(folder)
            panel, _ = timed(folder, "--only", "10 shots")
        print(f"| {size:,} | {leaderboard:.1f} | {first:.1f} | {again:.1f} | {panel:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
