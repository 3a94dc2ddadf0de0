"""Each stage has its own account in the record; together they are the run's."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from made_up_configs import compose
from rich.console import Console

from peftbench.errors import Interrupted
from peftbench.figures.report.detail import stage_rows
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.base import Context, Predictor, Stage, StageReport
from peftbench.views.summary import print_summary

FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2"]
MORE = ["method=lora", "trainer.steps=3", "trainer.device=cpu", f"method.stages=[supervised,{__name__}:two_parts]"]
SLEEPS = {"one": 0.05, "two": 0.15}


def run_two_parts(context: Context, incoming: Predictor | None) -> Predictor:
    """A stage that labels rows in two parts."""
    assert incoming is not None
    report = StageReport("two_parts")
    for name, seconds in SLEEPS.items():
        with context.part(name), context.clock("train"), context.meter.phase("train"):
            held = bytearray(int(seconds * 400) << 20)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(seconds)
            del held
        report.add_part(StageReport(name, steps=2, tokens=10, seconds=seconds, unlabeled_passes=7, teachers=1))
    context.reports.append(report)
    return incoming


two_parts = Stage(f"{__name__}:run_two_parts")


def finish(folder: Path, *args: str) -> Record:
    record, _ = run(compose([*FAST, *MORE, f"out_dir={folder}", *args]))
    assert record is not None
    assert record.status == "done", record.reason
    return record


def phases(entries: list[dict[str, Any]], kind: str = "seconds") -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in entries:
        for phase, spent in entry[kind].items():
            found[phase] = found.get(phase, 0.0) + spent
    return found


def test_the_stages_account_for_what_they_cost(tmp_path: Path) -> None:
    record = finish(tmp_path)
    first, second = record.stages
    assert (first["name"], first["steps"], second["steps"]) == ("supervised", 3, 4)
    assert (second["unlabeled_passes"], second["teachers"], second["tokens"]) == (14, 2, 20)
    assert record.compute["steps"] == 7
    assert record.compute["tokens"] == first["tokens"] + 20
    together = phases(record.stages)
    for phase in ("train", "model", "method", "probe"):
        assert together.get(phase, 0.0) == pytest.approx(record.seconds[phase], abs=1e-9), phase
    for phase, spent in together.items():
        assert spent <= record.seconds[phase] + 1e-9, phase
    assert together["eval"] < record.seconds["eval"]  # the test set is nobody's stage
    assert phases(record.stages, "cpu_seconds")["train"] == pytest.approx(record.cpu_seconds["train"], abs=1e-9)
    assert [part["name"] for part in second["parts"]] == list(SLEEPS)
    assert phases(second["parts"])["train"] == pytest.approx(second["seconds"]["train"], rel=1e-6)
    for part in second["parts"]:
        assert part["seconds"]["train"] >= SLEEPS[part["name"]]


def test_memory_is_the_stages_own_and_the_runs_is_the_greatest(tmp_path: Path) -> None:
    record = finish(tmp_path)
    first, second = record.stages
    assert first["memory"]["saved_bytes"] == record.memory["saved_bytes"]
    assert "saved_bytes" not in second["memory"]
    one, two = (part["memory"]["train_peak_mib"] for part in second["parts"])
    assert two > one + 25
    assert second["memory"]["train_peak_mib"] == two
    assert record.memory["train_peak_mib"] == max(first["memory"]["train_peak_mib"], two)


def test_a_stage_cut_off_keeps_the_account_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(context: Context, incoming: Predictor | None) -> Predictor:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    with monkeypatch.context() as patch:
        patch.setitem(globals(), "run_two_parts", cut)
        with pytest.raises(Interrupted):
            run(compose([*FAST, *MORE, f"out_dir={tmp_path}"]))
    (before,) = Store(tmp_path).all()
    assert [(stage["name"], stage["status"]) for stage in before.stages] == [
        ("supervised", "done"),
        ("two_parts", "unfinished"),
    ]
    assert phases(before.stages)["train"] == pytest.approx(before.seconds["train"], abs=1e-9)
    record = finish(tmp_path)
    first = record.stages[0]
    assert before.seconds["train"] > 0
    assert first["seconds"]["train"] >= before.seconds["train"]  # those of the first attempt: none was done again
    assert first["train_seconds"] <= before.seconds["train"]
    together = phases(record.stages)
    assert together["train"] == pytest.approx(record.seconds["train"], abs=1e-9)
    assert first["seconds"]["train"] + sum(SLEEPS.values()) <= together["train"] + 1e-9
    whole = {name: spent for name, spent in record.seconds.items() if name != "total"}
    assert sum(whole.values()) == pytest.approx(record.seconds["total"], abs=1e-6)


def test_no_stage_follows_a_diverged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(context: Context, incoming: Predictor | None) -> Predictor:
        assert incoming is not None
        report = StageReport("two_parts")
        report.add_part(StageReport("one", status="diverged", reason="the loss is NaN"))
        context.reports.append(report)
        return incoming

    monkeypatch.setitem(globals(), "run_two_parts", diverge)
    record, _ = run(
        compose([*FAST, *MORE, f"out_dir={tmp_path}", f"method.stages=[supervised,{__name__}:two_parts,none]"])
    )
    assert record is not None
    assert (record.status, record.reason, record.score) == ("diverged", "one: the loss is NaN", None)
    assert [stage["name"] for stage in record.stages] == ["supervised", "two_parts"]


def test_a_stage_that_leaves_no_report_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "run_two_parts", lambda context, incoming: incoming)
    record, _ = run(compose([*FAST, *MORE, f"out_dir={tmp_path}"]))
    assert record is not None
    assert record.status == "failed"
    assert "stage `two_parts` left 0 reports" in record.reason
    assert [stage["status"] for stage in record.stages] == ["done"]


def test_a_part_that_fails_leaves_its_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: Context, incoming: Predictor | None) -> Predictor:
        with context.part("one"), context.clock("train"):
            time.sleep(0.05)
            raise RuntimeError("no luck")

    monkeypatch.setitem(globals(), "run_two_parts", fail)
    record, _ = run(compose([*FAST, *MORE, f"out_dir={tmp_path}"]))
    assert record is not None
    assert (record.status, record.stages[1]["status"]) == ("failed", "unfinished")
    assert record.stages[1]["seconds"]["train"] >= 0.05


def test_a_person_sees_a_line_a_stage(tmp_path: Path) -> None:
    record = finish(tmp_path)
    text = io.StringIO()
    print_summary(record, tmp_path, console=Console(file=text))
    (line,) = [line for line in text.getvalue().splitlines() if "two_parts: " in line]
    for words in ("2 parts", "4 steps", "2 teachers", "14 unlabelled passes", "train peak"):
        assert words in line
    rows = stage_rows(record.stages)
    assert [row[0].strip() for row in rows] == ["supervised", "two_parts", "one", "two"]
    assert rows[1][2:6] == [4, 20, 2, 14]


def test_a_run_of_one_stage_has_no_lines_about_stages(tmp_path: Path) -> None:
    record = finish(tmp_path, "method.stages=[supervised]")
    text = io.StringIO()
    print_summary(record, tmp_path, console=Console(file=text))
    assert "supervised: " not in text.getvalue()
    assert stage_rows(record.stages) == []
    assert len(record.stages) == 1


def test_a_report_survives_being_written(tmp_path: Path) -> None:
    from dataclasses import asdict

    report = StageReport("two_parts", curves={"step": [1]})
    report.add_part(StageReport("one", steps=3, parts=[StageReport("deeper", tokens=2)]))
    assert StageReport.from_dict(asdict(report)) == report
