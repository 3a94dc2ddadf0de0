#!/usr/bin/env python
"""What a training step of every tuner costs on the sizes of real backbones, relative to full fine-tuning.

    make bench-tuners            # or, for one backbone and some methods:
    OMP_NUM_THREADS=1 python scripts/bench_tuners.py --model arch/t5-base --methods dept,ept,prompt_tuning

Weights are random: only shapes count. Everything that follows from shapes (trainable parameters, FLOPs of a step, bytes
saved for backward) is counted on networks of two small depths and carried on in a straight line to the real depth,
which is exact where all blocks are alike and their cost simply adds up. CPU seconds are measured at the smaller depth
given in the table: a step of the tuner and one of full fine-tuning by turns, forward, backward and AdamW's move, in one
process; the ratio is the median over the pairs. Inputs have the full length, without padding.

Writes docs/tuner-costs.md from what was measured, and the figures as JSON. A measurement that is there is not repeated
(`--json` keeps them), so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

from peftbench.config import compose
from peftbench.config.catalogue import entries
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.formulations import formulation_class
from peftbench.learner import Learner
from peftbench.measure.probe import probe_step
from peftbench.models import load_backbone
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.training.optim import build_optimizer
from peftbench.training.precision import autocast
from peftbench.tuners import build_tuner
from peftbench.tuners.base import TunerContext

ROOT = Path(__file__).parents[1]
TABLE, FIGURES = ROOT / "docs" / "tuner-costs.md", ROOT / "results" / "bench_tuners.json"
CPU = torch.device("cpu")
DEPTHS: dict[str, tuple[int, int]] = dict.fromkeys(("arch/t5-base", "arch/roberta-large", "arch/llama-1b"), (1, 2))
"""Depths that are built. Steps are timed on the second."""
ITEMS = {"arch/t5-base": 2, "arch/roberta-large": 2, "arch/llama-1b": 1}
LABELS = ("sports", "health", "politics", "business")
STEPS = 100
"""Length of the training that the few steps pretend to belong to, for tuners with a schedule."""
PROMPT_100 = "prompt_tuning 100"
VARIANTS = {PROMPT_100: ["method=prompt_tuning", "method.tuner.num_virtual_tokens=100"]}
"""The prompt that the papers compare themselves with, beside the methods as they come."""
VARIANTS["dept 40 + 45"] = ["method=dept", "method.tuner.num_virtual_tokens=40", "method.tuner.rank=45"]
_EPT = ["num_virtual_tokens=40", "rank=15", "spaces=4", "bottleneck=4"]  # within 76,800 on t5-base at 256 tokens
VARIANTS["bitfit, added"] = ["method=bitfit", "method.tuner.add_missing=true"]
VARIANTS["ept 40 + 15"] = ["method=ept", *(f"method.tuner.{knob}" for knob in _EPT)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=DEPTHS, help="default: all three")
    parser.add_argument("--methods", help="comma-separated; default: every method that trains a backbone")
    parser.add_argument("--length", type=int, default=256, help="tokens of an input (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="timed pairs of steps (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "results" / "bench_tuners.json", help="figures are kept here"
    )
    parser.add_argument("--no-table", action="store_true", help="leave docs/tuner-costs.md as it is")
    return parser.parse_args()


def settings(method: str, model: str, args: argparse.Namespace) -> RunConfig:
    overrides = VARIANTS.get(method, [f"method={method}"])
    return compose([*overrides, f"model={model}", f"trainer.max_length={args.length}"])


def methods() -> list[str]:
    """What has a tuner that is complete as it stands; `full` first, since all others are compared with it."""
    names = [e["name"] for e in entries("method") if e["name"] not in ("peft", "file", "full")]
    with_tuner = [
        n for n in names if (cfg := compose([f"method={n}"]).method).needs_model and cfg.stages == ["supervised"]
    ]
    return ["full", *with_tuner, *VARIANTS]


def data(items: int, length: int) -> TaskData:
    """Texts longer than any input, so that each is cut to exactly the full length."""
    words = ("the match was won late by the home side after a long night of rain " * (length // 4)).split()
    rows = [Row(f"train:{i}", " ".join(words[i:]), LABELS[i % len(LABELS)]) for i in range(max(items, 8))]
    words_of = {label: label for label in LABELS}
    return TaskData("cost", "default", rows, (), (), LABELS, words_of, ("text", "pair"), "classification", "accuracy",
                    ("accuracy",), DataSource("packaged", "bench_tuners"))  # fmt: skip


def at_depth(cfg: RunConfig, layers: int) -> RunConfig:
    """The same architecture with fewer blocks."""
    arch = dict(cfg.model.arch)
    for key in ("num_hidden_layers", "num_layers", "num_decoder_layers"):
        if key in arch:
            arch[key] = layers
    cfg.model.arch = arch
    return cfg


def real_depth(cfg: RunConfig) -> int:
    arch = cfg.model.arch
    return int(arch.get("num_hidden_layers") or arch["num_layers"])


class Step:
    """A learner with its optimiser: calling it is one training step; `counts`, `cost` are what shapes decide."""

    def __init__(self, cfg: RunConfig, layers: int, args: argparse.Namespace) -> None:
        cfg, task = at_depth(cfg, layers), data(ITEMS[cfg.model.name], args.length)
        chosen = formulation_class(cfg.method.formulation, cfg.model.family, 8, task.problem)
        backbone = load_backbone(cfg.model, chosen.purpose, dropout=0.0)
        torch.manual_seed(0)
        formulation = chosen(backbone, task, args.length, cfg.method.formulation)
        context = TunerContext(args.length, LABELS, 0, pool=task.train, shots=task.train)
        tuner = build_tuner(cfg.method.tuner)
        if backbone.family not in tuner.families:
            raise UsageError(f"does not fit a {backbone.family} backbone")
        self.learner = Learner(backbone, tuner, formulation, context).train()
        self.precision = args.precision
        self.batch = self.learner.collate(self.learner.encode(task.train[: ITEMS[cfg.model.name]]))
        groups = self.learner.param_groups()
        self.optimizer = build_optimizer(groups, dict.fromkeys(groups, 1e-4), 0.0)
        self.counts = self.learner.counts()
        self.done = 0

    def forward(self) -> Tensor:
        with autocast(self.precision, CPU):
            return self.learner(self.batch)

    def cost(self) -> dict[str, float]:
        probe = probe_step(self.forward, [*self.learner.parameters(), *self.learner.buffers()])
        trained = {"trained": self.counts["module"], "total": self.counts["total"] - self.counts["head"]}
        return {**trained, "flops": probe.step_flops, "saved": probe.saved_bytes}

    def __call__(self) -> float:
        """CPU seconds of one step."""
        before = time.process_time()
        self.forward().backward()
        self.learner.before_step(self.done, STEPS)
        self.optimizer.step()
        self.learner.after_step(self.done, STEPS)
        self.optimizer.zero_grad()
        self.done += 1
        return time.process_time() - before


def measure(method: str, model: str, reference: Callable[[], float], args: argparse.Namespace) -> dict[str, Any]:
    """Everything of one method on one backbone; `reference` is a step of full fine-tuning at the second depth."""
    small, large = DEPTHS[model]
    deep = real_depth(settings(method, model, args))
    first = Step(settings(method, model, args), small, args).cost()
    step = Step(settings(method, model, args), large, args)
    second = step.cost()
    line = {key: second[key] + (second[key] - first[key]) / (large - small) * (deep - large) for key in first}
    step(), reference()  # the first ones allocate
    pairs = [(step(), reference()) for _ in range(args.pairs)]
    ratios = [a / b for a, b in pairs]
    seconds = {"cpu_seconds": statistics.median(a for a, _ in pairs), "ratio": statistics.median(ratios)}
    return {**line, **seconds, "ratio_min": min(ratios), "ratio_max": max(ratios), "notes": step.learner.tuner.notes}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is not yet among the figures of `--json`, and keep each at once."""
    known: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else {}
    settings_now = {"length": args.length, "precision": args.precision, "torch": torch.__version__}
    if known.get("settings", settings_now) != settings_now:
        sys.exit(f"{args.json} holds figures of other settings ({known['settings']}); give another file with --json")
    known["settings"] = settings_now
    figures = known.setdefault("figures", {})
    wanted = args.methods.split(",") if args.methods else methods()
    for model in args.model or DEPTHS:
        table = figures.setdefault(model, {})
        missing = [name for name in wanted if name not in table]
        if not missing:
            continue
        full = Step(settings("full", model, args), DEPTHS[model][1], args)
        for number, name in enumerate(missing, start=1):
            try:
                table[name] = measure(name, model, full, args)
            except UsageError as error:
                table[name] = {"refused": str(error)}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{model} {number}/{len(missing)} {name}: {table[name]}", file=sys.stderr, flush=True)
            gc.collect()
    return known


HEAD = """\
# What a step of every tuner costs

Generated by `make bench-tuners` (scripts/bench_tuners.py, torch {torch}, one thread, {precision}); do not edit. Random
weights of the real shapes, inputs of {length} tokens without padding, each method with its own defaults.

- *trained*: the tuner's parameters at the real depth, without a classification head, and their share of the backbone.
- *FLOPs, saved*: of a training step at the real depth, relative to full fine-tuning; saved are the bytes held for the
  backward pass. Counted at two small depths and carried on in a straight line.
- *CPU*: seconds of a step (forward, backward, AdamW) relative to full fine-tuning's, median of {pairs} neighbouring
  pairs with the smallest and the largest, at the reduced depth named above each table. On a shared machine it moves by
  a tenth and more between repetitions; FLOPs and bytes do not.

No dropout, which alone saves a mask for every number it may drop: docs/benchmarks.md has DePT's and EPT's step with it.
"""


def markdown(known: dict[str, Any], pairs: int) -> str:
    text = HEAD.format(**known["settings"], pairs=pairs)
    for model, table in known["figures"].items():
        small, large = DEPTHS[model]
        depths = f"counted at depths {small} and {large}, timed at depth {large}"
        text += f"\n## {model}\n\n{ITEMS[model]} items a step; {depths}.\n\n"
        text += "| method | trained | share | FLOPs | saved | CPU |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
        full, refused = table["full"], []
        for name, f in table.items():
            if "refused" in f:
                refused.append(f"- `{name}`: {f['refused']}\n")
                continue
            share, flops, saved = f["trained"] / full["total"], f["flops"] / full["flops"], f["saved"] / full["saved"]
            cpu = f"{f['ratio']:.2f} ({f['ratio_min']:.2f}-{f['ratio_max']:.2f})"
            text += f"| `{name}` | {f['trained']:,.0f} | {share:.3%} | {flops:.3f} | {saved:.3f} | {cpu} |\n"
        text += against_prompts(table)
        if left := sorted({*methods()} - {*table}):
            text += f"\nNot measured: {', '.join(f'`{name}`' for name in left)}.\n"
        if refused:
            text += "\nNot on this backbone:\n\n" + "".join(refused)
    return text


def against_prompts(table: dict[str, Any]) -> str:
    """The claims of DePT and EPT: their step against that of prompt tuning with 100 tokens."""
    base = table.get(PROMPT_100)
    if base is None or "refused" in base:
        return ""
    lines = ""
    for name in VARIANTS:
        if not name.startswith(("dept", "ept")) or "refused" in table.get(name, {"refused": ""}):
            continue
        f = table[name]
        flops, saved, cpu = (f[k] / base[k] for k in ("flops", "saved", "ratio"))
        lines += f"- `{name}`: FLOPs {flops:.3f}, saved bytes {saved:.3f}, CPU {cpu:.2f}\n"
    return f"\nRelative to prompt tuning with 100 tokens:\n\n{lines}" if lines else ""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    known = run(args)
    if not args.no_table:
        TABLE.write_text(markdown(known, args.pairs), encoding="utf-8")


if __name__ == "__main__":
    main()
