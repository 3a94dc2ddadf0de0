#!/usr/bin/env python
"""How near to a style what runs of task=style have written is, and at what price.

    peftbench -m method=zero_shot shots=full protocol=full task=style ... out_dir=style
    python scripts/style_measures.py --out-dir style --model smollm2-135m

A line for each run: perplexity of its texts under 1-3-grams of the style's train passages (the model's tokens; the
same weights and smoothing for all), under the frozen model behind the same openings, pairs of words that differ, words
a text, and the mean divergence of the biased distribution (nats), if there is one. `held out`: what the author wrote.
Perplexity falls with repetition, too: read it beside the other columns. `to plain`: style perplexity as a share of what
the first plain run's texts have, with a 95 % interval over rows (bootstrap).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peftbench.config import compose
from peftbench.config.load import from_plain
from peftbench.inference.ngram_bias.counts import NgramModel
from peftbench.models import load_backbone
from peftbench.models.base import Backbone
from peftbench.records.predictions import read_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tasks import TaskData, data_dir, load_task
from peftbench.tasks.problems.answers import grams

WEIGHTS, SMOOTHING = (0.2, 0.3, 0.5), 0.1


class Measures:
    """Of texts behind openings, by one frozen model."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.styles = backbone, dict[str, NgramModel]()

    def ids(self, text: str) -> list[int]:
        return list(self.backbone.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"])

    def style(self, data: TaskData) -> NgramModel:
        """Of the continuations of the train passages."""
        if data.subset not in self.styles:
            texts = [self.ids(str(row.target[0])) for row in data.train]  # type: ignore[index]
            self.styles[data.subset] = NgramModel(texts, WEIGHTS, SMOOTHING, len(self.backbone.tokenizer))
        return self.styles[data.subset]

    def base(self, pairs: Sequence[tuple[str, str]]) -> float:
        """Perplexity of texts behind their openings."""
        total, count = 0.0, 0
        for opening, text in pairs:
            before = list(self.backbone.tokenizer(opening)["input_ids"])
            if not (own := self.ids(text)):
                continue
            with torch.no_grad():
                logs = self.backbone.model(input_ids=torch.tensor([[*before, *own]])).logits[0].log_softmax(-1)
            total -= float(sum(logs[len(before) - 1 + n, token] for n, token in enumerate(own)))
            count += len(own)
        return math.exp(total / max(count, 1))

    def to_plain(
        self, data: TaskData, texts: Sequence[str], plain: Sequence[str], rng: np.random.Generator
    ) -> list[float]:
        """Ratio of style perplexities and its interval, rows resampled in pairs 2,000 times."""
        style = self.style(data)
        own, other = (
            np.array([(style.log_likelihood(ids), len(ids)) for ids in map(self.ids, side)]) for side in (texts, plain)
        )
        picks = np.concatenate([np.arange(len(own))[None], rng.integers(len(own), size=(2000, len(own)))])
        (logs, n), (plain_logs, plain_n) = own[picks].sum(1).T, other[picks].sum(1).T
        ratios = np.exp(plain_logs / plain_n - logs / n)
        return [float(ratios[0]), *map(float, np.percentile(ratios[1:], [2.5, 97.5]))]

    def of(self, data: TaskData, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        pieces = grams([text for _, text in pairs], 2)
        style = self.style(data).perplexity([self.ids(text) for _, text in pairs])
        words = sum(len(text.split()) for _, text in pairs) / max(len(pairs), 1)
        distinct = len(set(pieces)) / max(len(pieces), 1)
        return {"style": style, "base": self.base(pairs), "distinct_2": distinct, "words": words}


def name(record: Record) -> str:
    """Its arm: method, prompt, weight of the bias."""
    method = record.config["method"]
    inference: dict[str, Any] = method.get("inference") or {}
    prompt = (method.get("formulation") or {}).get("prompt_number")
    bias = f" bias {inference['weight']:g}" if inference.get("name") == "ngram_bias" else ""
    return f"{record.method}{f' prompt {prompt}' if prompt else ''}{bias}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-dir", default="results")
    parser.add_argument("--model", default="smollm2-135m", help="the frozen model (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    store = Store(args.out_dir)
    records = sorted(
        (r for r in store.all() if r.task == "style" and r.status == "done"), key=lambda r: (r.subset, name(r))
    )
    if not records:
        raise SystemExit(f"no finished run of task=style in {args.out_dir}")
    measures = Measures(load_backbone(compose([f"model={args.model}", "method=icl"]).model, "lm"))
    known, rows = dict[str, TaskData](), []
    for record in sorted(records, key=lambda r: (r.subset, name(r))):
        if record.subset not in known:
            cfg = from_plain(record.config)
            known[record.subset] = load_task(cfg.task, data_dir(cfg))
        data = known[record.subset]
        items = read_predictions(store.folder(record.run_id) / record.predictions["file"])
        if not any(row["subset"] == record.subset for row in rows):
            own = [(str(item.source), item.target[0]) for item in items]
            rows.append({"subset": record.subset, "arm": "held out", **measures.of(data, own)})
        pairs = [(str(item.source), (item.answer or "").strip()) for item in items]
        facts = record.inference.get("facts") or {}
        row = {"subset": record.subset, "arm": name(record), **measures.of(data, pairs)}
        rows.append({**row, "divergence": facts.get("divergence", 0.0), "texts": [text for _, text in pairs]})
    for subset in known:
        of_subset = [row for row in rows if row["subset"] == subset and "texts" in row]
        plain = next((row["texts"] for row in of_subset if row["arm"] == "zero_shot"), None)
        for row in of_subset:
            texts = row.pop("texts")
            if plain is not None and texts != plain and len(texts) == len(plain):
                row["to plain"] = measures.to_plain(known[subset], texts, plain, np.random.default_rng(0))
    print(json.dumps(rows, indent=1) if args.json else "\n".join(map(line, rows)))


def line(row: dict[str, Any]) -> str:
    ratio, low, high = row.get("to plain") or (1.0, 1.0, 1.0)
    shown = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items() if k != "to plain")
    return f"{shown}  to plain {ratio:.2f} [{low:.2f}, {high:.2f}]" if "to plain" in row else shown


if __name__ == "__main__":
    main()
