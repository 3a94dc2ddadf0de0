#!/usr/bin/env python
"""How demonstrations are chosen, on aspect polarity: runs that fill the table of docs/language-models.md.

    PEFTBENCH_DATA=DATA python scripts/icl_choices.py --out-dir icl_runs --draws 1 2 3
    peftbench leaderboard --out-dir icl_runs

Each draw has 64 rows a class for a pool. A command that was stopped goes on where it was. About a second a test row and
run on a CPU; for a sample, give a copy of the data with fewer rows in test.raw, which the records then say.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import peftbench

CHOICES = ("random", "bm25", "semantic", "hybrid")


def plan(draws: list[int], counts: list[int], model: str) -> Iterator[dict[str, Any]]:
    """The runs: floors and zero-shot first, then one count of demonstrations after the other."""
    yield {"method": "zero_shot", "model": model, "shots": 0}
    for draw in draws:
        yield {"method": "tfidf_lr", "shots": 64, "data_seed": draw, "seed": draw}
        yield {"method": "frozen_lr", "model": "minilm", "shots": 64, "data_seed": draw, "seed": draw}
    for k in counts:
        for draw in draws:
            for select in CHOICES:
                icl = {"method": "icl", "method.select": select, "method.k": k, "model": model}
                yield {**icl, "shots": 64, "data_seed": draw, "seed": draw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="default: %(default)s")
    parser.add_argument("--draws", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--k", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--out-dir", default="results")
    args = parser.parse_args()
    task = {"task": "absa", "task.subset": "apc_rest14", "trainer.progress": False, "out_dir": args.out_dir}
    for chosen in plan(args.draws, args.k, args.model):
        record = peftbench.run(**task, **chosen).record
        print(f"{record.run_id} {chosen} {record.score}", flush=True)


if __name__ == "__main__":
    main()
