#!/usr/bin/env python
"""Twenty few-shot runs on real data: one sweep that keeps what runs share, against commands and against plain scripts.

    PEFTBENCH_DATA=DATA OMP_NUM_THREADS=1 python scripts/bench_sweep20.py --out results/sweep20
    OMP_NUM_THREADS=1 python scripts/bench_sweep20.py --out /tmp/look --seeds 1 --methods head_only model=tiny-bert

MiniLM on MasakhaNEWS English, 10 shots, 80 steps of 8, 64 tokens, 300 test rows, no dev, five training seeds of
`head_only`, `last_layer`, LoRA in the upper half of the blocks and prompt tuning. CPU seconds of whole processes,
imports and children included:

- `sweep`: `peftbench -m ... trainer.reuse_frozen=true`, all runs in one command, from an empty cache of states.
- `sweep of METHOD`: the same with the seeds of one method, for the ratio of each.
- `commands`: a `peftbench` command a run, as it is typed without knowing of the others.
- `reusing`: the same commands with `trainer.reuse_frozen=true`: they share through the cache on disk.
- `peer`: a plain script a run with transformers' Trainer and peft (scripts/peer_trainer.py) on the same rows.

The ways take turns seed by seed, the sweeps between them. What is measured is kept in OUT/units.json at once: the same
command goes on where it was stopped. All ways but `peer` must predict the same bit for bit, else the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench_sweep import EQUAL, measured, records

from peftbench.cache import cache_dir

METHODS = ("head_only", "last_layer", "lora_upper_half", "prompt_tuning")
PEER = Path(__file__).with_name("peer_trainer.py")
STEPS, LENGTH = 80, 64
COMMON = [
    "model=minilm", "task=masakhanews", "task.lang=eng", "shots=10", "protocol.dev=none", "protocol.test_rows=300",
    f"trainer.steps={STEPS}", f"trainer.max_length={LENGTH}", "trainer.threads=1", "trainer.progress=false",
    "tracking.wandb=disabled",
]  # fmt: skip
REUSE = "trainer.reuse_frozen=true"
UPPER_HALF = """\
# peftbench method=lora_upper_half task=masakhanews shots=10
defaults:
  - lora
  - _self_
name: lora_upper_half
tuner:
  layers: upper_half
"""


class Bench:
    """What is measured, a unit at a time; each way has a folder for its records and a cache for its states."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out.resolve()
        self.methods, self.seeds = args.methods.split(","), [str(seed) for seed in args.seeds.split(",")]
        self.file = self.out / "units.json"
        self.units: dict[str, float] = json.loads(self.file.read_text()) if self.file.exists() else {}
        conf = self.out / "conf" / "method"
        conf.mkdir(parents=True, exist_ok=True)
        (conf / "lora_upper_half.yaml").write_text(UPPER_HALF)
        self.models = cache_dir() / "models"
        os.environ["PEFTBENCH_CONF"] = str(self.out / "conf")

    def plan(self) -> Iterator[tuple[str, Callable[[], float]]]:
        """Name and measurement of every unit, in the order in which they are done."""
        sweeps = [("sweep", self.methods), *((f"sweep of {method}", [method]) for method in self.methods)]
        for number, seed in enumerate(self.seeds):
            for method in self.methods:
                ways: list[tuple[str, Callable[[], float]]] = [
                    (f"{way} {method} {seed}", lambda way=way, m=method, s=seed: self.alone(way, m, s))  # type: ignore[misc]
                    for way in ("commands", "peer", "reusing")
                ]
                yield from ways if number % 2 == 0 else ways[:1] + ways[:0:-1]
            share = -(-len(sweeps) // len(self.seeds))
            for name, methods in sweeps[number * share : (number + 1) * share]:
                yield name, lambda name=name, methods=methods: self.sweep(name, methods)  # type: ignore[misc]

    def run(self) -> None:
        """Measure what is not known yet."""
        for name, unit in self.plan():
            if name in self.units:
                continue
            self.units[name] = unit()
            self.file.write_text(json.dumps(self.units, indent=1) + "\n")
            print(f"{name}: {self.units[name]:.1f} CPU s", flush=True)

    def alone(self, way: str, method: str, seed: str) -> float:
        """CPU seconds of one run in a process of its own."""
        if way == "peer":
            draw = next((self.out / "commands").glob("runs/*/draw.json"))
            own = [
                "--draw",
                str(draw),
                "--method",
                method,
                "--seed",
                seed,
                "--steps",
                str(STEPS),
                "--length",
                str(LENGTH),
            ]
            return measured([sys.executable, str(PEER), *own], self.out)[0]
        self.cache(way)
        more = [REUSE] if way == "reusing" else []
        return self.peftbench(f"method={method}", f"seed={seed}", "rerun=true", f"out_dir={way}", *more)

    def sweep(self, name: str, methods: Sequence[str]) -> float:
        """CPU seconds of one command; a folder that an interrupted one has left is done anew."""
        folder = name.replace(" ", "-")
        shutil.rmtree(self.out / folder, ignore_errors=True)
        self.cache(folder, empty=True)
        grid = [f"method={','.join(methods)}", f"seed={','.join(self.seeds)}"]
        return self.peftbench("-m", *grid, f"out_dir={folder}", REUSE)

    def peftbench(self, *command: str) -> float:
        return measured([sys.executable, "-m", "peftbench", *command, *COMMON, *self.args.overrides], self.out)[0]

    def cache(self, name: str, empty: bool = False) -> None:
        """Have the next command use a cache of its own; converted weights stay where they are."""
        folder = self.out / "caches" / name
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if self.models.is_dir() and not (folder / "models").exists():
            (folder / "models").symlink_to(self.models)
        os.environ["PEFTBENCH_CACHE"] = str(folder)

    def total(self, way: str, method: str) -> float:
        """CPU seconds of a way over the seeds of one method."""
        return sum(self.units[f"{way} {method} {seed}"] for seed in self.seeds)

    def report(self) -> str:
        """A line a method, then all of them."""
        others = ("commands", "reusing", "peer")
        lines = ["| runs | sweep, CPU s | commands | reusing | peer | sweep / commands | / reusing | / peer |",
                 "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
        for name, methods in [*((f"`{m}` x {len(self.seeds)}", [m]) for m in self.methods), ("all", self.methods)]:
            own = self.units["sweep" if name == "all" else f"sweep of {methods[0]}"]
            each = [sum(self.total(way, m) for m in methods) for way in others]
            cells = [f"{value:.1f}" for value in (own, *each)] + [f"{own / value:.2f}" for value in each]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def differences(self) -> list[str]:
        """Fields in which a run is not what it is in a command of its own."""
        alone = records(self.out / "commands")
        ways = ["reusing", "sweep", *(f"sweep-of-{method}" for method in self.methods)]
        return [
            f"{way}, {record['method']}, seed {record['seed']}: {field}"
            for way in ways
            for run_id, record in records(self.out / way).items()
            for field in EQUAL
            if record[field] != alone[run_id][field]
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("overrides", nargs="*", help="of our runs")
    bench = Bench(parser.parse_args())
    bench.run()
    print(bench.report())
    wrong = bench.differences()
    print("\n".join(["runs differ:", *wrong]) if wrong else "ours equal to the last bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
