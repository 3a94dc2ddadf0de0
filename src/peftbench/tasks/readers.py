"""The file formats that benchmark data comes in, each read the one way that loses nothing.

Every reader returns a list of `(line, record)`: the 1-based physical line on which the record starts, for error
messages, and a dict. Cells stay strings: "N/A", "null" and "None" are text. A damaged file is a `UsageError` that
names the file and the line; no reader ever skips a row.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.files import open_file, read_file
from peftbench.hub import is_cached

Records = list[tuple[int, dict[str, str]]]

DEEPEST = 50
"""Levels of nesting that data in JSON may have; what walks through it later does so by recursion."""

csv.field_size_limit(1 << 30)  # the default of 128 KiB is shorter than some articles


NO_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32 text. Convert it: iconv -f UTF-32 -t UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32 text. Convert it: iconv -f UTF-32 -t UTF-8",
    codecs.BOM_UTF16_LE: (
        "UTF-16 text, as spreadsheets save `Unicode text`. Save it as UTF-8 (`CSV UTF-8`), or convert it: "
        "iconv -f UTF-16 -t UTF-8"
    ),
    codecs.BOM_UTF16_BE: "UTF-16 text. Convert it: iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "compressed by gzip. Unpack it with gunzip, or let its name end in .gz",
    b"PK\x03\x04": "a zip archive or a spreadsheet's own format. Unpack it, or save it as CSV UTF-8",
    b"PAR1": "parquet. Let its name end in .parquet",
}
"""How files begin that are no text as it is read here -> what they are, and what to do."""


def read_text(path: Path) -> str:
    """The file as text, without a leading byte-order mark and without blank lines at its end; `.gz` is unpacked."""
    try:
        data = gzip.decompress(read_file(path)) if path.suffix == ".gz" else read_file(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: not a whole gzip file ({error}). Fetch it again.") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    for start, what in NO_TEXT.items():
        if data.startswith(start):
            raise UsageError(f"{path}: {what}.")
    nul = data.find(b"\0")
    if nul >= 0:
        raise UsageError(
            f"{_at(path, data, nul)}: binary data (a NUL byte), not a text file. Fetch it again, or convert it to "
            "UTF-8 if it is UTF-16."
        )
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        # utf-8-sig counts positions from behind the byte-order mark, which holds no line end
        raise UsageError(
            f"{_at(path, data, error.start)}: not UTF-8 text ({error.reason}). Convert or fetch the file again."
        ) from error
    if not text.strip():
        raise UsageError(f"{path}: the file is empty. Fetch it again, or point data_dir at a complete copy.")
    return text


def read_quoted_tsv(path: Path, require: Sequence[str] = (), names: Sequence[str] | None = None) -> Records:
    """Tab-separated values in which a quoted field may hold tabs, quotes and line ends (MasakhaNEWS, LM-BFF).

    Args:
        path: the file.
        require: columns that have to be there.
        names: the columns of a file without a header line; None reads them from the first line.
    """
    return _records(path, csv_rows(path, "\t"), require, names)


def read_csv(path: Path, names: Sequence[str] | None = None, require: Sequence[str] = ()) -> Records:
    """Comma-separated values with the usual quoting; arguments as in `read_quoted_tsv`."""
    return _records(path, csv_rows(path, ","), require, names)


def read_unquoted(path: Path, delimiter: str, names: Sequence[str] | None, require: Sequence[str] = ()) -> Records:
    """Values in which a quote is a character like any other and a line is a row; arguments as in `read_quoted_tsv`."""
    return _records(path, csv_rows(path, delimiter, "none"), require, names)


def read_glue_tsv(path: Path, header: bool | Sequence[str] = True, require: Sequence[str] = ()) -> Records:
    """GLUE's tab-separated values: a quote is a character like any other, and a line is a row.

    Args:
        path: the file.
        header: True if the first line names the columns, else the names.
        require: columns that have to be there.
    """
    return read_unquoted(path, "\t", None if header is True else list(header or ()), require)


def read_jsonl(path: Path, require: Sequence[str] = (), blank: bool = False) -> list[tuple[int, dict[str, Any]]]:
    """One JSON object a line; with `blank`, empty lines are passed over.

    Lines end at a line feed only: U+2028 and U+0085 occur inside texts.
    """
    records = []
    for number, line in _lines(read_text(path)):
        if blank and not line.strip():
            continue
        record = parse_json(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise UsageError(f"{path}, line {number}: a JSON object is expected, found {type(record).__name__}.")
        _check_columns(path, number, record, require)
        records.append((number, record))
    return records


def parse_json(text: str, where: str) -> Any:
    """JSON whose texts can be encoded: half of an emoji (`\\ud83d`), as cut exports have it, is refused."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not valid JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise UsageError(f"{where}: not usable JSON ({str(error)[:80]}).") from error
    if text.count("[") + text.count("{") > DEEPEST and _deeper(value, DEEPEST):
        raise UsageError(f"{where}: not usable JSON (nested more than {DEEPEST} levels deep).")
    try:
        if "\\ud" in text.lower():  # the one way for half a character to get into UTF-8 text
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UsageError(
            f"{where}: half of an emoji (\\u{ord(half):04x}) stands alone, as where a text was cut. "
            "Write the whole character, or \\ufffd."
        ) from error
    return value


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand in one another more than so many levels deep."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            inner
            for item in layer
            if isinstance(item, list | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(layer)


def read_parquet(path: Path, require: Sequence[str] = ()) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a parquet file from the hub; the number beside a record is its 1-based row."""
    from pyarrow import ArrowException, parquet

    try:
        with open_file(path) as file:
            table = parquet.read_table(file)
        records = table.to_pylist()
    except (ArrowException, OSError, ValueError) as error:  # ValueError: text that is no UTF-8
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: not a readable parquet file ({reason}). {_other_copy(path)}") from error
    _check_columns(path, 1, table.column_names, require)
    if not records:
        raise UsageError(f"{path}: columns but no rows. {_other_copy(path)}")
    return list(enumerate(records, start=1))


def _other_copy(path: Path) -> str:
    """What helps where a file is no use. One in the hub's cache was compared with the hub's hash: it is so there."""
    if is_cached(path):
        return "It is so on the hub: read another commit (task.hub.revision=COMMIT), or give data_dir=FOLDER."
    return "Fetch it again, or point data_dir at a complete copy."


def place(path: Path, line: int) -> str:
    """Where a record stands, in the words of a message: parquet files have rows, and may be the hub's."""
    if path.suffix != ".parquet":
        return f"{path}, line {line}"
    return f"row {line} of the hub's file {path}" if is_cached(path) else f"{path}, row {line}"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines without their line ends."""
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, line.removesuffix("\r")


def csv_rows(path: Path, delimiter: str, quoting: str = "csv") -> Iterator[tuple[int, list[str]]]:
    """Numbered rows; with `quoting="none"` a quote is a character and a line is a row. Otherwise `strict`, so
    that a quote which is never closed is an error and not one giant last field."""
    if quoting == "none":
        yield from ((number, line.split(delimiter)) for number, line in _lines(read_text(path)))
        return
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}, line {start}: broken quoting in the row that starts here ({error}).") from error


def _records(
    path: Path, rows: Iterator[tuple[int, list[str]]], require: Sequence[str], names: Sequence[str] | None
) -> Records:
    if names is None:
        line, names = next(rows)
        _check_columns(path, line, names, require)
        if len(set(names)) < len(names):
            raise UsageError(f"{path}, line {line}: two columns have the same name. Found: {', '.join(names)}.")
    records = []
    for line, row in rows:
        if len(row) != len(names):
            raise UsageError(
                f"{path}, line {line}: {len(row)} field{'s' * (len(row) != 1)} where {len(names)} are expected "
                f"({', '.join(names)}). A tab, comma or quote is missing or too many."
            )
        records.append((line, dict(zip(names, row, strict=True))))
    if not records:
        raise UsageError(f"{path}: a header but no rows. Fetch the file again, or point data_dir at a complete copy.")
    return records


def _check_columns(path: Path, line: int, found: Any, require: Sequence[str]) -> None:
    missing = [name for name in require if name not in found]
    if missing:
        raise UsageError(
            f"{place(path, line)}: column{'s' * (len(missing) > 1)} {', '.join(f'`{name}`' for name in missing)} "
            f"missing. Found: {', '.join(found) or 'none'}."
        )


def _at(path: Path, data: bytes, position: int) -> str:
    return f"{path}, line {data.count(bytes([10]), 0, position) + 1}"
