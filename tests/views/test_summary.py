"""The end of a run says what a person asks next."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from peftbench.records.record import Record
from peftbench.views.summary import print_summary


def shown(record: Record, out_dir: Path, encoding: str = "utf-8", **options: bool) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_summary(record, out_dir, console=Console(file=file), **options)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_a_finished_run(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    record = make_record(dev_score=80.25, notes=["the train file is shorter than the official one"])
    text = shown(record, tmp_path)
    for part in (
        "dept on masakhanews/eng with minilm, 10 shots: f1_weighted 82.9 (dev 80.2)",
        "accuracy 83.0, f1_macro 80.5",
        "10 per class, data seed 1, training seed 2: 60 train, 60 dev, 948 test",
        "17,670 of 22,713,216 parameters (0.078 %), 69.0 KiB on disk",
        "70.0 s in all",
        "train peak +412 MiB, eval peak +120 MiB, 88.0 MiB saved for backward, 1,250.0 GFLOP a step",
        "the train file is shorter",
        str(tmp_path / "runs" / record.run_id),
    ):
        assert part in text, part
    assert "\x1b" not in text
    whole = make_record(parameters={"module": 22_713_216, "head": 0, "total": 22_713_216})
    assert "22,713,216 of 22,713,216 parameters (100 %)" in shown(whole, tmp_path)
    assert text.index("train  ") < text.index("eval  ") < text.index("import  ")


def test_a_known_run_says_so(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    assert "nothing was trained" in shown(make_record(), tmp_path, is_new=False)
    assert "nothing was trained" not in shown(make_record(), tmp_path)


def test_a_bare_failure(tmp_path: Path) -> None:
    record = Record(
        "aa", "diverged", "now", "none", "lora", "t", "", "p", "full", 1, 1, "f1", None, reason="loss is NaN"
    )
    text = shown(record, tmp_path)
    assert "lora on t, all rows: diverged" in text
    assert "loss is NaN" in text


def test_unreadable_answers_are_counted(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    text = shown(make_record(predictions={"count": 948, "invalid": 7}), tmp_path)
    assert "7 of 948 answers could not be read and count as wrong" in text


def test_the_way_to_send_an_offline_run(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    record = make_record()
    assert "wandb sync" not in shown(record, tmp_path)
    home = tmp_path / "runs" / record.run_id / "wandb" / "offline-run-20261121_080000-x"
    home.mkdir(parents=True)
    assert f"wandb sync {home}" in shown(record, tmp_path)


def test_markup_control_characters_and_ascii(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    record = make_record(notes=["[bold]é[/bold]\x1b[31m"], model="<Ж>")
    assert "[bold]é[/bold] [31m" in shown(record, tmp_path)
    assert "###" in shown(record, tmp_path, encoding="ascii")


def test_what_comes_next_and_where_tracking_lies(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    record = make_record()
    home = tmp_path / "runs" / record.run_id
    (home / "wandb" / "offline-run-1").mkdir(parents=True)
    (home / "adapter").mkdir()
    text = shown(record, tmp_path)
    assert f"peftbench compare A B --out-dir {tmp_path}" in text
    assert f"peftbench predict {record.run_id} --file FILE" in text
    assert f"send: wandb sync {home}/wandb/offline-run-1; turn off: tracking.wandb=disabled" in text
    assert "wandb sync" not in shown(record, tmp_path, is_new=False)


def test_a_folder_says_once_that_its_runs_are_logged_offline(
    tmp_path: Path, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    told = []
    for folder, run_id in (("one", "a" * 16), ("one", "b" * 16), ("two", "c" * 16)):
        (tmp_path / folder / "runs" / run_id / "wandb" / "offline-run-1").mkdir(parents=True)
        told.append("wandb sync" in shown(make_record(run_id), tmp_path / folder))
    assert told == [True, False, True]


def test_how_answers_were_drawn_is_told_with_its_cost(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    each = {"plain": {"flops": 2e9, "calls": 2.0}, "own": {"flops": 9e9, "calls": 4.0}}
    text = shown(make_record(inference={"name": "vote", "each": each, "facts": {"ties": 0.25}}), tmp_path)
    words = " ".join(text.split())
    assert "answers by vote: 4.5 times the FLOPs of a plain answer, 4 sequences read for each; ties 0.25" in words
