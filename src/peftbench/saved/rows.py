"""New rows to answer, from what a caller has: texts, pairs of texts, mappings, or rows of a task. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.records.manifest import Manifest
from peftbench.tasks.base import Row
from peftbench.tasks.lowercase import lower_row


def new_rows(data: Iterable[Any], manifest: Manifest) -> list[Row]:
    """The rows that a model is asked about; those of a task come as they are.

    Args:
        data: texts; pairs of texts (tuples or lists); mappings with `text`, for a pair task `pair`, for experts by
            domain and the parts of a mixture `domain` (their other keys are parts that a pattern may place apart); or
            `Row`s. A DataFrame is read by its rows.

    Raises:
        UsageError: something is none of these, a text is empty, or there are pairs where the task has single texts or
            the other way round.
    """
    if isinstance(data, str | Mapping):
        raise UsageError("predict wants a list of texts, not one: give it [text].")
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a DataFrame, without importing pandas
        data = data.to_dict("records")
    lowercase = manifest["task"].get("lowercase")
    rows = [item if isinstance(item, Row) else lower_row(_row(item, n), lowercase) for n, item in enumerate(data)]
    for number, row in enumerate(rows):
        if not row.text.strip():
            raise UsageError(f"row {number}: the text is empty.")
        fields = _fields(row, number, manifest)
        if row.pair is None and fields:
            raise UsageError(f"row {number}: the task has pairs of texts ({', '.join(fields)}); give (text, pair).")
        if row.pair is not None and not fields:
            raise UsageError(f"row {number}: the task has single texts; give one text a row.")
    return rows


def _fields(row: Row, number: int, manifest: Manifest) -> list[str]:
    """The names of both texts of a row that has to have two, else none."""
    task = manifest["task"]
    parts = (task.get("mixture") or {}).get("parts")
    if not parts:
        return task["fields"] if manifest["pairs"] else []
    if row.domain not in parts:
        known = did_you_mean(str(row.domain or ""), parts)
        raise UsageError(f"row {number}: `domain` has to say which part of {task['name']} it is asked for. {known}")
    fields = parts[row.domain]["fields"]
    return fields if len(fields) > 1 else []


def _row(item: Any, number: int) -> Row:
    name = f"new:{number}"
    if isinstance(item, str):
        return Row(name, item, None)
    if isinstance(item, Mapping):
        given = {str(key): value for key, value in item.items()}
        if not isinstance(given.get("text"), str):
            raise UsageError(f"row {number}: no `text` among {', '.join(given) or 'nothing'}, or it is no text.")
        own = ("text", "pair", "domain")
        parts = {key: value for key, value in given.items() if key not in own and isinstance(value, str)}
        return Row(name, given["text"], None, given.get("pair"), parts=parts or None, domain=given.get("domain"))
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return Row(name, item[0], None, pair=item[1])
    raise UsageError(
        f"row {number}: neither a text, a pair of texts nor a mapping: {type(item).__name__} {item!r:.60}."
    )
