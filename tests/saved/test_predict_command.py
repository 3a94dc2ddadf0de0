"""`peftbench predict` and `peftbench export` on the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import peftbench
from peftbench.cli import main

FAST = ["task=demo_news", "shots=1", "tracking.wandb=disabled"]


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> peftbench.Run:
    return peftbench.run(*FAST, f"out_dir={tmp_path_factory.mktemp('results')}", method="tfidf_lr")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text('id,body\n7,"A match, won late"\n8,Parliament votes \U0001f389\n', encoding="utf-8")
    return path


def test_rows_come_back_with_labels_and_probabilities(
    run: peftbench.Run, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["predict", run.run_id[:8], f"out_dir={run.out_dir}", "--file", str(rows), "--text-column", "body"]
    assert call(*args) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    answers = run.predict(["A match, won late", "Parliament votes \U0001f389"])
    assert [row["id"] for row in found] == ["7", "8"]
    assert [row["prediction"] for row in found] == [answer.label for answer in answers]
    assert float(found[0]["probability"]) == pytest.approx(answers[0].probability, abs=1e-6)
    assert float(found[0]["p(health)"]) == pytest.approx(answers[0].probabilities["health"], abs=1e-6)
    assert call(*args, "--output", str(tmp_path / "out" / "labels.jsonl")) == 0
    lines = (tmp_path / "out" / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["body"] for line in lines][1] == "Parliament votes \U0001f389"


def test_lines_of_the_standard_input(
    run: peftbench.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one text\nanother\n"))
    assert call("predict", run.run_id, "--out-dir", str(run.out_dir), "--file", "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("id,body\n1,a\n", ["--text-column", "bodi"], "no such column. Did you mean `body`?"),
        ("id,body\n1,a\n2,\n", ["--text-column", "body"], "line 3: `body` is empty"),
        ("id,body\n", ["--text-column", "body"], "no rows"),
        ("id,body\n1,a\n", ["--text-column", "body", "--pair-column", "id"], "the task has single texts"),
        ("id,body\n1,a\n", ["--text-column", "body", "--output", "x.txt"], "must end in .csv or .jsonl"),
    ],
)
def test_a_mistake_is_one_message(
    run: peftbench.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str], words: str
) -> None:
    path = tmp_path / "new.csv"
    path.write_text(content)
    assert call("predict", run.run_id, "--out-dir", str(run.out_dir), "--file", str(path), *options) == 2
    assert words in capsys.readouterr().err


def test_no_such_run_or_file(run: peftbench.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", "zzz", "--out-dir", str(run.out_dir), "--file", "new.csv") == 2
    assert "no such run" in capsys.readouterr().err
    assert call("predict", run.run_id, "--out-dir", str(run.out_dir), "--file", "absent.csv") == 2
    assert "no such file" in capsys.readouterr().err
    assert call("export", run.run_id, "dir", "--out-dir", str(run.out_dir)) == 2
    assert "no network" in capsys.readouterr().err
