#!/usr/bin/env python
"""A copy of a task's data with fewer test rows, for comparisons that a CPU must finish.

    python scripts/fewer_test_rows.py DATA few_rows --rows 200 glue/SST-2/dev.tsv
    python scripts/fewer_test_rows.py DATA few_rows --rows 200 --quoted masakhanews/eng/test.tsv
    PEFTBENCH_DATA=few_rows peftbench table ppo-nlu --run

Each named file (tab-separated, with a header) keeps so many rows, drawn by chance, always the same ones, in
their order; the other files of its folder are copied whole. Records of such runs say how many rows test has, and have
another data hash than those of the whole test set.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from pathlib import Path


def records(lines: list[str], quoted: bool) -> list[str]:
    """The file's records, each with its line ends; `quoted`: a field in quotes may hold some."""
    if not quoted:
        return lines
    reader, found, start = csv.reader(lines, delimiter="\t"), [], 0
    for _ in reader:
        found.append("".join(lines[start : reader.line_num]))
        start = reader.line_num
    return found


def sampled(lines: list[str], rows: int) -> list[str]:
    """The header and `rows` of the other records, in their order."""
    header, *body = lines
    kept = sorted(random.Random(0).sample(range(len(body)), min(rows, len(body))))
    return [header, *(body[place] for place in kept)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of data sets (PEFTBENCH_DATA)")
    parser.add_argument("target", type=Path, help="where the copies go")
    parser.add_argument("files", nargs="+", help="test files below DATA")
    parser.add_argument("--rows", type=int, default=200, help="of each file, at most; default: %(default)s")
    parser.add_argument("--quoted", action="store_true", help="fields in quotes may hold line ends (MasakhaNEWS)")
    args = parser.parse_args()
    for name in args.files:
        source, target = args.data / name, args.target / name
        shutil.copytree(source.parent, target.parent, dirs_exist_ok=True, copy_function=shutil.copyfile)
        with source.open(encoding="utf-8", newline="") as file:
            lines = records(file.readlines(), args.quoted)
        kept = sampled(lines, args.rows)
        with target.open("w", encoding="utf-8", newline="") as file:
            file.writelines(kept)
        print(f"{target}: {len(kept) - 1} of {len(lines) - 1} rows")


if __name__ == "__main__":
    main()
