"""The papers' numbers: read whole, found by what they are, never from memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tables import coverage, references, spec

HEADER = "paper,source,method,model,task,shots,metric,value,sd\n"


@pytest.mark.parametrize("name", references.names())
def test_every_file_reads_and_names_each_number_once(name):
    found = references.load(name)
    for one in found:
        assert one.source, f"{name}.csv, line {one.line}: where was it seen?"
        assert "memory" not in one.source
        assert "[M]" not in one.source
        assert float(one.printed) == one.value
    keys = [tuple(getattr(one, key) for key in references.KEYS) for one in found]
    assert len(set(keys)) == len(keys)


def test_numbers_of_the_sources():
    """Spot checks against the papers' own pages, written down by hand."""
    dept = references.load("dept")
    (rte,) = references.find(
        dept, {"method": "DePT", "task": "RTE", "source": "main GLUE/SuperGLUE (as reprinted by ULPT table 1)"}
    )
    assert (rte.value, rte.printed, rte.sd) == (79.1, "79.1", None)
    (abstract,) = references.find(references.load("masakhanews"), {"method": "pet"})
    assert (abstract.value, abstract.shots) == (86.0, "10")
    (sst2,) = references.find(references.load("lm_bff"), {"task": "SST-2", "shots": "16"})
    assert (sst2.value, sst2.sd) == (92.7, 0.9)
    assert references.load("sciprompt") == ()


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(UsageError, match="Did you mean `dept`"):
        references.load("depth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paper,value\n", "x.csv, line 1: the columns"),
        (HEADER + "p,s,m,b,t,full,f1,nan?,\n", "line 2: value `nan\\?`"),
        (HEADER + "p,s,m,b,t,full,f1,80.0,\np,s,m,b,t,full,f1\n", "line 3: 7 cells"),
    ],
)
def test_a_bad_line_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        references.parse("x", text)


# Coverage


def test_every_number_is_printed_or_has_a_reason():
    printed = set().union(*coverage.printed_by_table().values())
    for one in coverage.account():
        assert one.unaccounted == [], one.name
        assert one.twice == [], one.name
        numbers = references.load(one.name)
        assert sum(one.unprinted.values()) + len(printed & set(numbers)) == one.cells == len(numbers)


def test_a_number_without_a_place_is_found(monkeypatch):
    """The account itself can fail: without its table, a file's numbers have no place."""
    names = [name for name in spec.names() if name != "iapt"]
    monkeypatch.setattr(spec, "names", lambda: names)
    found = {one.name: len(one.unaccounted) for one in coverage.account()}
    assert found["iapt"] == 48
    assert found["dept"] == 0


def test_the_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "references.md"
    assert page.read_text(encoding="utf-8") == coverage.to_markdown(), "give `make references`"
