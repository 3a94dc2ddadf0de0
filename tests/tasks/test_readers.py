"""Each trap of the original formats, on a few rows written here."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.config import user_files
from peftbench.errors import UsageError
from peftbench.formulations.label_words import read_words
from peftbench.tasks import readers
from peftbench.tasks.readers import read_csv, read_glue_tsv, read_jsonl, read_parquet, read_quoted_tsv

READERS = [read_quoted_tsv, read_csv, read_glue_tsv, read_jsonl]


def write(folder: Path, content: str | bytes, name: str = "data") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_quoted_tsv_keeps_tabs_newlines_and_quotes_inside_fields(tmp_path):
    path = write(tmp_path, 'category\ttext\nhealth\t"one\n\ttwo ""three"""\nsports\tfour\n')
    assert read_quoted_tsv(path) == [
        (2, {"category": "health", "text": 'one\n\ttwo "three"'}),
        (4, {"category": "sports", "text": "four"}),
    ]


def test_glue_tsv_takes_a_quote_as_a_character(tmp_path):
    path = write(tmp_path, 'sentence\tlabel\n"Open quote\t1\nclose" quote\t0\n')
    assert [record["sentence"] for _, record in read_glue_tsv(path)] == ['"Open quote', 'close" quote']


def test_glue_tsv_without_header_and_without_final_newline(tmp_path):
    path = write(tmp_path, "gj04\t1\t\tThe cat sat.\ngj04\t0\t*\tCat the sat.")
    records = read_glue_tsv(path, header=["source", "label", "star", "sentence"])
    assert records[1] == (2, {"source": "gj04", "label": "0", "star": "*", "sentence": "Cat the sat."})
    assert records[0][1]["star"] == ""


def test_byte_order_mark_is_not_part_of_the_first_column_name(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfQuality\t#1 ID\n1\t702876\n")
    for reader in (read_glue_tsv, read_quoted_tsv):
        assert reader(path, require=["Quality", "#1 ID"]) == [(2, {"Quality": "1", "#1 ID": "702876"})]


def test_byte_order_mark_inside_a_text_stays(tmp_path):
    path = write(tmp_path, "text\nwar\ufeffka\u200b\n")
    assert read_quoted_tsv(path)[0][1]["text"] == "war\ufeffka\u200b"


def test_texts_that_look_like_missing_values_stay_texts(tmp_path):
    values = ["N/A", "null", "None", "NA", "nan", ""]
    path = write(tmp_path, "text\tlabel\n" + "".join(f"{value}\t1\n" for value in values))
    for reader in (read_quoted_tsv, read_glue_tsv):
        assert [record["text"] for _, record in reader(path)] == values


def test_trailing_spaces_stay(tmp_path):
    assert read_glue_tsv(write(tmp_path, "sentence\tlabel\nhide new \t0\n"))[0][1]["sentence"] == "hide new "


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line(tmp_path, separator):
    text = f"before{separator}after"
    jsonl = write(tmp_path, json.dumps({"ori": text, "label": "1"}, ensure_ascii=False) + "\n")
    assert read_jsonl(jsonl) == [(1, {"ori": text, "label": "1"})]
    tsv = write(tmp_path, f"text\tlabel\n{text}\t1\n")
    for reader in (read_quoted_tsv, read_glue_tsv):
        assert reader(tsv) == [(2, {"text": text, "label": "1"})]


def test_articles_longer_than_the_csv_modules_own_limit(tmp_path):
    article = "word " * 60_000
    assert read_quoted_tsv(write(tmp_path, f"text\n{article}\n"))[0][1]["text"] == article


def test_windows_line_ends_and_blank_lines_at_the_end(tmp_path):
    path = write(tmp_path, "text\tlabel\r\na\t1\r\n\r\n\n")
    for reader in (read_quoted_tsv, read_glue_tsv):
        assert reader(path) == [(2, {"text": "a", "label": "1"})]


def test_csv_without_header(tmp_path):
    path = write(tmp_path, '"IRA, willing",0\nplain,2\n')
    assert read_csv(path, names=["text", "label"]) == [
        (1, {"text": "IRA, willing", "label": "0"}),
        (2, {"text": "plain", "label": "2"}),
    ]


field = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(field, field.filter(bool)), min_size=1, max_size=8))
def test_quoted_tsv_reads_whatever_the_csv_module_wrote(rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("a", "b"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), buffer.getvalue())
        records = read_quoted_tsv(path)
    assert [(record["a"], record["b"]) for _, record in records] == rows


@given(st.lists(st.dictionaries(field, field, max_size=3), min_size=1, max_size=8))
def test_jsonl_reads_whatever_json_wrote(records):
    with tempfile.TemporaryDirectory() as folder:
        lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        path = write(Path(folder), lines + "\n")
        assert read_jsonl(path) == list(enumerate(records, start=1))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_an_error_that_names_it(tmp_path, reader, content):
    path = write(tmp_path, content)
    with pytest.raises(UsageError, match=rf"{path}: the file is empty"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_binary_garbage_is_an_error_with_file_and_line(tmp_path, reader):
    path = write(tmp_path, b"text\tlabel\na\t1\n\x89PNG\0\0\xff\n")
    with pytest.raises(UsageError, match=rf"{path}, line 3: binary data"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_another_encoding_is_an_error_with_file_and_line(tmp_path, reader):
    path = write(tmp_path, "text\tlabel\na\t1\ncafé\t0\n".encode("latin-1"))
    with pytest.raises(UsageError, match=rf"{path}, line 3: not UTF-8"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_file_is_an_error_that_names_it(tmp_path, reader):
    with pytest.raises(UsageError, match=rf"{tmp_path / 'absent'}: cannot be read \(No such file"):
        reader(tmp_path / "absent")


@pytest.mark.parametrize("reader", [read_quoted_tsv, read_glue_tsv])
def test_a_row_with_too_few_or_too_many_fields(tmp_path, reader):
    path = write(tmp_path, "category\theadline\ttext\nhealth\ta\tb\nsports\tc\n")
    with pytest.raises(
        UsageError, match=rf"{path}, line 3: 2 fields where 3 are expected \(category, headline, text\)"
    ):
        reader(path)
    path = write(tmp_path, "category\theadline\ttext\nhealth\ta\tb\td\n")
    with pytest.raises(UsageError, match="line 2: 4 fields where 3"):
        reader(path)


def test_the_line_of_an_error_counts_lines_inside_quotes(tmp_path):
    path = write(tmp_path, 'category\ttext\nhealth\t"a\nb\nc"\nsports\n')
    with pytest.raises(UsageError, match="line 5: 1 field where 2"):
        read_quoted_tsv(path)


def test_a_quote_that_is_never_closed_is_an_error_and_not_one_long_field(tmp_path):
    path = write(tmp_path, 'category\ttext\nhealth\ta\nsports\t"cut off here\nhealth\tb\n')
    with pytest.raises(UsageError, match=rf"{path}, line 3: broken quoting"):
        read_quoted_tsv(path)


@pytest.mark.parametrize("reader", [read_quoted_tsv, read_glue_tsv])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, reader):
    path = write(tmp_path, "topic\ttext\nhealth\ta\n")
    with pytest.raises(UsageError, match=rf"{path}, line 1: column `category` missing. Found: topic, text"):
        reader(path, require=["category", "text"])


def test_two_columns_of_one_name_are_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"line 1: two columns have the same name\. Found: text, text"):
        read_quoted_tsv(write(tmp_path, "text\ttext\na\tb\n"))


def test_a_header_alone_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="a header but no rows"):
        read_quoted_tsv(write(tmp_path, "category\ttext\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 2: not valid JSON"),
        ("", "line 2: not valid JSON"),
        ("[1, 2]", "line 2: a JSON object is expected, found list"),
        ('{"txt": "a"}', "line 2: column `text` missing. Found: txt"),
    ],
)
def test_broken_jsonl(tmp_path, line, message):
    path = write(tmp_path, f'{{"text": "ok"}}\n{line}\n{{"text": "ok"}}\n')
    with pytest.raises(UsageError, match=rf"{path}, {message}"):
        read_jsonl(path, require=["text"])


def test_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"label": [4, 0], "text": ["a", "N/A"]}), path)
    assert read_parquet(path, ["text"]) == [(1, {"label": 4, "text": "a"}), (2, {"label": 0, "text": "N/A"})]
    with pytest.raises(UsageError, match="column `category` missing"):
        read_parquet(path, ["category"])
    with pytest.raises(UsageError, match="not a readable parquet file"):
        read_parquet(write(tmp_path, b"PAR1 garbage", "broken.parquet"))


TABLE = "text\tlabel\ngood\tpos\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (TABLE.encode("utf-16"), "UTF-16"),
        (TABLE.encode("utf-16-le"), "UTF-16"),
        (TABLE.encode("utf-32"), "UTF-32"),
        (gzip.compress(TABLE.encode(), mtime=0), r"gzip\. Unpack it with gunzip"),
        (b"PK\x03\x04...", "a spreadsheet's own format"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, named):
    with pytest.raises(UsageError, match=named):
        read_quoted_tsv(write(tmp_path, content))


def test_half_an_emoji_is_refused_with_its_place(tmp_path):
    path = write(tmp_path, '{"text": "\\ud83d\\ude00"}\n{"text": "cut \\uD83D"}\n')
    with pytest.raises(UsageError, match=r"data, line 2: half of an emoji .*\\ud83d"):
        read_jsonl(path)
    assert read_jsonl(write(tmp_path, '{"text": "\\ud83d\\ude00"}'))[0][1] == {"text": "\U0001f600"}


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"], ids=["brackets", "digits"])
def test_json_that_python_gives_up_on_is_a_message(tmp_path, line):
    with pytest.raises(UsageError, match="data, line 1"):
        read_jsonl(write(tmp_path, line))


def no_files(folder: Path) -> list[Path]:
    """What may have a file's name and is none; opening a named pipe would wait for ever."""
    (folder / "folder.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    (folder / "ring.csv").symlink_to("ring.csv")
    return [folder / "folder.csv", folder / "pipe.csv", folder / "ring.csv", Path("/dev/zero")]


@pytest.mark.parametrize(
    "read", [readers.read_text, readers.read_parquet, user_files.read_yaml, lambda path: read_words(path, ["a"])]
)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for path in no_files(tmp_path):
        with pytest.raises(UsageError, match=f"{path}.*no file"):
            read(path)


@pytest.mark.parametrize("depth", [51, 900, 200_000])
@pytest.mark.parametrize("pair", ["[]", ('{"a":', "}")])
def test_nested_json_is_refused(depth: int, pair: Sequence[str]) -> None:
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 3: not usable JSON"):
        readers.parse_json(pair[0] * depth + "1" + pair[1] * depth, "rows.jsonl, line 3")


def test_json_of_a_usual_depth_is_read() -> None:
    many = "[" + ",".join(["[[1]]"] * 100) + "]"
    assert readers.parse_json(many, "rows.json") == [[[1]]] * 100
