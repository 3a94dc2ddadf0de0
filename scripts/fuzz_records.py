"""Mutate records, sign them with a checksum that fits, and give every view to read: no traceback may come of it.

    python scripts/fuzz_records.py --records 1000 --seed 1

The records lie beside sound ones, a few mutants at a time. Prints what the views were given and what came of it; exit
code 1 if a view ended in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftbench.cli import main as peftbench
from peftbench.records.store import Store

BASE = [
    ["method=majority"],
    ["method=tfidf_lr"],
    ["method=lora", "model=tiny-bert", "trainer=debug", "trainer.steps=3", "trainer.device=cpu"],
]
COMMON = ["task=demo_news", "shots=2", "tracking.wandb=disabled"]
BATCH = 10
ODD: list[Any] = [
    None, True, 0, -1, 2**70, 1e400, float("nan"), 0.5, "", "x" * 5000, "\x00", "\ud800", "=1+1", "../../etc/passwd",
    [], [[]], [None], ["a", 1], {}, {"": ""}, {"a": {"b": {"c": [1]}}},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path to a value inside of `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutate(plain: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """A copy with one to three values replaced, removed, moved to another's place or nested."""
    plain = copy.deepcopy(plain)
    for _ in range(dice.randint(1, 3)):
        field = dice.choice([name for name in plain if name != "run_id"])
        *parents, key = dice.choice([(field,), *((field, *path) for path in places(plain[field]))])
        node: Any = plain
        for part in parents:
            node = node[part]
        act = dice.randrange(4)
        if act == 0:
            del node[key]
        elif act == 1:
            node[key] = [node[key]]
        else:
            node[key] = copy.deepcopy(dice.choice(ODD if act == 2 else list(plain.values())))
    return plain


def signed(plain: dict[str, Any]) -> bytes:
    """The bytes of a record with the checksum that fits."""
    body = json.dumps(plain).encode()[1:]
    return b'{\n  "checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body


def views(out_dir: Path, run_id: str) -> list[list[str]]:
    """The commands that read records."""
    folder = ["--out-dir", str(out_dir)]
    return [
        ["leaderboard", *folder],
        ["leaderboard", "--group", *folder],
        ["table", "example", *folder],
        ["compare", "majority", "tfidf_lr", *folder],
        ["plot", "pareto", "--out", str(out_dir / "plot.svg"), *folder],
        ["report", "--out", str(out_dir / "report.html"), *folder],
        ["status", *folder],
        ["ls", "runs", *folder],
        ["gc", *folder],
        ["reproduce", run_id, "--check", *folder],
    ]


def call(args: list[str]) -> str:
    """The traceback that a command ended in, or ""."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            peftbench(args)
        except SystemExit:
            pass
        except Exception:
            return traceback.format_exc()
    words = told.getvalue()
    return words if "Traceback" in words or "(traceback: " in words else ""


def fuzz(records: int, seed: int, home: Path, seconds: float = 1e9) -> tuple[Counter[str], list[str]]:
    """Counts of records, calls and tracebacks, and the tracebacks, each once."""
    dice, counts, found, deadline = random.Random(seed), Counter[str](), dict[str, None](), time.monotonic() + seconds
    store = Store(home)
    for args in BASE:
        call([*COMMON, *args, f"out_dir={home}"])
    sound = [record.to_dict() for record in store.all()]
    if len(sound) != len(BASE):
        raise SystemExit(f"only {len(sound)} of {len(BASE)} runs to mutate were made")
    while counts["records"] < records and time.monotonic() < deadline:
        names = [f"{dice.getrandbits(64):016x}" for _ in range(min(BATCH, records - counts["records"]))]
        for name in names:
            store.path(name).write_bytes(signed({**mutate(dice.choice(sound), dice), "run_id": name}))
        counts["records"] += len(names)
        for args in views(home, names[0]):
            counts["calls"] += 1
            if trace := call(args):
                counts["tracebacks"] += 1
                found.setdefault(f"{' '.join(args[:2])}: {trace}")
        counts["set aside"] += sum(not store.path(name).exists() for name in names)
        for name in names:
            store.path(name).unlink(missing_ok=True)
    return counts, list(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="start no further batch after this time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peftbench-fuzz-") as folder:
        counts, found = fuzz(options.records, options.seed, Path(folder) / "results", options.seconds)
    print("\n\n".join(found[:20]))
    print(", ".join(f"{counts[name]:,} {name}" for name in ("records", "set aside", "calls", "tracebacks")))
    return 1 if counts["tracebacks"] else 0


if __name__ == "__main__":
    sys.exit(main())
