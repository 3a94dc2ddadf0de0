"""Passages of running text and of lines; the last ones are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_configs import compose

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.metrics import score

SHORT = ["task=style", "task.subsets.don_quixote.opening=2", "task.subsets.don_quixote.continuation=3"]


def folder(tmp_path: Path, name: str, content: str) -> Path:
    (tmp_path / "more/style").mkdir(parents=True)
    (tmp_path / "more/style" / name).write_text(content, encoding="utf-8")
    return tmp_path


def test_lines_of_a_paragraph_are_one_text(tmp_path: Path) -> None:
    paragraphs = "one two three\nfour five six\nseven eight\n\n" + "a b c d\n\n" * 10
    data = load_task(compose(SHORT).task, folder(tmp_path, "don_quixote_ormsby_part.txt", paragraphs))
    rows = [*data.train, *data.test]
    assert [(row.text, row.target) for row in rows[:3]] == [
        ("one two", ("three four five",)), ("six seven", ("eight",)), ("a b", ("c d",))]  # fmt: skip
    assert [row.id for row in data.test] == ["test:11"]
    assert len(data.train) == 11
    assert score(data, data.test, ["x y z"])["distinct_2"] == 100
    assert score(data, data.test, ["x x x"])["distinct_2"] == 50


def test_a_headline_is_a_line(tmp_path: Path) -> None:
    home = folder(tmp_path, "news_headlines.txt", "Only three words\n" + "The senate votes on the bill\n" * 10)
    data = load_task(compose(["task=style", "task.subset=headlines"]).task, home)
    assert {(row.text, row.target) for row in data.train} == {("The senate votes on", ("the bill",))}
    (home / "more/style/news_headlines.txt").write_text("Too few words here now\n", encoding="utf-8")
    with pytest.raises(UsageError, match="too few"):
        load_task(compose(["task=style", "task.subset=headlines"]).task, home)


@pytest.mark.data
@pytest.mark.parametrize("subset", ["don_quixote", "headlines", "abstracts"])
def test_the_real_texts(real_data: Path, subset: str) -> None:
    data = load_task(compose(["task=style", f"task.subset={subset}"]).task, real_data)
    assert len(data.train) > 8 * len(data.test) > 800
