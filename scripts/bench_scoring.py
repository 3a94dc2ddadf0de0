#!/usr/bin/env python
"""Labels scored at once (one pass over the prompt, one over the trie of the labels) against one pass for each label.

    OMP_NUM_THREADS=1 python scripts/bench_scoring.py --model smollm2-135m --json scoring.json

Both ways answer the same prompts (a text and four demonstrations, of the packaged news) in one process, in turn, one
text at a time, so that a slow moment of the machine meets both. A ratio is at once / one by one, of each pair:
smallest, median, largest. FLOPs are counted by torch's counter on one prompt. `difference` is the largest difference of
a log-likelihood per token, in fp32; with `--double` both ways run in fp64, where rounding does not hide a mistake.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from peftbench.build import build_learner
from peftbench.config import compose
from peftbench.formulations.base import Batch
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.tasks import TaskData, load_task
from peftbench.tasks.base import Row

SEVEN = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")
"""MasakhaNEWS's."""
FIELDS = ("physics", "mathematics", "computer science", "biology", "economics", "statistics", "finance")
KINDS = ("theory of", "methods in", "history of", "instruments of", "education in", "analysis of", "computational",
         "applied")  # fmt: skip


def labels(count: int) -> tuple[str, ...]:
    """Seven topics, or topics of several tokens with common beginnings, as arXiv's 53 have them."""
    return SEVEN if count == len(SEVEN) else tuple(f"{kind} {field}" for kind in KINDS for field in FIELDS)[:count]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a causal model or an encoder-decoder")
    parser.add_argument("--labels", type=int, nargs="*", default=[7, 53], help="default: 7 53")
    parser.add_argument("--demonstrations", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--texts", type=int, default=4, help="pairs that are timed (default: %(default)s)")
    parser.add_argument("--no-flops", action="store_true", help="leave out what takes a pass of each way")
    parser.add_argument("--double", action="store_true", help="compute in fp64")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def prompts(data: TaskData, demonstrations: int, count: int) -> list[Row]:
    """Texts with labelled ones in front."""
    shown = "\n\n".join(f"text: {row.text}\nanswer: {row.target}" for row in data.train[:demonstrations])
    return [Row(row.id, f"{shown}\n\ntext: {row.text}", None) for row in data.test[:count]]


def learner(args: argparse.Namespace, data: TaskData, count: int) -> Learner:
    """The untrained model that scores `count` labels."""
    task = replace(data, labels=labels(count), label_words={}, fields=("text",))
    cfg = compose(
        [f"model={args.model}", "method=full", "method/formulation=score", "shots=0", "trainer.max_length=1024"]
    )
    return build_learner(cfg, task, PhaseClock())[0].eval()


def flops(work: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    before = time.process_time()
    found = work()
    return time.process_time() - before, found


def compare(net: Learner, batches: Sequence[Batch], count_flops: bool) -> dict[str, Any]:
    """Both ways on every batch, in turn."""
    ways = {"at once": net.formulation.likelihoods, "one by one": net.formulation.likelihoods_one_by_one}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    difference, lengths = 0.0, torch.tensor([len(s) for s in net.formulation.trie.sequences])
    for number, batch in enumerate(batches):
        found = {}
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            spent, found[name] = timed(partial(ways[name], net.model, batch))
            seconds[name].append(spent)
        difference = max(difference, float(((found["at once"] - found["one by one"]).abs() / lengths).max()))
    ratios = [a / b for a, b in zip(seconds["at once"], seconds["one by one"], strict=True)]
    counted = {name: flops(partial(way, net.model, batches[0])) for name, way in ways.items()} if count_flops else {}
    return {
        "labels": len(net.formulation.label_ids),
        "prompt tokens": statistics.mean(int(b["attention_mask"].sum()) for b in batches),
        "trie nodes": len(net.formulation.trie.tokens),
        "cpu seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "cpu ratio": [min(ratios), statistics.median(ratios), max(ratios)],
        "difference": difference,
        "flops": counted,
        "flops ratio": counted["at once"] / counted["one by one"] if counted else None,
    }


@torch.no_grad()
def main() -> None:
    args = arguments()
    data = load_task(compose(["task=demo_news"]).task, None)
    results = []
    for count in args.labels:
        net = learner(args, data, count)
        if args.double:
            net = net.double()
        rows = prompts(data, args.demonstrations, args.texts)
        results.append(compare(net, [net.collate([item]) for item in net.encode(rows)], not args.no_flops))
        print(json.dumps(results[-1], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"model": args.model, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
