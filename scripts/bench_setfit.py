"""`method=setfit` beside `method=setfit_library`: the same draws, scores with a paired interval, seconds.

    PEFTBENCH_DATA=... python scripts/bench_setfit.py --out results/setfit task=ag_news shots=8
    PEFTBENCH_DATA=... python scripts/bench_setfit.py --out results/setfit task=masakhanews task.lang=eng shots=8

Both train in fp32 with the backbone's own dropout, on pairs of one sampling, at one rate, in batches of one size. The
methods take turns draw by draw in one process; finished runs are found, so a stopped script goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import peftbench
from peftbench import statistics
from peftbench.records.record import Record
from peftbench.records.store import Store

METHODS = ("setfit", "setfit_library")
SAME = [
    "model=minilm",
    "trainer.dropout=null",
    "trainer.precision=fp32",
    "trainer.probe=false",
    "tracking.wandb=disabled",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="of both: task, shots, method.contrastive.iterations ...")
    args = parser.parse_args()
    for draw in range(1, args.draws + 1):
        for method in METHODS if draw % 2 else METHODS[::-1]:
            command = [f"method={method}", f"data_seed={draw}", f"out_dir={args.out}", *SAME, *args.overrides]
            peftbench.run(*command)
    print(report(Store(args.out)))


def report(store: Store) -> str:
    """A line a task: means, the paired difference with its interval, seconds."""
    done = [record for record in store.all() if record.status == "done"]
    lines = ["| task | draws | setfit | setfit_library | difference | CPU s of training, setfit | library | ratio |",
             "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |"]  # fmt: skip
    for task in sorted({(r.task, r.subset) for r in done}):
        ours, theirs = ([r for r in done if (r.task, r.subset) == task and r.method == m] for m in METHODS)
        cells = [statistics.load_cell(store, records) for records in (ours, theirs)]
        d = statistics.difference(*cells)
        scores = [f"{mean(float(r.score or 0) for r in records):.1f}" for records in (ours, theirs)]
        seconds = [cpu_seconds(records) for records in (ours, theirs)]
        found = ["/".join(task), str(len(ours)), *scores, f"{d.mean:.1f} [{d.low:.1f}, {d.high:.1f}]"]
        found += [*(f"{s:.1f}" for s in seconds), f"{seconds[0] / seconds[1]:.2f}"]
        lines.append(f"| {' | '.join(found)} |")
    return "\n".join(lines)


def cpu_seconds(records: list[Record]) -> float:
    """Mean over runs of the CPU seconds of training, of pairs and head too."""
    return mean(record.cpu_seconds["train"] for record in records)


if __name__ == "__main__":
    main()
