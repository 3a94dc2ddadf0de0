#!/usr/bin/env python
"""What `trainer.together` saves: the same trainings alone, one after the other, and as a group, in one process.

    PEFTBENCH_DATA=DATA OMP_NUM_THREADS=1 python scripts/bench_together.py                       # all; hours
    OMP_NUM_THREADS=1 python scripts/bench_together.py --models tiny-bert --steps 20             # minutes

Few-shot training steps of `--size` seeds, batches of 8, every text cut at the length. Alone and together take turns,
`--rounds` times; CPU seconds are of the trainings, the median counts; losses and weights must be the same bit for bit.
Peaks are what the resident set rose by; the passes that a run makes twice to look at their bits are left out. Each cell
is added to `--out` as soon as it is there and not measured again, so the script may be stopped and called again.
`--write` puts the table where `trainer.together=auto` looks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from peftbench.build import build_learner
from peftbench.config import compose
from peftbench.inputs import InputCache
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.measure.memory import MemoryMeter
from peftbench.models.backbone_cache import keep_loaded
from peftbench.passes import shared_pass
from peftbench.sweeps import sharing
from peftbench.training.distributed import Dist
from peftbench.training.loop import TrainResult, train
from peftbench.training.together import train_together

MODELS = ["tiny-bert", "minilm", "smollm2-135m"]
METHODS = ["lora", "dept", "prompt_tuning", "bitfit", "houlsby"]
LENGTHS = [16, 32, 64, 128]
COMMON = [
    "task=demo_news", "shots=8", "trainer=fewshot", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1",
    "trainer.progress=false", "tracking.wandb=disabled", "method/formulation=head",
]  # fmt: skip


class Trainee:
    """A run's learner, and its training."""

    def __init__(self, words: list[str], inputs: InputCache) -> None:
        self.cfg = compose(words)
        data, drawn, _ = inputs.load(self.cfg)
        self.learner: Learner = build_learner(self.cfg, data, PhaseClock(), drawn.train)[0]
        self.items = self.learner.encode(drawn.train)

    def alone(self) -> TrainResult:
        """Its steps."""
        return train(
            self.learner, self.items, cfg=self.cfg.trainer, weight_decay=self.cfg.method.weight_decay,
            lr={name: self.cfg.method.lr[name] for name in self.learner.param_groups()}, seed=self.cfg.seed,
            select="last", evaluate=None, clock=PhaseClock(), dist=Dist(torch.device("cpu")),
        )  # fmt: skip


def measured(work: Any) -> tuple[list[TrainResult], float, float]:
    """What it returns, its CPU seconds and its peak in MiB."""
    meter, began = MemoryMeter(), time.process_time()
    with meter.phase("train"):
        found = work()
    return found, time.process_time() - began, meter.peaks()["train_peak_mib"]


def cell(model: str, method: str, length: int, size: int, steps: int, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    words = [*COMMON, f"model={model}", f"method={method}", f"trainer.max_length={length}", f"trainer.steps={steps}"]
    inputs, alone, together = InputCache(), list[tuple[float, float]](), list[tuple[float, float]]()
    equal = 0
    for _ in range(rounds):
        with keep_loaded():
            solo, group = ([Trainee([*words, f"seed={s}"], inputs) for s in range(1, size + 1)] for _ in range(2))
        known, *costs = measured(lambda solo=solo: [each.alone() for each in solo])
        alone.append((costs[0], costs[1]))
        found, *costs = measured(
            lambda group=group: train_together([each.learner for each in group], [each.alone for each in group])
        )
        together.append((costs[0], costs[1]))
        equal += sum(
            a.curves == b.curves and all(map(torch.equal, weights(one), weights(other)))
            for a, b, one, other in zip(known, found, solo, group, strict=True)
        )
    config, tuner = solo[0].learner.backbone.model.config, solo[0].cfg.method.tuner.name
    seconds = [statistics.median(s for s, _ in way) for way in (alone, together)]
    return {
        "model": model, "width": config.hidden_size, "layers": config.num_hidden_layers, "tuner": tuner,
        "length": length, "batch": solo[0].cfg.trainer.batch_size, "size": size,
        "alone": round(seconds[0], 2), "together": round(seconds[1], 2), "ratio": round(seconds[0] / seconds[1], 2),
        "alone_mib": round(max(m for _, m in alone)), "together_mib": round(max(m for _, m in together)),
        "equal": f"{equal} of {size * rounds}",
    }  # fmt: skip


def weights(trainee: Trainee) -> list[torch.Tensor]:
    return list(trainee.learner.trainable_state().values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--size", type=int, default=8, help="runs in a group")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("together.json"))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shared_pass.CHECKED = ()  # two passes of a training are made twice: of some 160 next to nothing, of a few much
    lines: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else []
    done = {(line["model"], line["tuner"], line["length"], line["size"]) for line in lines}
    print("| model | tuner | length | runs | alone, CPU s | together | ratio | MiB alone | together | equal |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for model in args.models:
        for method in args.methods:
            for length in args.lengths:
                if (model, method, length, args.size) not in done:
                    lines.append(cell(model, method, length, args.size, args.steps, args.rounds))
                    args.out.write_text(as_text(lines))
                    names = ("model", "tuner", "length", "size", "alone", "together", "ratio", "alone_mib",
                             "together_mib", "equal")  # fmt: skip
                    print("|", " | ".join(str(lines[-1][name]) for name in names), "|", flush=True)
    if args.write:
        sharing.GAINS.write_text(as_text(lines))


def as_text(lines: list[dict[str, Any]]) -> str:
    """A line of JSON a cell."""
    return "[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n"


if __name__ == "__main__":
    main()
