#!/usr/bin/env python
"""How demonstrations are chosen, on aspect polarity: runs that fill the table of docs/language-models.md.

    PEFTBENCH_DATA=DATA python scripts/icl_choices.py --out-dir icl_runs --draws 1 2 3 --test-rows 40
    peftbench leaderboard --out-dir icl_runs

Each draw has 64 rows a class for a pool. A command that was stopped goes on where it was. About a second a test row and
run on a CPU; --test-rows puts a copy of the data with fewer test rows into the folder of the runs, which the records
say.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peftbench

CHOICES = ("random", "bm25", "semantic", "hybrid")
FOLDER = Path("absa", "apc", "rest14")


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


def sampled(data: Path, rows: int, target: Path) -> Path:
    """A copy of the task's files with so many rows in test: sentence by sentence, by chance, always the same."""
    folder = target / FOLDER
    shutil.copytree(data / FOLDER, folder, dirs_exist_ok=True)
    lines = (data / FOLDER / "test.raw").read_text(encoding="utf-8").splitlines()
    sentences: dict[str, list[str]] = {}
    for sentence, aspect, polarity in zip(*[iter(lines)] * 3, strict=True):
        sentences.setdefault(sentence.replace("$T$", aspect), []).append(f"{sentence}\n{aspect}\n{polarity}\n")
    groups, kept = list(sentences.values()), []
    random.Random(0).shuffle(groups)
    while groups and len(kept) < rows:
        kept += groups.pop(0)
    (folder / "test.raw").write_text("".join(kept[:rows]), encoding="utf-8")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="default: %(default)s")
    parser.add_argument("--draws", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--k", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--out-dir", default="results")
    parser.add_argument("--test-rows", type=int, help="of 1,120; default: all")
    args = parser.parse_args()
    task = {"task": "absa", "task.subset": "apc_rest14", "trainer.progress": False, "out_dir": args.out_dir}
    if args.test_rows:
        data = Path(os.environ["PEFTBENCH_DATA"])
        task["data_dir"] = str(sampled(data, args.test_rows, Path(args.out_dir, "data")))
    for chosen in plan(args.draws, args.k, args.model):
        record = peftbench.run(**task, **chosen).record
        print(f"{record.run_id} {chosen} {record.score}", flush=True)


if __name__ == "__main__":
    main()
