"""What the page of one run shows beyond its row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.records.naming import flat
from peftbench.records.predictions import Item, read_predictions, read_prompts
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tasks.problems import Problem, kinds

MOST_ERRORS = 100
CANDIDATES = "candidates.jsonl"
"""What the stage `prompt_search` leaves in a run's folder."""
NO_LABEL = "(no label)"

Data = dict[str, Any]


def detail(store: Store, record: Record) -> Data:
    """Everything of a record that a reader may ask for; predictions as a confusion matrix and the errors."""
    items, problem = _items(store, record)
    kind = kinds().get(record.data.get("problem") or "", kinds()["classification"])
    return {
        "scores": record.scores,
        "dev_score": record.dev_score,
        "reason": record.reason,
        "seconds": record.seconds,
        "memory": record.memory,
        "compute": record.compute,
        "parameters": record.parameters,
        "stages": stage_rows(record.stages),
        "draw": {k: v for k, v in record.draw.items() if k not in ("notes", "ids")},
        "lr": record.lr,
        "curves": {name: [_short(v) for v in values] for name, values in record.curves.items()},
        "diagnosis": record.diagnosis,
        "environment": record.environment,
        "notes": [*record.notes, *problem],
        "config": dict(flat(record.config)),
        "command": f"peftbench reproduce {record.run_id}",
        "confusion": (counted := confusion(items, record.data.get("labels") or ())),
        "classes": by_class(counted) if counted else by_label(items, kind),
        **errors(items, kind, _prompts(store, record)),
        "candidates": candidates(store.folder(record.run_id) / CANDIDATES),
    }


def candidates(path: Path) -> list[list[Any]]:
    """The prompts that a search tried: number, parent, part, operator, batch before and after, dev, p of the difference
    on dev, kept, why it was not asked, the whole prompt. Empty without a search."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [_candidate(line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _candidate(line: Data) -> list[Any]:
    before, after = line["batch"] or (None, None)
    parts = [f"[{name}] {text}" for name, text in line["sections"].items()]
    shown = [f"[examples] {', '.join(line['examples'])}"] if line["examples"] else []
    facts = [line["number"], line["parent"], line["section"], line["operator"], _short(before), _short(after)]
    ends = [_short(line["dev"]), _short(line["dev_p"]), "kept" if line["kept"] else line["reason"]]
    return [*facts, *ends, "\n".join(parts + shown)]


def stage_rows(stages: Sequence[Data]) -> list[list[Any]]:
    """A line a stage and, indented, a line a part: name, seconds, steps, tokens, teachers, unlabelled passes, peak MiB
    of training. Empty if the run has one stage in one piece, whose costs are the run's."""
    if len(stages) < 2 and not any(stage.get("parts") for stage in stages):
        return []
    return [row for stage in stages for row in _stage_rows(stage, "")]


def _stage_rows(stage: Data, indent: str) -> list[list[Any]]:
    seconds = sum(spent or 0.0 for spent in stage["seconds"].values())
    counts = [stage["steps"], *(stage.get(name, 0) for name in ("tokens", "teachers", "unlabeled_passes"))]
    peak = _short(stage.get("memory", {}).get("train_peak_mib"))
    parts = (row for part in stage.get("parts", ()) for row in _stage_rows(part, f"{indent}\u2003"))
    return [[indent + stage["name"], _short(seconds), *counts, peak], *parts]


def confusion(items: Sequence[Item], labels: Sequence[str]) -> Data | None:
    """`labels` and `counts` [target, prediction]; None where targets are no labels."""
    if not items or not all(isinstance(i.target, str) for i in items):
        return None
    names = list(labels) or sorted({i.target for i in items})
    answers = [NO_LABEL if i.prediction is None else str(i.prediction) for i in items]
    columns = [*names, *sorted(set(answers) - set(names))]
    counted = Counter(zip((i.target for i in items), answers, strict=True))
    return {"labels": names, "columns": columns, "counts": [[counted[t, p] for p in columns] for t in names]}


def by_class(confusion: Data) -> list[list[Any]]:
    """For each label: its name, test items, precision, recall and F1 in percent (None: nothing to count)."""
    counts = confusion["counts"]
    return [
        _class_row(label, counts[i][i], sum(row[i] for row in counts), sum(counts[i]))
        for i, label in enumerate(confusion["labels"])
    ]


def by_label(items: Sequence[Item], kind: Problem) -> list[list[Any]]:
    """The same for targets that hold several labels; empty if the kind says nothing of them."""
    sums: dict[str, list[int]] = {}
    for item in items if kind.by_label else ():
        for label, counts in kind.by_label(item.target, item.prediction).items():  # type: ignore[misc]
            sums[label] = [a + b for a, b in zip(sums.get(label, (0, 0, 0)), counts, strict=True)]
    return [_class_row(label, *counts) for label, counts in sorted(sums.items())]


def _class_row(label: str, right: int, answered: int, true: int) -> list[Any]:
    ratios = ((right, answered), (right, true), (2 * right, answered + true))
    return [label, true, *(_short(100 * a / b) if b else None for a, b in ratios)]


def errors(items: Sequence[Item], kind: Problem, prompts: Mapping[str, str] | None = None) -> Data:
    """`errors`: the wrong answers, the surest first, [id, target, prediction, margin, text written, prompt]; `wrong`:
    how many.

    The margin is the score of the answer less that of the target; None if the model gives no scores.
    """
    wrong = [i for i in items if not kind.is_right(i.target, i.prediction)]
    wrong.sort(key=lambda i: -(_margin(i) or 0.0))
    asked, show = prompts or {}, kind.show
    rows = [
        [
            i.id,
            _text(i.target, show),
            _text(i.prediction, show),
            _short(_margin(i)),
            i.answer,
            asked.get(i.id, i.source),
        ]
        for i in wrong[:MOST_ERRORS]
    ]
    return {"errors": rows, "wrong": len(wrong), "items": len(items)}


def _items(store: Store, record: Record) -> tuple[list[Item], list[str]]:
    """The predictions, or a note on why they are not there."""
    name = record.predictions.get("file")
    if not name:
        return [], []
    try:
        return read_predictions(store.folder(record.run_id) / name, record.predictions.get("sha256")), []
    except UsageError as error:
        return [], [f"no predictions: {error}"]


def _prompts(store: Store, record: Record) -> dict[str, str]:
    """What was asked; empty if it was not kept, or cannot be read."""
    kept = record.predictions.get("prompts") or {}
    try:
        return read_prompts(store.folder(record.run_id) / kept["file"], kept.get("sha256")) if kept.get("file") else {}
    except UsageError:
        return {}


def _margin(item: Item) -> float | None:
    if not isinstance(item.prediction, str) or item.prediction not in item.scores or item.target not in item.scores:
        return None
    return item.scores[item.prediction] - item.scores[item.target]


def _text(value: Any, show: Callable[[Any], str]) -> str:
    return NO_LABEL if value is None else show(value)


def _short(value: Any) -> Any:
    """Five digits are enough for a curve."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
