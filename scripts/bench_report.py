"""CPU seconds, size and memory of `peftbench report` for 1,000, 10,000 and (with `--large`) 100,000 records.

    python scripts/bench_report.py [--large]

Records are made up (45 methods x subsets x 3 shot counts x 3 draws) and have no predictions: above some hundred runs
the report reads none. "cold" decodes every record; "warm" finds their rows cached, as they are after any run has ended
there. Each report is a process of its own, so imports are counted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "made_up"))

from made_up_board import fill

from peftbench.records.leaderboard import rebuild
from peftbench.records.store import Store

METHODS = [f"method_{i:02}" for i in range(45)]
SHOTS = (5, 10, 20)
DRAWS = 3


def main() -> None:
    """Print one line of a Markdown table a store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="100,000 records too (minutes, 2 GB of disk)")
    sizes = [1_000, 10_000] + ([100_000] if parser.parse_args().large else [])
    print("| records | cells | cold, CPU s | warm, CPU s | warm, peak MiB | file, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            records, cells = make(Path(folder) / "results", size)
            cold, _, _ = report(folder)
            rebuild(Store(Path(folder) / "results"))
            warm, peak, mib = report(folder)
        print(f"| {records:,} | {cells:,} | {cold:.1f} | {warm:.1f} | {peak:,.0f} | {mib:.1f} |", flush=True)


def make(out_dir: Path, size: int) -> tuple[int, int]:
    """A store of about `size` records; returns how many records and cells it has."""
    subsets = [f"s{i:03}" for i in range(max(1, round(size / (len(METHODS) * len(SHOTS) * DRAWS))))]
    records = fill(Store(out_dir), METHODS, subsets, SHOTS, DRAWS, items=60, predictions=False, durable=False)
    return len(records), len(records) // DRAWS


def report(folder: str) -> tuple[float, float, float]:
    """CPU seconds and peak memory (MiB) of one report, and the size of its file (MiB)."""
    path = Path(folder) / "report.html"
    command = [sys.executable, "-m", "peftbench", "report", "--out-dir", f"{folder}/results", "--out", str(path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = watch(child)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, peak, path.stat().st_size / 2**20


def watch(child: subprocess.Popen) -> float:
    """Wait for the process; its greatest resident set in MiB, as the kernel keeps it."""
    peak = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        except OSError:
            pass
        time.sleep(0.05)
    if child.returncode:
        sys.exit(f"the report ended with exit code {child.returncode}")
    return peak / 1024


if __name__ == "__main__":
    main()
