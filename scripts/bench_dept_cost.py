#!/usr/bin/env python
"""Cost of a DePT (or EPT) training step against prompt tuning's with as many trainable numbers.

    OMP_NUM_THREADS=1 python scripts/bench_dept_cost.py --batch 4 --repeats 3 --json dept_cost.json
    OMP_NUM_THREADS=1 python scripts/bench_dept_cost.py --batch 4 --repeats 3 --method ept

The steps of the two methods alternate in one process, on random weights of the real sizes and random full-length
inputs, so that a slow moment of the machine meets both. DePT takes the rank with which it has as many trainable numbers
as the longer prompt (t5-base, 256 tokens: 40 virtual tokens and rank 45 against 100). A ratio is DePT / prompt tuning,
of each pair of neighbouring steps: smallest, median, largest. What a transformer computes for each token falls by
(40 + n) / (100 + n), which is 0.83 at n = 256 (printed as `length`); only attention, quadratic in the length, and with
it memory, can fall further, and the embeddings of the decoder's few tokens not at all.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from peftbench.config import compose
from peftbench.measure.probe import probe_step
from peftbench.models import load_backbone
from peftbench.models.base import Backbone
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.ept import EptOptions
from peftbench.tuners.prompt_tuning import PromptTuningOptions

LONG = "prompt_tuning"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="arch/t5-base", help="of `peftbench ls models` (default: %(default)s)")
    parser.add_argument("--method", choices=("dept", "ept"), default="dept", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="items in a step (default: %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="tokens of an input, DePT's s (default: %(default)s)")
    parser.add_argument("--answer", type=int, default=2, help="tokens of an answer (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=100, help="l, tokens of the long prompt (default: %(default)s)")
    parser.add_argument("--virtual", type=int, default=40, help="m, virtual tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each method (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def models(args: argparse.Namespace) -> tuple[Backbone, dict[str, nn.Module]]:
    """Both methods on one set of frozen weights, in train mode."""
    cfg = compose([f"model={args.model}"]).model
    backbone = load_backbone(cfg, "features" if cfg.family == "encoder" else "lm")
    short = DeptOptions("dept", args.virtual) if args.method == "dept" else EptOptions("ept", args.virtual)
    configs = {args.method: short, LONG: PromptTuningOptions(LONG, args.prompt)}
    context = TunerContext(max_length=args.length, label_words=(), seed=0)
    built = {}
    for name, config in configs.items():
        shared = {id(t): t for t in (*backbone.model.parameters(), *backbone.model.buffers())}
        twin = replace(backbone, model=copy.deepcopy(backbone.model, shared))
        tuner = build_tuner(replace(config, init="vocab"))
        if name != LONG:
            tuner.fit_budget(args.prompt * backbone.hidden_size, backbone, context)
        built[name] = tuner.build(twin, context).to(args.device).train()
    return backbone, built


def random_batch(args: argparse.Namespace, backbone: Backbone) -> dict[str, Tensor]:
    """Full-length inputs without padding; an encoder-decoder's answers in the decoder, a causal model's at the end."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = backbone.model.config.vocab_size
    ids = torch.randint(10, vocabulary, (args.batch, args.length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if backbone.family == "seq2seq":
        batch["labels"] = torch.randint(10, vocabulary, (args.batch, args.answer), generator=generator)
    elif backbone.family == "causal":
        batch["labels"] = ids.masked_fill(torch.arange(args.length) < args.length - args.answer, -100)
    return {name: tensor.to(args.device) for name, tensor in batch.items()}


def loss_of(model: nn.Module, batch: dict[str, Tensor], args: argparse.Namespace) -> Tensor:
    """The model's own loss, or of an encoder, which has none, the mean square of its hidden states."""
    bf16 = args.precision == "bf16"
    with torch.autocast(torch.device(args.device).type, torch.bfloat16) if bf16 else nullcontext():
        out = model(**batch)
        return out.loss if "labels" in batch else out.last_hidden_state.float().square().mean()


def timed_step(step: Callable[[], Tensor], device: str) -> dict[str, float]:
    """Processor seconds of one forward and backward pass; on a GPU also wall time and peak allocated memory."""
    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if gpu else 0
    wall, cpu = time.perf_counter(), time.process_time()
    step().backward()
    if not gpu:
        return {"cpu_seconds": time.process_time() - cpu}
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return {
        "wall_seconds": time.perf_counter() - wall,
        "peak_allocated_mib": peak / 2**20,
        "peak_above_weights_mib": (peak - before) / 2**20,
    }


def measure(args: argparse.Namespace) -> dict[str, object]:
    """All figures: for each measure the values of both methods and the ratios of neighbouring steps."""
    backbone, built = models(args)
    batch = random_batch(args, backbone)
    steps = {name: (lambda model=model: loss_of(model, batch, args)) for name, model in built.items()}
    trainable = {n: sum(p.numel() for p in m.parameters() if p.requires_grad) for n, m in built.items()}
    values: dict[str, dict[str, list[float]]] = {}

    def keep(name: str, figures: dict[str, float]) -> None:
        for measure_name, value in figures.items():
            values.setdefault(measure_name, {n: [] for n in built})[name].append(value)

    for name, model in built.items():  # also the warm-up
        keep(name, asdict(probe_step(steps[name], [*model.parameters(), *model.buffers()])))
    for _ in range(args.repeats):
        for name, model in built.items():
            keep(name, timed_step(steps[name], args.device))
            model.zero_grad(set_to_none=True)
    ratios = {name: [a / b for a, b in zip(v[args.method], v[LONG], strict=True)] for name, v in values.items()}
    return {
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "trainable": trainable,
        "length": (args.virtual + args.length) / (args.prompt + args.length),
        "medians": {n: {method: statistics.median(x) for method, x in v.items()} for n, v in values.items()},
        "ratios": {n: {"min": min(r), "median": statistics.median(r), "max": max(r)} for n, r in ratios.items()},
    }


def main() -> None:
    args = arguments()
    figures = measure(args)
    print(f"{args.model}, batch {args.batch}, {args.length} tokens, {args.precision}, {args.device}")
    print(f"trainable: {figures['trainable']}; length: {figures['length']:.3f}")
    print(f"{'':24}{args.method:>14}{LONG:>16}{'ratio':>9}{'min':>8}{'max':>8}")
    for name, ratio in figures["ratios"].items():  # type: ignore[attr-defined]
        median = figures["medians"][name]  # type: ignore[index]
        columns = f"{median[args.method]:>14.5g}{median[LONG]:>16.5g}"
        print(f"{name:24}{columns}{ratio['median']:>9.3f}{ratio['min']:>8.3f}{ratio['max']:>8.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
