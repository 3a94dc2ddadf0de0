"""What a run answered for each test item: one JSON line an item, in test order."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from peftbench.errors import UsageError
from peftbench.files import read_file, readable_errors, write_atomic
from peftbench.records.record import plain

if TYPE_CHECKING:
    from peftbench.formulations.predictions import Prediction
    from peftbench.tasks.base import Row

PROMPTS = "prompts.jsonl.xz"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a predictions file.

    Attributes:
        id: the row's id in the task.
        target: the right answer.
        prediction: the answer given; None when it could not be read as an answer (counted as wrong).
        scores: label -> score, where the formulation has scores.
        answer: the raw text that a generating model wrote.
        group: of the row, if it has one: rows that depend on each other (answers to one question).
        source: the row's text, where the metrics of its kind look at it.
    """

    id: str
    target: Any
    prediction: Any
    scores: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
    group: str | None = None
    source: str | None = None


def write_predictions(
    folder: Path,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    name: str = "predictions.jsonl",
    sourced: bool = False,
) -> dict[str, Any]:
    """Write `folder/name`, whole or not at all; returns `file`, `sha256`, `count`, `invalid` for the record.

    Args:
        folder: the run's.
        rows: the test rows, in the order of the file.
        predictions: exactly one a row, in any order.
        sourced: the rows' texts are kept, too.

    Raises:
        ValueError: a row was answered twice or not at all, or an answer belongs to no row.
    """
    answers = {prediction.id: prediction for prediction in predictions}
    if len(answers) != len(predictions) or answers.keys() != {row.id for row in rows} or len(answers) != len(rows):
        wrong = sorted(answers.keys() ^ {row.id for row in rows})[:3] or "an id appears twice"
        raise ValueError(f"{len(predictions)} predictions do not fit {len(rows)} test rows ({wrong})")
    items = [_item(answers[row.id], row, row.text if sourced else None) for row in rows]
    content = b"".join(line_of(item) for item in items)
    write_atomic(folder / name, content)
    return {
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "count": len(items),
        "invalid": sum(item.prediction is None for item in items),
    }


def write_prompts(folder: Path, prompts: Mapping[str, str]) -> dict[str, Any]:
    """Write `folder/prompts.jsonl.xz`, a line with id, SHA-256 and text for each row's prompt; `file`, `sha256` and
    `count` for the record, `{}` without prompts.

    Args:
        prompts: row id -> what a model was asked.
    """
    if not prompts:
        return {}
    hashed = {row: hashlib.sha256(text.encode()).hexdigest() for row, text in prompts.items()}
    lines = ({"id": row, "sha256": hashed[row], "text": text} for row, text in prompts.items())
    content = lzma.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), preset=1)
    write_atomic(folder / PROMPTS, content)
    return {"file": PROMPTS, "sha256": hashlib.sha256(content).hexdigest(), "count": len(prompts)}


def read_prompts(path: Path, sha256: str | None = None) -> dict[str, str]:
    """Row id -> prompt.

    Raises:
        UsageError: the file is missing, damaged, or not the one with this hash.
    """
    try:
        lines = lzma.decompress(_checked_bytes(path, sha256)).splitlines()
        return {line["id"]: line["text"] for line in map(json.loads, lines)}
    except (lzma.LZMAError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a file of prompts ({error}).") from error


def read_predictions(path: Path, sha256: str | None = None) -> list[Item]:
    """The items of a file, in test order.

    Raises:
        UsageError: the file is missing, or it is not the one with this hash (as the record has it).
    """
    content = _checked_bytes(path, sha256)
    items = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            items.append(Item(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}, line {number}: not a prediction ({error}).") from error
    return items


class Columns(NamedTuple):
    """The columns of a file that statistics need, in one order."""

    ids: list[str]
    targets: list[Any]
    groups: list[str | None]
    predictions: list[Any]
    sources: list[str | None]


def read_columns(path: Path, sha256: str | None = None) -> Columns:
    """Columns of a file, in test order, at a third of the cost of whole items.

    Raises:
        UsageError: as `read_predictions`.
    """
    content = _checked_bytes(path, sha256)
    try:
        rows = json.loads(b"[" + b",".join(content.splitlines()) + b"]")
        return Columns(
            [row["id"] for row in rows],
            [row["target"] for row in rows],
            [row.get("group") for row in rows],
            [row["prediction"] for row in rows],
            [row.get("source") for row in rows],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a file of predictions ({error}).") from error


def _checked_bytes(path: Path, sha256: str | None) -> bytes:
    with readable_errors("read", path):
        content = read_file(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(f"{path} is not what the run wrote (its SHA-256 differs). Repeat the run with `rerun=true`.")
    return content


def _item(prediction: Prediction, row: Row, source: str | None) -> Item:
    label = prediction.label
    if isinstance(label, float) and not math.isfinite(label):
        label = None  # a regression that gave NaN has no answer
    # nine digits hold a float32 exactly
    scores = {name: float(f"{score:.9g}") for name, score in prediction.scores.items()}
    return Item(prediction.id, row.target, label, scores, prediction.answer, row.group, source)


def line_of(item: Item) -> bytes:
    """The line of one item in a predictions file."""
    fields = {name: plain(getattr(item, name)) for name in Item.__dataclass_fields__}
    for name in ("group", "source"):
        if fields[name] is None:
            del fields[name]  # most tasks have none
    return json.dumps(fields, allow_nan=False).encode() + b"\n"
