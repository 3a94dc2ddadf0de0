"""What it costs to start: CPU seconds and imported modules of whole commands, each in a process of its own.

    python scripts/bench_startup.py --rounds 3
    python scripts/bench_startup.py --against ../before/src

The commands take turns, so that a busy machine is unfair to none of them, and the least of the rounds is shown: user
and system seconds of the process with its children. `floor` are imports that a run cannot do without, for comparison:
torch, and a class of transformers with what it takes along. With `--against FOLDER` the package in that folder (the
`src` of another checkout) takes its turn beside this one. Byte code is written and read, as in an installed package.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import peftbench

NETWORK = ["model=tiny-bert", "trainer=debug"]
COMMANDS = {
    "floor: import torch": "import torch",
    "floor: a transformers class": "from transformers import BertModel",
    "floor: import peft": "import peft",
    "floor: scikit-learn": "import sklearn.linear_model, sklearn.feature_extraction.text",
    "ls": ["ls"],
    "method=majority": ["method=majority"],
    "method=tfidf_lr": ["method=tfidf_lr"],
    "method=bitfit": ["method=bitfit", *NETWORK],
    "method=dept": ["method=dept", *NETWORK],
    "method=lora": ["method=lora", *NETWORK],
}
"""What to start: arguments of peftbench, or Python. Runs are on the packaged data."""
ASKS = """
from peftbench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""
COUNTED = "import sys\n{}\nprint(len(sys.modules))"


def cost(what: list[str] | str, package: Path) -> tuple[float, int]:
    """CPU seconds of the process, and modules that it had imported at its end."""
    with tempfile.TemporaryDirectory() as folder:
        code, words = (what, []) if isinstance(what, str) else (ASKS, [*what])
        if words and words != ["ls"]:
            words += ["task=demo_news", "tracking.wandb=disabled", f"out_dir={folder}"]
        environ = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", COUNTED.format(code), *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{what}: {done.stderr[-2000:]}")
    modules = int(done.stdout.split()[-1])
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each is started; the least counts")
    parser.add_argument("--against", type=Path, help="folder `src` of another checkout, to compare with")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of commands to start")
    args = parser.parse_args()

    here = Path(peftbench.__file__).parents[1]
    packages = {"this": here} | ({"other": args.against.resolve()} if args.against else {})
    chosen = {name: what for name, what in COMMANDS.items() if any(part in name for part in args.only)}
    runs: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for _ in range(args.rounds):
        for name, what in chosen.items():
            for which, package in packages.items():
                if which == "this" or not isinstance(what, str):
                    runs.setdefault((name, which), []).append(cost(what, package))

    print("| command | " + " | ".join(f"{which}, CPU s | {which}, modules" for which in packages) + " |")
    print("|---|" + "---:|---:|" * len(packages))
    for name in chosen:
        cells = [min(runs[name, which]) if (name, which) in runs else None for which in packages]
        print(f"| `{name}` | " + " | ".join(f"{c[0]:.2f} | {c[1]:,}" if c else "| " for c in cells) + " |", flush=True)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
