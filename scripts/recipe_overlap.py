"""Count how much of what recipes have made stands in evaluation texts, by another way than the one that kept it out.

    python scripts/recipe_overlap.py --out-dir results --data-dir DATA

Of each run with made rows (`made.jsonl`): how many were kept, and how many of these share 30 characters in a row with a
text of the task's official dev or test split, case and white space apart. All made rows are counted, too, a sign that
the count finds what there is. The exit code is 1 if a kept row shares any.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import peftbench
from peftbench.config.load import from_plain
from peftbench.tasks import load_task

LENGTH = 30


def main() -> int:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-dir", type=Path, default=Path("results"))
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    known: dict[str, set[str]] = {}
    wrong = 0
    for path in sorted(options.out_dir.glob("runs/*/made.jsonl")):
        record = peftbench.load_run(path.parent.name, out_dir=options.out_dir).record
        task = from_plain(record.config).task
        name = f"{task.name}/{task.subset}"
        if name not in known:
            data = load_task(task, options.data_dir)
            known[name] = {run for row in (*data.dev, *data.test) for run in runs(row.whole)}
        made = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        kept = [row for row in made if row["dropped"] is None]
        shared, found = (sum(shares(row, known[name]) for row in rows) for rows in (kept, made))
        wrong += shared
        recipe = record.config["recipe"]["name"]
        print(
            f"{record.run_id} {recipe} {name}: {len(kept)} of {len(made)} kept, {shared} of them share {LENGTH} "
            f"characters with one of the evaluation texts; of all made {found}"
        )
    return int(wrong > 0)


def runs(text: str) -> set[str]:
    """All runs of `LENGTH` characters of a text."""
    plain = " ".join(text.casefold().split())
    return {plain[start : start + LENGTH] for start in range(len(plain) - LENGTH + 1)}


def shares(row: dict[str, str], known: set[str]) -> bool:
    """Whether what is trained on of a made row has a run that is known: its text, and of a pair (which has a domain:
    its template or sub-task) the answer, too."""
    pair = row["domain"] is not None
    return not known.isdisjoint(runs(f"{row['text']} {row['target']}" if pair else row["text"]))


if __name__ == "__main__":
    raise SystemExit(main())
