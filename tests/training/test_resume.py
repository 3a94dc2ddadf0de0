"""A run that was cut off, wherever and however often, ends as if it had not been: bit for bit on a CPU."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_up_configs import compose
from tiers import rest_slow

from peftbench import runner
from peftbench import session as session_module
from peftbench.errors import Interrupted, UsageError
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.base import Context, Predictor, Stage
from peftbench.training import checkpoint, loop

FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2"]
STEPS = ["trainer.steps=12", "trainer.eval_every=3", "trainer.dropout=0.1", "trainer.device=cpu"]
TWO = [f"method.stages=[supervised,{__name__}:another_round]"]


def run_another_round(context: Context, incoming: Predictor | None) -> Predictor:
    """A second stage as a method with rounds has it: what is trained may change (half fine-tuning draws anew)."""
    from peftbench.stages.learning import LearnerPredictor
    from peftbench.stages.supervised.training import supervised

    assert isinstance(incoming, LearnerPredictor)
    incoming.learner.tuner.on_round(incoming.learner.model, 1)
    return supervised(context, incoming)


another_round = Stage(run_another_round)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the session's own endings may run."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, stage: str, step: int, number: int | None = None) -> Iterator[None]:
    """Send the signal `number` to this process while it does the 0-based `step` of a stage; None kills it."""
    real = loop._Engine.step
    folders: list[str] = []
    resume = loop.resume

    def look(folder: Path, *args: Any) -> Any:
        folders.append(folder.name)
        return resume(folder, *args)

    def die(engine: Any, at: int) -> Any:
        if folders and folders[-1].startswith(stage) and at == step:
            if number is None:
                raise Killed
            os.kill(os.getpid(), number)
        return real(engine, at)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "resume", look)
        patch.setattr(loop._Engine, "step", die)
        if number is None:
            patch.setattr(session_module.Session, "_file_failure", lambda *_: None)
        yield


def finish(folder: Path, *args: str) -> tuple[Record, dict[str, bytes]]:
    record, _ = run(compose([*FAST, *STEPS, f"out_dir={folder}", *args]))
    assert record is not None
    home = Store(folder).folder(record.run_id)
    files = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()}
    return record, files


def assert_equal(one: tuple[Record, dict[str, bytes]], other: tuple[Record, dict[str, bytes]]) -> None:
    """Everything but clocks and memory, to the last bit: predictions and trained weights included."""
    for name in ("run_id", "status", "score", "scores", "dev_score", "curves", "lr", "predictions", "draw"):
        assert getattr(one[0], name) == getattr(other[0], name), name
    for name in ("steps", "tokens", "step_flops"):
        assert one[0].compute[name] == other[0].compute[name], name
    assert one[0].memory["saved_bytes"] == other[0].memory["saved_bytes"]
    assert one[1] == other[1]


LORA = ["method=lora", "trainer.save=all"]
CHECKPOINTS = "trainer.checkpoint_every=2"
"""No part of the run id: the result does not depend on it."""
Whole = tuple[Record, dict[str, bytes]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The undisturbed run."""
    return finish(tmp_path_factory.mktemp("whole"), *LORA)


@pytest.fixture(scope="module")
def whole_two(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The undisturbed run of two stages."""
    return finish(tmp_path_factory.mktemp("whole"), *LORA, *TWO)


METHODS = ["lora", "full", "hft", "adalora", "dept"]


@pytest.mark.parametrize("method", rest_slow(METHODS, ["adalora"]))
def test_two_stages_and_two_kills_equal_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Killed in the first stage, told to stop in the second one, and once more killed there."""
    args = [f"method={method}", *TWO, "trainer.save=all", "trainer.checkpoint_every=2"]
    whole = finish(tmp_path / "whole", *args)
    with killed_at(monkeypatch, "1-", 7), pytest.raises(Killed):
        finish(tmp_path / "cut", *args)
    with killed_at(monkeypatch, "2-", 4, signal.SIGTERM), pytest.raises(Interrupted):
        finish(tmp_path / "cut", *args)
    with killed_at(monkeypatch, "2-", 9), pytest.raises(Killed):
        finish(tmp_path / "cut", *args)
    steps: list[int] = []
    monkeypatch.setattr(loop, "_seed_everything", spy(loop._seed_everything, lambda seed, step, *_: steps.append(step)))
    cut = finish(tmp_path / "cut", *args)
    assert steps == [8, 9, 10, 11]
    assert_equal(cut, whole)
    assert (whole[0].compute["attempts"], cut[0].compute["attempts"]) == (1, 4)
    assert not [name for name in cut[1] if "checkpoint" in name or "stages" in name or "attempts" in name]


def spy(function: Callable[..., Any], note: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any) -> Any:
        note(*args)
        return function(*args)

    return both


@pytest.mark.parametrize("damaged", ["newest", pytest.param("finished", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_costs_steps_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_two: Whole, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = [*LORA, *TWO, CHECKPOINTS]
    with killed_at(monkeypatch, "2-", 7), pytest.raises(Killed):
        finish(tmp_path / "cut", *args)
    pattern = {"newest": "2-*/checkpoint-00000006", "finished": "1-*/finished"}[damaged]
    (path,) = (tmp_path / "cut").rglob(f"{pattern}/tensors.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    cut = finish(tmp_path / "cut", *args)
    assert "is damaged" in caplog.text
    assert_equal(cut, whole_two)


def test_a_signal_saves_although_no_checkpoints_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    args = LORA
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    for step, number, code in ((3, signal.SIGTERM, 143), (6, signal.SIGUSR2, 140), (8, signal.SIGUSR1, 138)):
        with killed_at(monkeypatch, "1-", step, number), pytest.raises(Interrupted) as caught:
            finish(tmp_path / "cut", *args)
        assert caught.value.code == code
        (record,) = Store(tmp_path / "cut").all()
        assert (record.status, record.score) == ("interrupted", None)
        assert record.reason == f"Interrupted: {number.name} at step {step + 1} of 12, stage supervised"
        newest = max(path.name for path in (tmp_path / "cut").rglob("checkpoint-*"))
        assert newest == f"checkpoint-{step + 1:08d}"
        assert not list((tmp_path / "cut").rglob("progress.json"))
        assert Store(tmp_path / "cut").holders() == {}
    assert {n: signal.getsignal(n) for n in before} == before
    assert_equal(finish(tmp_path / "cut", *args), whole)


@pytest.fixture
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell lets its background jobs ignore SIGINT, and so then does pytest."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop._Engine.step

    def press_twice(engine: Any, step: int) -> Any:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            real(engine, step)  # goes on: the first one waits for the end of the step
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second one did not end the step")
        return real(engine, step)

    monkeypatch.setattr(loop._Engine, "step", press_twice)
    with pytest.raises(Interrupted) as caught:
        finish(tmp_path, "method=lora")
    assert caught.value.code == 130
    assert not list(tmp_path.rglob("checkpoint-*"))
    assert Store(tmp_path).all()[0].status == "interrupted"


def test_stopped_in_the_test_evaluation_nothing_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    args = LORA
    with monkeypatch.context() as patch:
        real = runner.evaluate

        def told(*args: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return real(*args)

        patch.setattr(runner, "evaluate", told)
        with pytest.raises(Interrupted):
            finish(tmp_path / "cut", *args)
    monkeypatch.setattr(loop._Engine, "step", lambda *_: pytest.fail("a step was taken again"))
    assert_equal(finish(tmp_path / "cut", *args), whole)


def test_a_signal_in_the_last_step_is_heard_after_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_two: Whole
) -> None:
    with killed_at(monkeypatch, "1-", 11, signal.SIGTERM), pytest.raises(Interrupted):
        finish(tmp_path, *LORA, *TWO)
    with killed_at(monkeypatch, "1-", 0):  # the first stage is not done again
        assert_equal(finish(tmp_path, *LORA, *TWO), whole_two)


def test_a_signal_while_the_record_is_filed_does_not_spoil_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.save
    for at in ("before", "after"):

        def save(store: Store, record: Record, at: str = at) -> Path:
            if at == "before":
                os.kill(os.getpid(), signal.SIGTERM)
            path = real(store, record)
            os.kill(os.getpid(), signal.SIGTERM)
            return path

        monkeypatch.setattr(Store, "save", save)
        with pytest.raises(Interrupted):
            finish(tmp_path / at, "method=majority")
        (record,) = Store(tmp_path / at).all()
        assert record.status == "done"
        assert (tmp_path / at / "leaderboard.csv").exists()


def test_costs_of_the_attempts_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What led to the checkpoint counts; memory keeps its greatest peak."""
    real = loop._Engine.step

    def slow(engine: Any, step: int) -> Any:
        time.sleep(0.03)
        return real(engine, step)

    monkeypatch.setattr(loop._Engine, "step", slow)
    with killed_at(monkeypatch, "1-", 5, signal.SIGTERM), pytest.raises(Interrupted):
        finish(tmp_path, "method=lora")
    (first,) = Store(tmp_path).all()
    (state,) = tmp_path.rglob("state.json")
    facts = json.loads(state.read_text())
    facts["attempt"]["peaks"]["train_peak_mib"] = 12345.0
    text = json.dumps(facts).encode()
    state.write_bytes(text)
    sums = state.with_name("SHA256SUMS")
    import hashlib

    sums.write_text(sums.read_text().splitlines()[0] + f"\n{hashlib.sha256(text).hexdigest()}  state.json\n")
    record, _ = finish(tmp_path, "method=lora")
    assert record.seconds["train"] >= 12 * 0.03
    assert record.seconds["train"] > first.seconds["train"] >= 6 * 0.03
    phases = {name: value for name, value in record.seconds.items() if name != "total"}
    assert sum(phases.values()) == pytest.approx(record.seconds["total"], abs=1e-6)
    assert record.compute["attempts"] == 2
    assert record.memory["train_peak_mib"] == 12345.0


def test_progress_is_there_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftbench import attempt

    monkeypatch.setattr(attempt, "PROGRESS_SECONDS", 0.0)
    seen: list[dict] = []
    real = loop._Engine.step

    def look(engine: Any, step: int) -> Any:
        (path,) = tmp_path.rglob("progress.json")
        seen.append(json.loads(path.read_text()))
        return real(engine, step)

    monkeypatch.setattr(loop._Engine, "step", look)
    finish(tmp_path, "method=lora")
    assert [entry["step"] for entry in seen] == list(range(12))
    last = seen[-1]
    assert (last["phase"], last["stage"], last["steps"]) == ("train", "supervised", 12)
    assert last["loss"] > 0
    assert last["updated"].startswith("20")
    assert not list(tmp_path.rglob("progress.json"))


def test_checkpoints_of_another_precision_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["method=lora", *TWO]
    with killed_at(monkeypatch, "2-", 3, signal.SIGTERM), pytest.raises(Interrupted):
        finish(tmp_path, *args)
    from peftbench.training import precision

    monkeypatch.setattr(precision, "resolve", lambda *_: "another")
    with pytest.raises(UsageError, match=r"was trained in (fp32|bf16), and this machine computes in another"):
        finish(tmp_path, *args)


def test_a_run_that_another_has_finished_meanwhile_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = finish(tmp_path, "method=lora")
    real, calls = Store.load, []

    def late(store: Store, run_id: str) -> Record | None:
        calls.append(run_id)
        return None if len(calls) == 1 else real(store, run_id)

    monkeypatch.setattr(Store, "load", late)
    record, is_new = run(compose([*FAST, *STEPS, f"out_dir={tmp_path}", "method=lora"]))
    assert not is_new
    assert record == first


def test_a_lost_claim_ends_the_run_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process was suspended; when it wakes, the run is another's: no checkpoint, no record, one message."""
    from peftbench.records import leases
    from peftbench.records.leases import LEASE_SECONDS, LeaseLost

    real, elapsed = loop._Engine.step, leases._elapsed

    def suspended(engine: Any, step: int) -> Any:
        if step == 4:
            for path in tmp_path.glob("claims/*.json"):
                path.unlink()
            monkeypatch.setattr(leases, "_elapsed", lambda: elapsed() + 2 * LEASE_SECONDS)
        return real(engine, step)

    monkeypatch.setattr(loop._Engine, "step", suspended)
    with pytest.raises(LeaseLost, match="taken the run over"):
        finish(tmp_path, "method=lora", "trainer.checkpoint_every=3")
    assert Store(tmp_path).all() == []
    assert [p.name for p in tmp_path.rglob("checkpoint-*")] == ["checkpoint-00000003"]


def test_a_failed_run_keeps_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole) -> None:
    args = [*LORA, "trainer.checkpoint_every=3"]
    real = loop._Engine.step

    def crash(engine: Any, step: int) -> Any:
        return real(engine, step) if step < 7 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(loop._Engine, "step", crash)
        record, files = finish(tmp_path / "cut", *args)
    assert record.status == "failed"
    assert "traceback.txt" in files
    assert_equal(finish(tmp_path / "cut", *args), whole)


def test_a_full_disk_ends_a_run_with_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole) -> None:
    import errno

    args = [*LORA, "trainer.checkpoint_every=3"]
    real, saved = checkpoint.save_file, []

    def full(tensors: Any, path: Path) -> None:
        saved.append(path)
        if len(saved) == 3:
            from safetensors import SafetensorError

            path.write_bytes(b"a part of it")
            raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UsageError, match=r"Cannot write the checkpoint.*checkpoint-00000009.*disk is full"):
        finish(tmp_path / "cut", *args)
    names = sorted(p.name for p in (tmp_path / "cut").rglob("*-0000*"))
    assert names == ["checkpoint-00000003", "checkpoint-00000006"]
    assert Store(tmp_path / "cut").all() == []
    assert_equal(finish(tmp_path / "cut", *args), whole)
