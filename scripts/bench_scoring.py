#!/usr/bin/env python
"""Labels scored at once (one pass over the prompt, one over the trie of the labels) against one pass for each label.

    OMP_NUM_THREADS=1 python scripts/bench_scoring.py --model smollm2-135m --json scoring.json

Both ways answer the same prompts (a text and four demonstrations, of the packaged news) in one process, in turn, one
text at a time, so that a slow moment of the machine meets both. A ratio is at once / one by one, of each pair:
smallest, median, largest. FLOPs are counted by torch's counter on one prompt. `difference` is the largest difference of
a log-likelihood per token, in fp32; with `--double` both ways run in fp64, where rounding does not hide a mistake.

    OMP_NUM_THREADS=1 python scripts/bench_scoring.py --shared 8 --texts 16 --labels 7 --json shared.json

compares labels at once with themselves: what the prompts of a batch of 8 begin with (the demonstrations) read once for
all of them, as it is done, against every prompt read whole, batch by batch in turn.
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
from peftbench.formulations.scoring import log_likelihoods
from peftbench.formulations.shared_prefix import common_length
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
    parser.add_argument("--shared", type=int, metavar="ROWS", help="compare shared beginnings with whole prompts")
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


Way = Callable[[Any, Batch], Tensor]


def ways_of(net: Learner, shared: bool) -> dict[str, Way]:
    """The two that are compared, the one that is measured first."""
    formulation = net.formulation
    if not shared:
        return {"at once": formulation.likelihoods, "one by one": formulation.likelihoods_one_by_one}
    score = partial(log_likelihoods, trie=formulation.trie)
    return {"shared": score, "whole": partial(score, share=False)}


def compare(net: Learner, batches: Sequence[Batch], ways: dict[str, Way], count_flops: bool) -> dict[str, Any]:
    """Both ways on every batch, in turn."""
    one, other = ways
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    difference, lengths = 0.0, torch.tensor([len(s) for s in net.formulation.trie.sequences])
    for number, batch in enumerate(batches):
        found = {}
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            spent, found[name] = timed(partial(ways[name], net.model, batch))
            seconds[name].append(spent)
        difference = max(difference, float(((found[one] - found[other]).abs() / lengths).max()))
    ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
    counted = {name: flops(partial(way, net.model, batches[0])) for name, way in ways.items()} if count_flops else {}
    return {
        "labels": len(net.formulation.label_ids),
        "rows": len(batches[0]["ids"]),
        "prompt tokens": sum(int(b["attention_mask"].sum()) for b in batches) / sum(len(b["ids"]) for b in batches),
        "in common": common_length(batches[0]["input_ids"], batches[0]["attention_mask"]),
        "trie nodes": len(net.formulation.trie.tokens),
        "cpu seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "cpu ratio": [min(ratios), statistics.median(ratios), max(ratios)],
        "difference": difference,
        "flops": counted,
        "flops ratio": counted[one] / counted[other] if counted else None,
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
        items, size = net.encode(rows), args.shared or 1
        batches = [net.collate(items[start : start + size]) for start in range(0, len(items), size)]
        results.append(compare(net, batches, ways_of(net, bool(args.shared)), not args.no_flops))
        print(json.dumps(results[-1], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"model": args.model, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
