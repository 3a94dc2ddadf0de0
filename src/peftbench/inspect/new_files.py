"""Files of new rows: read as rows of columns, and written back with what a model answered. Free of torch."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.files import readable_errors, write_atomic
from peftbench.tasks.readers import read_csv, read_jsonl, read_parquet, read_quoted_tsv, read_text

Columns = dict[str, Any]
READERS = {".csv": read_csv, ".tsv": read_quoted_tsv, ".jsonl": read_jsonl, ".parquet": read_parquet}


def read_columns(name: str, text_column: str) -> tuple[list[int], list[Columns]]:
    """Lines, for messages, and columns of each row of a file by its ending; other endings, and `-` for the standard
    input, are one text a line.

    Raises:
        UsageError: the file cannot be read.
    """
    if name == "-":
        lines = sys.stdin.read().splitlines()
        return list(range(1, len(lines) + 1)), [{text_column: line} for line in lines]
    path = Path(name).expanduser()
    if not path.is_file():
        what = "is a folder; give one file" if path.is_dir() else "no such file"
        raise UsageError(f"--file {name}: {what}.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        lines = read_text(path).splitlines()
        return list(range(1, len(lines) + 1)), [{text_column: line} for line in lines]
    found = reader(path)  # type: ignore[operator]
    return [line for line, _ in found], [dict(row) for _, row in found]


def texts_of(
    name: str, lines: Sequence[int], rows: Sequence[Columns], text: str, pair: str | None, some: bool = False
) -> list[Columns]:
    """What a model is asked: `text`, `pair` and the row's other columns, which a pattern may place apart. `some`: rows
    may be without a second text.

    Raises:
        UsageError: there is no row or no such column, or a text is empty; the message names file and line.
    """
    if not rows:
        raise UsageError(f"{name}: no rows.")
    needed = {"--text-column": text} if some else {"--text-column": text, "--pair-column": pair}
    for option, column in needed.items():
        if column is not None and column not in rows[0]:
            raise UsageError(f"{name}: {option} {column}: no such column. {did_you_mean(column, map(str, rows[0]))}")
    asked = []
    for line, row in zip(lines, rows, strict=True):
        for column in filter(None, needed.values()):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise UsageError(f"{name}, line {line}: `{column}` is empty, and there is nothing to answer.")
        others = {key: value for key, value in row.items() if key not in (text, pair, "text", "pair")}
        asked.append({**others, "text": row[text], **({"pair": row[pair]} if pair and row.get(pair) else {})})
    return asked


def write_rows(rows: Sequence[Columns], output: str | None) -> None:
    """CSV, or JSON lines where the file's ending says so; to the standard output if there is no file.

    Raises:
        UsageError: the folder cannot be written to, or the ending is neither.
    """
    if output is None:
        sys.stdout.write(to_csv(rows))
        return
    path = Path(output).expanduser()
    as_json = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with readable_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (as_json if path.suffix == ".jsonl" else to_csv(rows)).encode("utf-8", "surrogatepass"))


def check_output(output: str | None) -> None:
    """Raises UsageError, before anything is loaded, for a file of no known format."""
    if output is not None and Path(output).suffix not in (".csv", ".jsonl"):
        raise UsageError(f"--output {output}: its name must end in .csv or .jsonl.")


def to_csv(rows: Sequence[Columns]) -> str:
    """All columns of all rows, in the order of their first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
