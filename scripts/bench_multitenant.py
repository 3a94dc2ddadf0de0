#!/usr/bin/env python
"""Serving eight tenants in one batch: IAPT against LoRA with an adapter for each row.

    OMP_NUM_THREADS=1 python scripts/bench_multitenant.py --model smollm2-135m
    python scripts/bench_multitenant.py --model arch/llama-1b --prompt 128 512 --new 32 256 --device cuda

A batch of N requests, each of another tenant with an instruction of its own, is answered by one frozen backbone:

- `base`: nothing added; what serving costs at least.
- `lora`: N LoRA adapters, none merged, one a row (peft's `adapter_names`). Rank so that one has about as many numbers
  as the IAPT adapter.
- `lora, one`: one LoRA adapter for all rows, not merged: what is left of LoRA's cost when tenants share it.
- `iapt`: one IAPT adapter; the tenants differ in their instructions, from which the soft tokens are made as the prompt
  is read. After that they live in the key/value cache, and a new token costs what it costs the base.

Rounds are interleaved. Each request gets exactly `--new` greedy tokens. Reported: processor seconds (GPU: wall seconds)
of reading the prompts and of a new token, tokens per second, the peak of memory above the loaded model and its
adapters, and the adapters' own bytes; each relative to base. Weights are random for `arch/*` models: only cost counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.measure.memory import MemoryMeter
from peftbench.models import load_backbone
from peftbench.models.base import Backbone
from peftbench.training.precision import autocast
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.base import Tuner

WAYS = ("base", "lora", "lora, one", "iapt")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a causal model (default: %(default)s)")
    parser.add_argument("--layers", type=int, help="shrink an arch/* model to so many blocks")
    parser.add_argument("--tenants", type=int, default=8, help="N, rows of a batch (default: %(default)s)")
    parser.add_argument("--prompt", type=int, nargs="+", default=[128], help="tokens of an instruction (default: 128)")
    parser.add_argument("--new", type=int, nargs="+", default=[32], help="generated tokens (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def load(args: argparse.Namespace) -> Backbone:
    cfg = compose([f"model={args.model}"]).model
    if args.layers:
        cfg.arch = {**cfg.arch, "num_hidden_layers": args.layers}
    return load_backbone(cfg, "lm", dropout=0.0)


def models(args: argparse.Namespace, backbone: Backbone) -> dict[str, nn.Module]:
    """One module for each way, all on one set of frozen weights."""

    def twin() -> Backbone:
        tensors = {id(t): t for t in (*backbone.model.parameters(), *backbone.model.buffers())}
        return replace(backbone, model=copy.deepcopy(backbone.model, tensors))

    context = TunerContext(max(args.prompt) + max(args.new), (), 0)
    iapt = build_tuner(compose(["method=iapt"]).method.tuner)
    built: dict[str, nn.Module] = {"base": twin().model.requires_grad_(False), "iapt": iapt.build(twin(), context)}
    size = trained(built["iapt"])
    for way, adapters in (("lora", args.tenants), ("lora, one", 1)):
        lora = build_tuner(compose(["method=lora"]).method.tuner)
        set_size(lora, size, backbone, context)
        built[way] = lora.build(twin(), context)
        config = built[way].peft_config["default"]
        for number in range(1, adapters):
            built[way].add_adapter(f"tenant{number}", copy.deepcopy(config))
    return {way: built[way].to(args.device).eval() for way in WAYS}


def set_size(tuner: Tuner, size: int, backbone: Backbone, context: TunerContext) -> None:
    """As many parameters as IAPT where a rank comes near; else the default rank, and the sizes are shown."""
    with suppress(UsageError):
        tuner.fit_budget(size, backbone, context)


def trained(model: nn.Module) -> int:
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad or "lora_" in n)


def requests(args: argparse.Namespace, backbone: Backbone, length: int) -> dict[str, Tensor]:
    """N different instructions of full length."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(backbone.model.config.vocab_size, len(backbone.tokenizer))
    ids = torch.randint(10, vocabulary, (args.tenants, length), generator=generator).to(args.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Server:
    """Generates for a batch and says what it took."""

    def __init__(self, args: argparse.Namespace, built: dict[str, nn.Module]) -> None:
        self.args, self.built, self.device = args, built, torch.device(args.device)
        self.clock: Callable[[], float] = time.perf_counter if self.device.type == "cuda" else time.process_time

    @torch.inference_mode()
    def seconds(self, way: str, batch: dict[str, Tensor], new: int) -> float:
        extra: dict[str, Any] = {}
        if way == "lora":
            extra["adapter_names"] = ["default", *(f"tenant{i}" for i in range(1, self.args.tenants))]
        before = self._now()
        with self._precision():
            out = self.built[way].generate(
                **batch, **extra, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
            )
        assert out.shape[1] == batch["input_ids"].shape[1] + new, (way, out.shape)
        return self._now() - before

    def peak(self, way: str, batch: dict[str, Tensor], new: int) -> float:
        """MiB above what is there before the batch comes."""
        meter = MemoryMeter(self.device)
        level = torch.cuda.memory_allocated() / 2**20 if self.device.type == "cuda" else 0.0
        with meter.phase("serve"):
            self.seconds(way, batch, new)
        return meter.peaks()["serve_peak_mib"] - level

    def _precision(self) -> AbstractContextManager:
        return autocast(self.args.precision, self.device)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    backbone = load(args)
    built = models(args, backbone)
    server = Server(args, built)
    bytes_of = {way: 4 * trained(model) if way != "base" else 0 for way, model in built.items()}
    cells = []
    for length in args.prompt:
        batch = requests(args, backbone, length)
        for new in args.new:
            reading: dict[str, list[float]] = {way: [] for way in WAYS}
            whole: dict[str, list[float]] = {way: [] for way in WAYS}
            for round_ in range(args.rounds + 1):
                for way in WAYS:
                    figures = server.seconds(way, batch, 1), server.seconds(way, batch, new)
                    if round_:  # the first one warms up
                        reading[way].append(figures[0])
                        whole[way].append(figures[1])
            tokens = {w: [(b - a) / (new - 1) for a, b in zip(reading[w], whole[w], strict=True)] for w in WAYS}
            cells.append(
                {
                    "prompt": length,
                    "new": new,
                    "read": {w: statistics.median(reading[w]) for w in WAYS},
                    "token": {w: statistics.median(tokens[w]) for w in WAYS},
                    "whole": {w: statistics.median(whole[w]) for w in WAYS},
                    "peak_mib": {w: server.peak(w, batch, new) for w in WAYS},
                }
            )
    facts = {name: value for name, value in vars(args).items() if name != "json"}
    return {"settings": facts, "torch": torch.__version__, "adapter_bytes": bytes_of, "cells": cells}


def show(figures: dict[str, Any]) -> None:
    tenants = figures["settings"]["tenants"]
    print(json.dumps(figures["settings"]))
    print("adapter MiB: " + ", ".join(f"{w} {b / 2**20:.2f}" for w, b in figures["adapter_bytes"].items()))
    print("\n| prompt | new | way | s to read | ms a token | tokens/s | peak MiB | read | token | peak |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for cell in figures["cells"]:
        base = {key: cell[key]["base"] for key in ("read", "token", "peak_mib")}
        for way in WAYS:
            read, token, peak = (cell[key][way] for key in base)
            print(
                f"| {cell['prompt']} | {cell['new']} | {way} | {read:.2f} | {1000 * token:.1f} "
                f"| {tenants * cell['new'] / cell['whole'][way]:.1f} | {peak:.0f} "
                f"| {read / base['read']:.2f} | {token / base['token']:.2f} | {peak / base['peak_mib']:.2f} |"
            )


def main() -> None:
    args = arguments()
    if args.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    figures = measure(args)
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
