"""One run, timed the way many boards do beside the way we do: writes docs/cost-honesty.md.

    python scripts/cost_honesty.py [OVERRIDE ...]

Each method runs once in a process of its own. Clocks that other harnesses put around the trainer, the script or the
command run beside our phase clock, on the very same run, so they differ in nothing but what they enclose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from importlib import import_module
from pathlib import Path
from typing import Any

METHODS = ("head_only", "lora", "full")
OVERRIDES = ("task=demo_news", "model=minilm", "shots=10", "trainer.steps=40", "trainer.threads=1")
PAGE = Path(__file__).parents[1] / "docs" / "cost-honesty.md"
ENCLOSED = {
    "ours": "training alone: `seconds.train`, `cpu_seconds.train` of the record",
    "trainer": "around the trainer's call: tokenising, a probe of memory, evaluations on dev are in it",
    "script": "around the script after its imports: data, loading of the model, evaluation on test, saving too",
    "command": "around the command: the imports too",
}

READ = {
    "saved": "kept for backward in a step: `memory.saved_bytes`, the same on every machine",
    "ours": "growth of the resident set in training: `memory.train_peak_mib`",
    "end": "resident set of the process at its end",
}


def main() -> None:
    """Run every method and write the page."""
    overrides = sys.argv[1:] or list(OVERRIDES)
    measured = {method: measure(method, overrides) for method in METHODS}
    PAGE.write_text(page(measured, overrides), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def measure(method: str, overrides: list[str]) -> dict[str, Any]:
    """One run in a fresh process; its clocks and memory."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            f"method={method}",
            f"out_dir={folder}",
            *overrides,
            "tracking.wandb=disabled",
            "trainer.progress=false",
        ]
        command = [sys.executable, __file__, "--child", *arguments]
        began = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        wall = time.perf_counter() - began
    found = json.loads(done.stdout.splitlines()[-1])
    found["clocks"]["command"] = [wall, found["clocks"].pop("process")[1]]
    return found


def child(overrides: list[str]) -> None:
    """The run itself, with clocks around it; prints JSON."""
    from peftbench import runner, session
    from peftbench.config import compose
    from peftbench.tasks import data_dir, load_task

    cfg = compose(overrides)
    for module in session.needed_modules(cfg, load_task(cfg.task, data_dir(cfg))):
        import_module(module)
    clocks: dict[str, list[float]] = {}
    runner.get_stage = clocked(runner.get_stage, clocks)
    before = now()
    record, _ = runner.run(cfg)
    clocks["script"] = since(before)
    assert record is not None
    clocks["ours"] = [record.seconds["train"], record.cpu_seconds["train"]]
    clocks["process"] = [0.0, time.process_time()]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    memory = {
        "ours": record.memory["train_peak_mib"],
        "end": resident,
        "saved": (record.memory["saved_bytes"] or 0) / 2**20,
    }
    print(json.dumps({"clocks": clocks, "memory": memory, "score": record.score}))


def clocked(get_stage: Any, clocks: dict[str, list[float]]) -> Any:
    """`get_stage` whose stages are timed from outside, as a harness times `trainer.train()`."""

    def get(name: str) -> Any:
        stage = get_stage(name)

        def timed(*arguments: Any) -> Any:
            before = now()
            result = stage(*arguments)
            clocks["trainer"] = since(before)
            return result

        return timed

    return get


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(before: tuple[float, float]) -> list[float]:
    return [after - start for start, after in zip(before, now(), strict=True)]


def page(measured: dict[str, Any], overrides: list[str]) -> str:
    """The page in Markdown."""
    least, others = METHODS[0], METHODS[1:]
    made = f"Made by `make cost-honesty` (`scripts/cost_honesty.py`): {', '.join(METHODS)} once each with "
    made += (
        f"`{' '.join(overrides)}` on a shared CPU. The rows are clocks on the *same* runs; they differ in what they "
    )
    parts = [
        "# What a clock encloses",
        prose(made + "enclose."),
        "## Time",
        prose(f"CPU seconds (wall seconds in brackets), and how many times as dear as {least} a method then looks."),
        table(["the clock stands", *METHODS, *(f"{m} / {least}" for m in others)], time_rows(measured)),
        prose(reading_of_time(measured)),
        "## Memory",
        table(["MiB", *METHODS, f"{METHODS[-1]} / {least}"], memory_rows(measured)),
        prose(reading_of_memory(measured)),
    ]
    return "\n\n".join(parts) + "\n"


def time_rows(measured: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, words in ENCLOSED.items():
        spent = [measured[m]["clocks"][name] for m in METHODS]
        ratios = [f"{cpu / spent[0][1]:.1f}" for _, cpu in spent[1:]]
        rows.append([words, *(f"{cpu:.1f} ({wall:.1f})" for wall, cpu in spent), *ratios])
    return rows


def memory_rows(measured: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, words in READ.items():
        values = [measured[m]["memory"][name] for m in METHODS]
        ratio = f"{values[-1] / values[0]:,.1f}" if values[0] else ""
        rows.append([words, *(f"{v:,.1f}" for v in values), ratio])
    return rows


def reading_of_time(measured: dict[str, Any]) -> str:
    """What the first table says, in its own numbers."""
    low, high = METHODS[0], METHODS[-1]
    ours, command = (measured[high]["clocks"][n][1] / measured[low]["clocks"][n][1] for n in ("ours", "command"))
    own = measured[low]["clocks"]
    share = f"Of {low}'s {own['command'][1]:.1f} CPU seconds {own['ours'][1]:.1f} are training; "
    return (
        f"Training {high} costs {ours:.1f} times what {low} costs; a clock around the command says {command:.1f}. "
        + share
        + "what the rest is spent on depends little on the method, so it hides the difference. None of the clocks is "
        "wrong: a table has to say which it shows. Our records hold every phase."
    )


def reading_of_memory(measured: dict[str, Any]) -> str:
    """What the second table says, in its own numbers."""
    low, high = (measured[m]["memory"] for m in (METHODS[0], METHODS[-1]))
    end, ours = high["end"] / low["end"], high["ours"] / max(low["ours"], 0.1)
    return (
        "The resident set at the end holds weights, libraries and whatever the allocators kept of any phase: "
        f"{METHODS[-1]} has {end:.1f} times that of {METHODS[0]}, where the memory that training itself needs differs "
        f"{ours:.1f} times. What a GPU's caching allocator has reserved at the end is such a number too: the largest "
        "evaluation batch counts in it as much as training. Our records hold allocated and reserved memory by phase "
        "([measuring](measuring.md))."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False)


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
