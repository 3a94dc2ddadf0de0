#!/usr/bin/env python
"""Perplexity of a long text under streaming hidden-state optimisation: a row for each rate, in one JSON file.

    python scripts/stream_perplexity.py --model smollm2-135m --text don_quixote.txt --tokens 2048 --json stream.json

The text is cut into passages of at most --length tokens, each scored from its beginning. The first rate is what others
are compared with (0 is plain, with the same segments and window): nats a token more, with a 95 % interval over
segments. A command that was stopped goes on where it was. A rate costs about a forward and two backward passes over the
text.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from peftbench.config import compose
from peftbench.files import write_atomic
from peftbench.inference.hidden_state_optimisation.streaming import stream
from peftbench.models import load_backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a causal model (default: %(default)s)")
    parser.add_argument("--text", type=Path, required=True, help="single line breaks count as spaces")
    parser.add_argument("--skip", type=int, default=0, help="tokens to leave out at the beginning")
    parser.add_argument("--tokens", type=int, default=2048, help="default: %(default)s")
    parser.add_argument("--length", type=int, default=1024, help="of a passage (default: %(default)s)")
    parser.add_argument("--segment", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--window", type=int, default=512, help="states that are kept (default: %(default)s)")
    parser.add_argument("--rates", type=float, nargs="*", default=[0, 1e-3, 3e-3, 1e-2, 3e-2])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    backbone = load_backbone(compose([f"model={args.model}", "method=icl"]).model, "lm")
    network = backbone.model.eval().requires_grad_(False)
    text = "\n\n".join(" ".join(part.split()) for part in args.text.read_text(encoding="utf-8").split("\n\n"))
    ids = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)["input_ids"][0]
    passages = ids[args.skip : args.skip + args.tokens].split(args.length)
    done = json.loads(args.json.read_text()) if args.json.exists() else {}
    settings = {name: getattr(args, name) for name in ("model", "skip", "tokens", "length", "segment", "window")}
    first: list[float] | None = None
    for rate in args.rates:
        key = json.dumps({**settings, "text": args.text.name, "rate": rate})
        if key not in done:
            logs = [part for p in passages for part in stream(network, p, args.segment, args.window, rate)]
            done[key] = {"tokens": sum(map(len, logs)), "segments": [[-float(part.sum()), len(part)] for part in logs]}
            write_atomic(args.json, json.dumps(done, indent=1).encode())
        sums, tokens = zip(*done[key]["segments"], strict=True)
        loss = sum(sums) / sum(tokens)
        line = f"rate {rate:g}: perplexity {math.exp(loss):.2f} ({loss:.4f} nats a token"
        if first is not None:
            less, half = difference(sums, first, tokens)
            line += f", {less:+.4f} [{less - half:+.4f}, {less + half:+.4f}]"
        first = first or list(sums)
        print(f"{line})", flush=True)


def difference(sums: Sequence[float], others: Sequence[float], tokens: Sequence[int]) -> tuple[float, float]:
    """Mean difference a token and half its 95 % interval: segments are taken for independent, tokens of one are not."""
    mean = (sum(sums) - sum(others)) / sum(tokens)
    spread = sum((a - b - mean * n) ** 2 for a, b, n in zip(sums, others, tokens, strict=True))
    return mean, 1.96 * math.sqrt(spread) / sum(tokens)


if __name__ == "__main__":
    main()
