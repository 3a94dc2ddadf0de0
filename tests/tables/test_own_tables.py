"""Tables of the user's own: found by name, and checked with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tables import spec

GOOD = """\
title: Mine
description: two rows
paper: none
run: {task: demo_news, model: tiny-bert}
rows:
- label: LoRA
  run: {method: lora}
- label: full
  run: {method: full}
columns:
- label: 5
  run: {shots: 5}
""".replace("label: 5", "label: five")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


def test_an_own_table_is_listed_and_laid_out(folder: Path) -> None:
    (folder / "mine.yaml").write_text(GOOD)
    assert "mine" in spec.names()
    cells = spec.lay_out("mine", spec.load("mine"))
    assert [(c.row, c.column, c.run["method"]) for c in cells] == [("LoRA", "five", "lora"), ("full", "five", "full")]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("title: Mine", "titel: Mine", 1),
        ("- label: full", "- label: LoRA", 1),
        ("paper: none", "paper: [", 5),
        ("columns:", "repeat: {sed: [1]}\ncolumns:", 10),
    ],
)
def test_mistakes_are_told_with_file_and_line(folder: Path, old: str, new: str, line: int) -> None:
    (folder / "mine.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError) as raised:
        spec.load("mine")
    assert str(raised.value).startswith(f"{folder / 'mine.yaml'}:{line}:")
