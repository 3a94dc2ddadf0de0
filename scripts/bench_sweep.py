#!/usr/bin/env python
"""What a sweep in one command saves: CPU seconds and wall time of N few-shot runs, done in three ways.

    OMP_NUM_THREADS=1 python scripts/bench_sweep.py --seeds 5 --json sweep.json     # 4 methods x 5 seeds: 20 runs
    OMP_NUM_THREADS=1 python scripts/bench_sweep.py --seeds 1 --sample 2            # a look: 4 runs, 2 of each alone

- `sweep`: `peftbench -m method=... seed=...`, all runs in one process on a backbone that stays loaded.
- `separate`: one `peftbench` command a run.
- `peer`: one plain script a run with transformers' Trainer and peft (scripts/peer_trainer.py), on the same rows, with
  the same steps, batches and input length.

Every run trains MiniLM on the packaged demo task, on one thread, without dev evaluations (the peer has none), and
answers the test set. CPU seconds are those of the processes and all their children. `--sample K` does only K of the
separate commands and peer scripts, spread over the methods, and scales what they took to N. What the sweep and the
separate commands predict must be equal to the last bit, else the exit code is 1. Target: sweep / other at most 1/3.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

METHODS = ("lora", "head_only", "prompt_tuning", "full")
PEER = Path(__file__).with_name("peer_trainer.py")
DATA = files("peftbench.tasks") / "demo_news"
EQUAL = ("scores", "dev_score", "curves", "predictions", "parameters")
"""Fields of a record that must not depend on how the run was started."""


def measured(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of a command, its children included. Ends the benchmark if it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environ, check=False)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - started


def overrides(args: argparse.Namespace) -> list[str]:
    """What all runs share."""
    return [
        "model=minilm",
        "task=demo_news",
        f"shots={args.shots}",
        "protocol.dev=none",
        f"trainer.steps={args.steps}",
        f"trainer.max_length={args.length}",
        "trainer.threads=1",
        "trainer.progress=false",
        "tracking.wandb=disabled",
    ]


def records(out_dir: Path) -> dict[str, dict]:
    """The records of a folder by run id."""
    return {path.stem: json.loads(path.read_bytes()) for path in (out_dir / "records").glob("*.json")}


def bench(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Way -> CPU and wall seconds for all runs."""
    program = [sys.executable, "-m", "peftbench"]
    methods, seeds = args.methods.split(","), [str(seed) for seed in range(1, args.seeds + 1)]
    grid = [f"method={','.join(methods)}", f"seed={','.join(seeds)}"]
    runs = [(method, seed) for seed, method in itertools.product(seeds, methods)]
    sampled = runs[: args.sample] if args.sample else runs
    sweep = [*program, "-m", *overrides(args), *grid, "out_dir=sweep", f"hydra.launcher.n_jobs={args.n_jobs}"]
    took = {"sweep": [measured(sweep, folder)]}
    draw = next((folder / "sweep").glob("runs/*/draw.json"))
    for method, seed in sampled:
        own = [f"method={method}", f"seed={seed}", "out_dir=separate"]
        took.setdefault("separate", []).append(measured([*program, *overrides(args), *own], folder))
        if not args.no_peer:
            peer = [
                sys.executable,
                str(PEER),
                "--draw",
                str(draw),
                "--data",
                str(files("peftbench.tasks") / "demo_news"),
            ]
            peer += ["--method", method, "--seed", seed, "--steps", str(args.steps), "--length", str(args.length)]
            took.setdefault("peer", []).append(measured(peer, folder))
    share = {way: 1.0 if way == "sweep" else len(runs) / len(each) for way, each in took.items()}
    return {
        way: {"cpu": share[way] * sum(c for c, _ in each), "wall": share[way] * sum(w for _, w in each)}
        for way, each in took.items()
    }


def differences(folder: Path) -> list[str]:
    """Fields in which a run of the sweep is not what it is alone."""
    swept, alone = records(folder / "sweep"), records(folder / "separate")
    return [
        f"{run_id} {record['method']} seed {record['seed']}: {field}"
        for run_id, record in alone.items()
        for field in EQUAL
        if record[field] != swept.get(run_id, {}).get(field)
    ]


def fixed_cost(folder: Path) -> float:
    """CPU seconds of a further run in the sweep beyond its training, evaluation and probe: the median."""
    spent = sorted(
        sum(seconds for phase, seconds in record["cpu_seconds"].items() if phase not in ("train", "eval", "probe"))
        for record in records(folder / "sweep").values()
    )
    return spent[len(spent) // 2]


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--n-jobs", type=int, default=1, help="processes of the sweep")
    parser.add_argument("--sample", type=int, help="do only so many of the runs alone")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = bench(args, folder)
        wrong, fixed = differences(folder), fixed_cost(folder)
    runs = len(args.methods.split(",")) * args.seeds
    print(f"{runs} runs: MiniLM, demo_news, {args.shots} shots, {args.steps} steps, {args.length} tokens")
    for way, spent in seconds.items():
        ratio = {unit: seconds["sweep"][unit] / spent[unit] for unit in spent}
        print(
            f"{way:<9} {spent['cpu']:8.1f} CPU s {spent['wall']:8.1f} s   "
            f"sweep / {way}: {ratio['cpu']:.2f} CPU, {ratio['wall']:.2f} wall"
        )
    print(f"one more run in the sweep, beyond training, evaluation and probe: {fixed:.2f} CPU s")
    print("\n".join(["the sweep and the separate commands differ:", *wrong]) if wrong else "equal to the last bit")
    if args.json:
        facts = {"runs": runs, "seconds": seconds, "fixed_cpu": fixed, "differences": wrong, "args": vars(args)}
        args.json.write_text(json.dumps(facts, indent=1, default=str) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
