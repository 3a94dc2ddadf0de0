"""Prove that none of the benchmark's texts is in the masked LM's training text.

    python scripts/check_mlm_overlap.py --text build/mlm-text --data DIR [--drop] [--json FILE]

Every run of 8 words (lower case, letters and digits only) of the training and held-out text is looked up in every file
below DIR. Training paragraphs that share one are listed; `--drop` takes them out of train.txt and heldout.txt, and the
check made again then finds none. Exit code 1 while there are any.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

RUN = 8
"""Words in a row that may not be shared."""
WORD = re.compile(r"[a-z0-9]+")
SUFFIXES = {".tsv", ".csv", ".txt", ".json", ".jsonl", ".xml"}
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def main() -> int:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder that mlm_text.py has written")
    parser.add_argument("--data", type=Path, required=True, help="folder with the benchmark's data sets")
    parser.add_argument("--drop", action="store_true", help="remove the paragraphs that share a run of words")
    parser.add_argument("--json", type=Path, help="write the counts there")
    args = parser.parse_args()
    files = sorted(f for f in args.data.rglob("*") if f.suffix in SUFFIXES)
    benchmark = np.unique(np.concatenate([runs(f.read_text(encoding="utf-8", errors="replace")) for f in files]))
    facts = {"words_in_a_row": RUN, "benchmark_files": len(files), "benchmark_runs": len(benchmark)}
    found = 0
    for name in ("train.txt", "heldout.txt"):
        lines = (args.text / name).read_text(encoding="utf-8").split("\n")[:-1]
        shared = [line for line in lines if contains(benchmark, runs(line.split("\t", 1)[1]))]
        facts[name] = {"paragraphs": len(lines), "sharing": len(shared)}
        found += len(shared)
        for line in shared[:20]:
            print(f"{name}: {line[:160]}", file=sys.stderr)
        if args.drop and shared:
            gone = set(shared)
            kept = [line for line in lines if line not in gone]
            (args.text / name).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    print(json.dumps(facts, indent=1))
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return int(found > 0)


def runs(text: str) -> np.ndarray:
    """One uint64 hash for every run of `RUN` words."""
    words = np.array([word_hash(word) for word in words_of(text)], dtype=np.uint64)
    if len(words) < RUN:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(len(words) - RUN + 1, dtype=np.uint64)
    for place in range(RUN):
        total = total * MULTIPLIER + words[place : place + len(total)]
    return total


def contains(benchmark: np.ndarray, found: np.ndarray) -> bool:
    """Whether any of `found` is in the sorted `benchmark`."""
    places = np.searchsorted(benchmark, found)
    return bool((benchmark[np.minimum(places, len(benchmark) - 1)] == found).any())


def words_of(text: str) -> Iterator[str]:
    """Lower-case words without punctuation."""
    return iter(WORD.findall(text.lower()))


_HASHES: dict[str, int] = {}


def word_hash(word: str) -> int:
    """A 64-bit number for a word; the same within a process, which is all that is needed."""
    if word not in _HASHES:
        _HASHES[word] = hash(word) & 0xFFFFFFFFFFFFFFFF
    return _HASHES[word]


if __name__ == "__main__":
    sys.exit(main())
