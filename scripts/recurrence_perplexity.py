#!/usr/bin/env python
"""Perplexity of a long text read in windows: by the bare model, with a trained memory between them, and with overlap.

    python scripts/recurrence_perplexity.py --model smollm2-135m --text don_quixote.txt --window 128 --steps 100 \\
      --json recurrence.json

The first part of the text trains the recurrence adapter (method=recurrence), the last --tokens of it are scored.
Every token of the scored part but each passage's first window counts, in three ways: `windows`, each alone;
`recurrence`, each with what is remembered of those before; `overlap`, each behind the whole window before it, which
costs twice the tokens. What the memory brings is told from what the trained row brings with any text before it: `own`
and `foreign` are a window behind the memory of the one before it, and of one from another passage (its first token left
out), with the difference and a 95 % interval over windows. A command that was stopped after the training of a seed goes
on behind it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config import compose
from peftbench.files import write_atomic
from peftbench.models import load_backbone
from peftbench.tuners import TunerContext, build_tuner


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    """(batch, n - 1): of each token but the first, the negative log-likelihood in nats."""
    return F.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")


def train(model: nn.Module, ids: Tensor, args: argparse.Namespace, seed: int) -> float:
    """AdamW on the memory, on passages drawn from the text; seconds."""
    started, draw = time.process_time(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], args.rate, weight_decay=0.0)
    length = args.window * args.windows
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.rate * (1 - step / args.steps)
        start = int(torch.randint(len(ids) - length, (1,), generator=draw))
        passage = ids[None, start : start + length]
        loss = losses(model(input_ids=passage).logits, passage)[:, args.window - 1 :].mean()  # what a memory can help
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()
        if step % 10 == 0:
            print(f"step {step}: {loss.item():.4f} nats a token", flush=True)
    return time.process_time() - started


@torch.no_grad()
def alone(network: nn.Module, passage: Tensor, window: int) -> Tensor:
    """Losses of a passage's tokens behind its first window, each window read by itself; as with the adapter, the last
    token of one says what the first of the next is."""
    logits = torch.cat([network(input_ids=part).logits for part in passage.split(window, dim=1)], dim=1)
    return losses(logits, passage)[:, window - 1 :].flatten()


@torch.no_grad()
def overlapping(network: nn.Module, passage: Tensor, window: int) -> Tensor:
    """The same, each window read behind the whole one before it."""
    pairs = passage.unfold(1, 2 * window, window)[0]
    return torch.cat([losses(network(input_ids=p[None]).logits, p[None])[0, window - 1 :] for p in pairs])


@torch.no_grad()
def remembered(model: nn.Module, passage: Tensor, window: int) -> Tensor:
    """The same through the adapter, whose passes end where the window does."""
    return losses(model(input_ids=passage).logits, passage)[:, window - 1 :].flatten()


@torch.no_grad()
def behind(model: nn.Module, passages: Sequence[Tensor], others: Sequence[Tensor], window: int) -> Tensor:
    """(windows, window - 1): losses of windows behind the memory of the one before them, in a passage of `others`."""
    pairs = [
        torch.cat([other[:, start - window : start], passage[:, start : start + window]], dim=1)
        for passage, other in zip(passages, others, strict=True)
        for start in range(window, passage.shape[1], window)
    ]
    return torch.cat([losses(model(input_ids=pair).logits, pair)[:, window:] for pair in pairs])


def summary(values: Tensor) -> dict[str, float]:
    """Mean and its standard error, tokens taken for independent (they are not: read it as a lower bound)."""
    return {"loss": float(values.mean()), "standard_error": float(values.std()) / math.sqrt(len(values))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a causal model (default: %(default)s)")
    parser.add_argument("--text", type=Path, required=True, help="single line breaks count as spaces")
    parser.add_argument(
        "--tokens", type=int, default=8192, help="scored, at the end of the text (default: %(default)s)"
    )
    parser.add_argument("--window", type=int, default=128, help="tokens of a window (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=4, help="of a passage (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="passages that train (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--block", type=int, default=None, help="that sees the memory (default: the middle one)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1], help="default: 1")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    length = args.window * args.windows
    overrides = [f"model={args.model}", "method=recurrence", f"method.tuner.window={args.window}"]
    cfg = compose([*overrides, *([] if args.block is None else [f"method.tuner.block={args.block}"])])
    backbone = load_backbone(cfg.model, "lm", dropout=0.0)
    text = "\n\n".join(" ".join(part.split()) for part in args.text.read_text(encoding="utf-8").split("\n\n"))
    ids = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)["input_ids"][0]
    learned, scored = ids[: -args.tokens], ids[-args.tokens :]
    passages = [p[None] for p in scored.split(length) if len(p) == length]
    done = json.loads(args.json.read_text()) if args.json.exists() else {}
    if "windows" not in done:
        network = backbone.model.eval().requires_grad_(False)
        for name, way in (("windows", alone), ("overlap", overlapping)):
            done[name] = summary(torch.cat([way(network, p, args.window) for p in passages]))
        done["settings"] = {n: str(v) for n, v in vars(args).items() if n != "json"}
        write_atomic(args.json, json.dumps(done, indent=1).encode())
    for seed in args.seeds:
        if f"recurrence, seed {seed}" in done:
            continue
        fresh = load_backbone(cfg.model, "lm", dropout=0.0)
        model = build_tuner(cfg.method.tuner).build(fresh, TunerContext(length, (), seed))
        seconds = train(model, learned, args, seed)
        found = summary(torch.cat([remembered(model, p, args.window) for p in passages]))
        own = behind(model, passages, passages, args.window)
        foreign = behind(model, passages, [*passages[1:], passages[0]], args.window)
        less = (foreign - own).mean(1)
        found |= {"own": float(own.mean()), "foreign": float(foreign.mean())}
        found |= {"foreign less own": float(less.mean()), "half width": 1.96 * float(less.std()) / math.sqrt(len(less))}
        done[f"recurrence, seed {seed}"] = {**found, "cpu_seconds": seconds}
        write_atomic(args.json, json.dumps(done, indent=1).encode())
    for name, found in done.items():
        if "loss" in found:
            print(f"{name}: perplexity {math.exp(found['loss']):.3f} ({found['loss']:.4f} nats a token)", flush=True)
        if "own" in found:
            print(f"  one window before: own memory {found['own']:.4f}, a foreign one {found['foreign less own']:+.4f} "
                  f"± {found['half width']:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
