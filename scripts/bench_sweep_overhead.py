"""What the bookkeeping of many runs costs: plan, status and leaderboard beside thousands of records, no training.

    python scripts/bench_sweep_overhead.py --sizes 1000,10000,100000

For each size a sweep of that many runs is made up, with a record (of the size that a real run's has) for nine of ten.
Then each command runs as a user would give it, in a process of its own: CPU seconds of the whole command, its imports
included, and its peak memory. `growth` is the exponent between one size and the next: 1 is linear, 2 quadratic. Needs
about 10 KB of disk a record in the temporary folder.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from peftbench.measure.environment import environment
from peftbench.records.record import Record
from peftbench.records.store import Store, encode
from peftbench.sweeps.jobs import Job, compose_jobs, expand
from peftbench.sweeps.sweep import Sweep

METHODS, SHOTS = "dept,lora,full,bitfit,prompt_tuning", "2,5,10,15"
PER_SEED = 20
STEPS = 160
SMALL = 1000
REBUILD = "from peftbench.records import leaderboard, store; import sys; leaderboard.rebuild(store.Store(sys.argv[1]))"


def command(runs: int, out_dir: Path) -> list[str]:
    """A sweep of `runs` runs on the packaged task."""
    seeds = f"seed=range(1,{runs // PER_SEED + 1})"
    return [f"method={METHODS}", f"shots={SHOTS}", seeds, "model=tiny-bert", f"out_dir={out_dir}"]


def template(job: Job) -> Record:
    """A record like that of a real few-shot run: its config, a curve of all steps, an environment."""
    assert job.config is not None
    curve = [1.9 + 1 / (7 + step) for step in range(STEPS)]
    return Record(
        run_id="0" * 16,
        status="done",
        created="2026-11-21T08:00:00+00:00",
        model=job.config.model.name,
        method=job.config.method.name,
        task=job.config.task.name,
        subset=job.config.task.subset,
        protocol=job.config.protocol.name,
        shots=job.config.shots,
        data_seed=42,
        seed=987654321,
        metric="f1_weighted",
        score=82.93708474831107,
        scores={"f1_weighted": 82.93708474831107, "f1_macro": 80.51234567, "accuracy": 83.0123456789},
        dev_score=81.2345678,
        seconds=dict.fromkeys(("import", "data", "model", "method", "train", "eval", "save"), 1.2345678901)
        | {"total": 8.64},
        cpu_seconds=dict.fromkeys(("import", "data", "model", "method", "train", "eval", "save"), 1.2345678901),
        memory={"train_peak_mib": 412.5, "eval_peak_mib": 120.0, "process_peak_mib": 900.1, "saved_bytes": 92274688},
        compute={"step_flops": 1.25e12, "tokens_per_second": 1234.5678, "tokens": 60000, "steps": STEPS},
        parameters={"module": 15360, "head": 2310, "total": 22713216, "adapter_bytes": 70680},
        draw={"unit": "per_class", "rows": {"train": 60, "dev": 60, "test": 948}, "sha256": "d" * 64},
        data={"sha256": "a" * 64, "source": {"kind": "packaged", "where": "peftbench/tasks/demo_news"}},
        predictions={"file": "predictions.jsonl", "sha256": "c" * 64, "count": 948, "invalid": 0},
        curves={"step": list(range(STEPS)), "loss": curve},
        environment=environment(),
        config=asdict(job.config),
    )


def file_records(store: Store, jobs: list[Job]) -> int:
    """A record for nine of ten jobs, made from one template a method and shots; bytes of one."""
    store.records.mkdir(parents=True)
    bodies: dict[str, bytes] = {}
    size = 0
    for job in jobs:
        if job.number % 10 == 9 or job.config is None:
            continue
        kind = f"{job.config.method.name} {job.config.shots}"
        if kind not in bodies:
            bodies[kind] = encode(template(job)).partition(b"\n  ")[2].partition(b"\n")[2]
        body = bodies[kind].replace(b"0" * 16, str(job.run_id).encode(), 1)
        body = re.sub(rb'"seed": (987654321|\d+)([,}])', b'"seed": %d\\2' % job.config.seed, body)
        checksum = hashlib.sha256(body).hexdigest().encode()
        content = b'{\n  "checksum": "' + checksum + b'",\n' + body
        store.path(str(job.run_id)).write_bytes(content)
        size = len(content)
    return size


def cost(*argv: str) -> tuple[float, float]:
    """CPU seconds and peak MiB of a command, which has to succeed."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(argv)} failed:\n{output.read().decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(runs: int, out_dir: Path) -> dict[str, tuple[float, float]]:
    """Every command at one size."""
    began = time.process_time()
    jobs = compose_jobs(expand(command(runs, out_dir)))
    store = Store(out_dir)
    size = file_records(store, jobs)
    Sweep.create(out_dir, jobs, "local", ["peftbench", "-m", *command(runs, out_dir)])
    last = next(job for job in jobs if job.number % 10 == 9)
    print(f"{runs:,} runs made up ({size:,} bytes a record), {time.process_time() - began:.0f} CPU s", flush=True)
    cli, python = [sys.executable, "-m", "peftbench"], [sys.executable, "-c", REBUILD, str(out_dir)]
    found = {"leaderboard, from nothing": cost(*python)}
    record = store.load(str(jobs[0].run_id))
    assert record is not None
    record.run_id = str(last.run_id)
    store.save(record)
    found["leaderboard, one record new"] = cost(*python)
    found["leaderboard, nothing new"] = cost(*python)
    found["peftbench status"] = cost(*cli, "status", "--out-dir", str(out_dir))
    found[f"peftbench plan, {SMALL:,} of the runs"] = cost(*cli, "plan", *command(SMALL, out_dir))
    found["peftbench plan, all runs"] = cost(*cli, "plan", *command(runs, out_dir))
    return found


def show(results: dict[int, dict[str, tuple[float, float]]]) -> None:
    """A Markdown table: a line a command, for each size CPU seconds, growth since the size before, MiB."""
    sizes = sorted(results)
    print("\n| CPU s (growth; peak MiB) | " + " | ".join(f"{size:,} runs" for size in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    for name in results[sizes[0]]:
        cells = []
        for i, size in enumerate(sizes):
            seconds, mib = results[size][name]
            growth = ""
            if i:
                before = results[sizes[i - 1]][name][0]
                growth = f"{math.log(seconds / before) / math.log(size / sizes[i - 1]):.2f}; "
            cells.append(f"{seconds:.2f} ({growth}{mib:,.0f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of runs, each a multiple of 20")
    parser.add_argument("--folder", type=Path, help="where the records are put; default: a temporary folder")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    if wrong := [size for size in sizes if size < SMALL or size % PER_SEED]:
        parser.error(f"--sizes {wrong[0]}: give multiples of {PER_SEED} from {SMALL} on")
    results = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="peftbench-bench-", dir=options.folder) as folder:
            if shutil.disk_usage(folder).free < 3 * size * 10_000:
                parser.error(f"{size:,} records do not fit on the disk of {folder}; --folder names another place")
            results[size] = measure(size, Path(folder) / "results")
    show(results)


if __name__ == "__main__":
    main()
