"""docs/records.md names every field of a record, and records written by earlier versions stay readable."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from peftbench.records.record import Record
from peftbench.records.store import Store, decode, encode

DOCS = Path(__file__).parents[2] / "docs" / "records.md"
HISTORIC = Path(__file__).parent / "historic"


def test_every_field_is_documented() -> None:
    documented = {name.split(".")[0] for name in re.findall(r"`([a-z_.]+)`", DOCS.read_text(encoding="utf-8"))}
    assert {f.name for f in fields(Record)} <= documented


@pytest.mark.parametrize("path", sorted(HISTORIC.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_of_an_earlier_version_loads(path: Path, tmp_path: Path) -> None:
    record = decode(path.read_bytes(), "0123456789abcdef")
    assert (record.method, record.score, record.seconds["train"]) == ("dept", 82.93708474831107, 54.25)
    store = Store(tmp_path)
    store.save(record)
    assert store.load(record.run_id) == record


def test_there_is_a_historic_record_of_this_schema() -> None:
    assert (HISTORIC / f"schema_{Record.__dataclass_fields__['schema'].default}.json").exists()


def test_the_layout_of_the_file_is_fixed() -> None:
    """Byte for byte. The oldest file has no `diagnosis`, which was added without a new schema."""
    content = (HISTORIC / "schema_1_diagnosis.json").read_bytes()
    assert encode(decode(content, "0123456789abcdef")) == content
