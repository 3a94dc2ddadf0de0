#!/usr/bin/env python
"""What tuning costs, by language: drop(language) = base - tuned on the same rows, and how much smaller it is elsewhere.

    peftbench -m method=zero_shot shots=0 task=icl_vs_if task.subset=en,fr,ls method.formulation.prompts=verbatim \\
      method.formulation.answer_tokens=10 model=smollm2-135m out_dir=drops
    peftbench -m method=lora method.init_from=RUN shots=0 method/formulation=prompted ... out_dir=drops
    python scripts/language_drops.py --out-dir drops --task icl_vs_if --base zero_shot --tuned lora --home en

Runs are told by their method; of several with the same method, task and subset the newest counts. Intervals are 95 %
bootstrap percentiles over rows. Rows of the same id are taken for parallel: home and another language are resampled
together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from peftbench.records.predictions import read_predictions
from peftbench.records.store import Store
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.base import Sourced, SumMetric


def right(store: Store, task: str, subset: str, method: str) -> dict[str, float]:
    """Row id -> what the row adds to the main metric of the newest run, 0 or 1."""
    runs = [r for r in store.all() if (r.task, r.subset, r.method, r.status) == (task, subset, method, "done")]
    if not runs:
        raise SystemExit(f"no finished run of method={method} on {task}/{subset} in {store.out_dir}")
    record = max(runs, key=lambda r: r.created)
    problem = kind(record.data["problem"])
    metric = problem.metrics[record.metric]
    if not isinstance(metric, SumMetric):
        raise SystemExit(
            f"{record.metric}: is no sum over rows. Use a task whose main metric is one, such as icl_vs_if."
        )
    found = {}
    for item in read_predictions(store.folder(record.run_id) / record.predictions["file"]):
        target = Sourced(item.source or "", item.target, 0) if problem.sourced else item.target
        found[item.id] = float(metric.counts(target, item.prediction)[0])
    return found


def interval(values: NDArray[np.float64], weights: NDArray[np.float64]) -> str:
    """The mean of values, in points, and its bootstrap interval for resampled rows, (draws, rows)."""
    means = 100 * weights @ values / len(values)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * values.mean():6.1f} [{low:.1f}, {high:.1f}]"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-dir", default="results")
    parser.add_argument("--task", default="icl_vs_if")
    parser.add_argument("--base", default="zero_shot", help="method of the base model's runs")
    parser.add_argument("--tuned", default="lora")
    parser.add_argument("--home", default="en", help="subset in the language of the tuning")
    parser.add_argument("--others", nargs="*", default=["fr", "ls"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    store, random, drops = Store(args.out_dir), np.random.RandomState(0), {}
    for subset in (args.home, *args.others):
        base, tuned = (right(store, args.task, subset, method) for method in (args.base, args.tuned))
        ids = sorted(base.keys() & tuned.keys())
        drops[subset] = np.array([base[i] - tuned[i] for i in ids])
        means = (100 * float(np.mean(list(rows.values()))) for rows in (base, tuned))
        print("{}: base {:.1f}, tuned {:.1f}".format(subset, *means))
    sizes = {subset: len(values) for subset, values in drops.items()}
    told = {}
    for subset, values in drops.items():
        count = sizes[subset]
        weights = random.multinomial(count, np.full(count, 1 / count), 5000).astype(float)
        told[subset] = {"drop": interval(values, weights)}
        if subset != args.home and count == sizes[args.home]:
            told[subset]["home less this"] = interval(drops[args.home] - values, weights)
    print(json.dumps(told, indent=1) if args.json else "\n".join(f"{name}: {facts}" for name, facts in told.items()))


if __name__ == "__main__":
    main()
