"""Contamination is said: what a backbone has seen of a task is marked wherever a score of it is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_up_records import a_record

from peftbench.cli import main
from peftbench.config import compose
from peftbench.records import leaderboard
from peftbench.records.ids import content
from peftbench.records.seen import MARK, remarks, seen_before
from peftbench.records.store import Store


def config(**model) -> dict:
    return {"model": {"name": "mine", **model}, "method": {"name": "lora", "needs_model": True}}


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ({"glue/mnli": "labels (a)"}, "labels (a)"),
        ({"mnli": "labels (b)"}, "labels (b)"),
        ({"glue": "texts (c)"}, "texts (c)"),
        ({"glue": "texts", "glue/mnli": "labels (d)"}, "labels (d)"),
        ({"qqp": "labels"}, None),
        ({}, None),
    ],
)
def test_an_entry_names_a_task_a_subset_or_both(seen: dict[str, str], wanted: str | None) -> None:
    assert seen_before(config(seen=seen), "glue", "mnli") == wanted


def test_older_records_go_by_the_packaged_file_of_their_model() -> None:
    assert "MultiNLI" in str(seen_before(config(name="minilm"), "glue", "mnli"))
    assert seen_before(config(name="minilm"), "masakhanews", "eng") is None
    for name in ("../minilm", "/etc/passwd", "org/name"):
        assert seen_before(config(name=name), "glue", "mnli") is None
    floor = {**config(name="minilm"), "method": {"name": "majority", "needs_model": False}}
    assert seen_before(floor, "glue", "mnli") is None


def test_it_names_no_run() -> None:
    """A note for readers: a backbone's file may say more tomorrow."""
    from dataclasses import asdict

    cfg = asdict(compose(["model=minilm", "method=lora", "task=demo_news", "shots=2"]))
    other = {**cfg, "model": {**cfg["model"], "seen": {"demo_news": "labels"}}}
    assert content(cfg) == content(other)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "results")
    for number, (model, subset) in enumerate([("minilm", "mnli"), ("minilm", "cola"), ("bert-base", "mnli")]):
        store.save(
            a_record(
                f"{number:016x}", model=model, task="glue", subset=subset, config=config(name=model), method="lora"
            )
        )
    return store


def test_rows_and_tables_mark_it(store: Store, capsys: pytest.CaptureFixture) -> None:
    rows = leaderboard.current_rows(store)
    assert [bool(row["seen"]) for row in rows] == [False, False, True]  # cola; mnli of bert-base, of minilm
    (remark,) = remarks(rows)
    assert remark.startswith(f"{MARK} model=minilm has seen glue/mnli")
    with pytest.raises(SystemExit):
        main(["leaderboard"])
    shown = capsys.readouterr().out
    assert shown.count(f"minilm {MARK}") == 1
    assert remark in shown
    with pytest.raises(SystemExit):
        main(["leaderboard", "--group", "--csv"])
    assert "MultiNLI" in capsys.readouterr().out


def test_a_comparison_says_which_side_has_seen_it(store: Store) -> None:
    from types import SimpleNamespace

    from peftbench.views.compare.analysis import _seen

    _, bert, minilm = leaderboard.current_rows(store)
    (said,) = _seen(SimpleNamespace(rows=([minilm], [bert])))
    assert said.endswith("; the other side has not")
    assert not _seen(SimpleNamespace(rows=([bert], [bert])))


def test_the_report_has_it(store: Store) -> None:
    from peftbench.figures.report.payload import payload

    data = payload(store, leaderboard.current_rows(store), details=0)
    place = data["cells"]["columns"].index("seen")
    assert sum(bool(row[place]) for row in data["cells"]["rows"]) == 1
    assert any(note.startswith(MARK) for note in data["notes"])


def test_it_costs_no_torch() -> None:
    code = "import sys, peftbench.records.seen; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
