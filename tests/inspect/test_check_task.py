"""`peftbench check-task`: what it says of a small file, of a YAML, and of what cannot be a task."""

import json

import pytest

from peftbench.errors import UsageError
from peftbench.inspect import check_task as module
from peftbench.inspect.check_task import check_task

ROWS = [f"a {label} text {i},{label}" for label, n in {"good": 30, "bad": 30, "odd": 4}.items() for i in range(n)]


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Lengths in words: the test needs no tokenizer."""
    monkeypatch.setattr(module, "token_counter", lambda cfg: (lambda text, pair: len(text.split()), "words"))


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *ROWS, ROWS[0], "x,"]) + "\n")
    return tmp_path


def test_as_json(tickets, capsys):
    assert check_task(["file", "task.path=tickets.csv", "protocol.dev=none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["subset"], found["labels"]) == ("file", "tickets", ["bad", "good", "odd"])
    assert found["classes"]["odd"] == {"train": 2, "dev": 1, "test": 1}
    assert found["rows"] == {"train": 50, "dev": 7, "test": 7, "unlabeled": 1}
    assert found["lengths"]["train"] == {"median": 4, "p95": 4, "longest": 4, "cut": 0}
    assert found["overlap"] == {"train_dev": 0, "train_test": 0, "dev_test": 0}
    assert any("exact duplicates" in note for note in found["notes"])
    assert found["shots"]["largest"] == 2
    assert "class `odd` has 2 of the 3 rows needed" in found["shots"]["reason"]
    assert len(found["first_rows"]) == 3


def test_piped_it_is_a_line_an_entry(tickets, capsys):
    assert check_task(["file", "task.path=tickets.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line == "class      odd: train 2, dev 1, test 1" for line in lines)
    assert any(line.startswith("shots ") and "no shots" in line and "dev_per_class=1" in line for line in lines)
    assert not any(set(line) & set("─━│") for line in lines)


def test_a_yaml_anywhere_is_a_task(tickets, capsys, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CONF", str(tickets))
    (tickets / "mine.yaml").write_text("name: mine\nadapter: file\npath: tickets.csv\n")
    assert check_task(["mine.yaml", "task.split=50/50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["test"] == 32
    import os

    assert os.environ["PEFTBENCH_CONF"] == str(tickets)


def test_what_cannot_be_a_task_is_a_usage_error(tickets):
    for args, words in [
        (["file", "task.path=none.csv"], "no such file or folder"),
        (["nope.yaml"], "no such file"),
        (["nope"], "task=nope: no such task"),
        (["file", "task.path=tickets.csv", "task.label=text"], "no classes"),
    ]:
        with pytest.raises(UsageError, match=words):
            check_task(args)
