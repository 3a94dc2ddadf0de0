"""Bytes of a backbone's weights, a LoRA step and a generation, for each `model.load`.

    python scripts/bench_formats.py --model smollm2-135m --formats fp32,bf16,int8,nf4

Formats take turns, `--rounds` times; CPU seconds are of one step on a batch of 4 x 64 tokens and of 8 greedy tokens.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import torch

from peftbench.build import build_learner
from peftbench.config import compose
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.tasks import load_task
from peftbench.training.precision import autocast


def learner(model: str, load: str) -> tuple[Learner, list]:
    cfg = compose([f"model={model}", f"model.load={load}", "method=lora", "task=demo_news", "trainer.max_length=64",
                   "trainer.device=cpu", "trainer.precision=bf16", "shots=2"])  # fmt: skip
    data = load_task(cfg.task, None)
    return build_learner(cfg, data, PhaseClock())[0], list(data.train[:4])


def measure(net: Learner, rows: list, load: str) -> dict[str, float]:
    batch = net.collate(net.encode(rows))
    with autocast("bf16" if load == "bf16" else "fp32", torch.device("cpu")):
        begun = time.process_time()
        net.train()(batch).backward()
        step = time.process_time() - begun
        net.eval()
        begun = time.process_time()
        with torch.no_grad():
            net.predict(batch)
    return {"step": step, "generation": time.process_time() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--formats", default="fp32,bf16,int8,nf4")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    nets, seconds = {}, defaultdict(list)
    for load in options.formats.split(","):
        nets[load] = learner(options.model, load)
        weights = list(nets[load][0].backbone.model.parameters())
        size = sum(p.numel() * p.element_size() for p in weights if not p.requires_grad)
        print(f"{load}: {size / 2**20:.1f} MiB of frozen weights", flush=True)
    for _ in range(options.rounds):
        for load, (net, rows) in nets.items():
            for what, value in measure(net, rows, load).items():
                seconds[load, what].append(value)
    for (load, what), values in seconds.items():
        print(f"{load} {what}: {', '.join(f'{value:.2f}' for value in values)} CPU s")


if __name__ == "__main__":
    main()
