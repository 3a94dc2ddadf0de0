"""How runs and sweeps stand, as `status` and `ls runs` tell it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_sweeps import begin_sweep, dead_claim, file_record, put

from peftbench.errors import UsageError
from peftbench.inspect import status
from peftbench.inspect.runs import entries, ls_runs, of_overrides
from peftbench.inspect.status import look, status_command
from peftbench.records.states import STATES, at_work, run_states
from peftbench.records.store import Store

DONE, FAILED, LOST, BUSY, NEW = "d" * 16, "f" * 16, "a" * 16, "b" * 16, "e" * 16
PROGRESS = {"model": "tiny-bert", "stage": "supervised", "phase": "train", "step": 40, "steps": 160, "loss": 0.7}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of each kind but a running one."""
    store = Store(tmp_path / "results")
    file_record(store, DONE)
    where = store.folder(FAILED) / "traceback.txt"
    file_record(
        store, FAILED, "failed", created="2099-01-01T00:00:00+00:00", reason=f"ValueError: x (traceback: {where})"
    )
    put(store.folder(LOST) / "draw.json", json.dumps({"shots": 5, "data_seed": 3, "protocol": "default"}))
    put(store.folder(LOST) / "progress.json", json.dumps(PROGRESS))
    dead_claim(store, LOST)
    return store


def call(command, store: Store, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert command(["--out-dir", str(store.out_dir), *argv]) == 0
    return capsys.readouterr().out


def test_states(store: Store) -> None:
    put(store.folder(BUSY) / "progress.json", json.dumps(PROGRESS))
    with store.claim(BUSY):
        states = run_states(store, [DONE, FAILED, LOST, BUSY, NEW])
        assert at_work(store) == [BUSY, LOST]
    assert {run_id: run.state for run_id, run in states.items()} == {
        DONE: "done",
        FAILED: "failed",
        LOST: "unfinished",
        BUSY: "running",
        NEW: "pending",
    }
    assert {run.state for run in states.values()} <= set(STATES)
    assert states[BUSY].step() == "train 40/160"
    assert str(states[LOST].holder).startswith("process 4711 on host node7")
    assert not store.folder(NEW).exists()


def test_a_run_being_repeated_is_running(store: Store) -> None:
    with store.claim(DONE):
        assert run_states(store, [DONE])[DONE].state == "running"
    assert run_states(store, [DONE])[DONE].state == "done"


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', '{"phase": "eval"}'])
def test_torn_or_strange_progress_is_no_trouble(store: Store, content: str) -> None:
    put(store.folder(LOST) / "progress.json", content)
    assert run_states(store, [LOST])[LOST].step() in ("", "eval")


def test_status_of_the_newest_sweep(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = begin_sweep(store, [("seed=9", NEW)])
    earlier.folder.rename(earlier.folder.with_name("20261121T070000Z-ffff"))
    newest = begin_sweep(
        store,
        [("seed=1", DONE), ("seed=2", FAILED), ("seed=3", LOST), ("seed=4", BUSY), ("seed=1", DONE), ("sede=1", None)],
    )
    with store.claim(BUSY):
        text = call(status_command, store, capsys)
        told = json.loads(call(status_command, store, capsys, "--json"))
    assert newest.sweep_id in text
    assert "running 1 · unfinished 1 · failed 1 · done 1 · mistakes 1 · duplicates 1" in text
    assert "failed: ValueError: x" in text
    assert str(store.folder(FAILED) / "traceback.txt") in text
    assert "sede=1: no such key" in text
    assert "process 4711 on host node7" in text
    assert "train 40/160" in text
    assert told["sweep"]["sweep_id"] == newest.sweep_id
    assert told["sweep"]["counts"] == {
        "running": 1, "unfinished": 1, "failed": 1, "done": 1, "mistakes": 1, "duplicates": 1
    }  # fmt: skip
    assert {r["run_id"]: r["state"] for r in told["sweep"]["runs"]}[BUSY] == "running"
    assert told["sweep"]["errors"] == [{"cause": "failed: ValueError: x", "runs": [FAILED]}]


def test_what_failed_before_the_sweep_began_is_still_to_be_done(store: Store) -> None:
    file_record(store, NEW, "failed", created="2026-11-20T08:00:00+00:00")
    sweep = begin_sweep(store, [("seed=1", NEW), ("seed=2", FAILED), ("seed=3", DONE)])
    later = begin_sweep(store, [("seed=2", FAILED), ("seed=3", DONE)])
    assert [[run.state for run in status.runs] for status in look(store, sweep, later)] == [
        ["pending", "failed", "done"],
        ["failed", "done"],
    ]


def test_a_sweep_by_its_id_or_the_beginning_of_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps = sorted((begin_sweep(store, [("seed=1", DONE)]) for _ in range(12)), key=lambda s: s.sweep_id)
    text = call(status_command, store, capsys, sweeps[3].sweep_id)
    assert "2 older ones" in text
    wrong = sweeps[3].sweep_id[:-1] + "x"
    with pytest.raises(UsageError, match=f"{wrong}: no such sweep. Did you mean `2"):
        status_command(["--out-dir", str(store.out_dir), wrong])
    with pytest.raises(UsageError, match="12 sweeps begin so"):
        status_command(["--out-dir", str(store.out_dir), "2"])


def test_no_sweeps(store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "No sweep in" in call(status_command, store, capsys)
    assert json.loads(call(status_command, store, capsys, "--json")) == {"sweeps": [], "sweep": None}
    with pytest.raises(UsageError, match="there are no sweeps"):
        status_command([f"out_dir={store.out_dir}", "2026"])
    with pytest.raises(UsageError, match=r"resluts: no runs here.*Did you mean `results`"):
        status_command([f"out_dir={tmp_path / 'resluts'}"])


def test_watching_ends_with_the_sweep(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_sweep(store, [("seed=1", DONE), ("seed=2", NEW)])
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            file_record(store, NEW)

    monkeypatch.setattr(status.time, "sleep", sleep)
    lines = call(status_command, store, capsys, "--watch").splitlines()
    assert [line.partition("  ")[2] for line in lines] == ["pending 1 · done 1", "done 2"]
    assert len(naps) == 3


def test_ls_runs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    begin_sweep(store, [("method=dept", LOST), ("seed=4", BUSY)])
    with store.claim(BUSY):
        text = call(ls_runs, store, capsys)
        every = {e["run_id"]: e for e in json.loads(call(ls_runs, store, capsys, "--json"))}
    assert every.keys() == {DONE, FAILED, LOST, BUSY}
    lost = every[LOST]
    assert (lost["status"], lost["method"], lost["shots"], lost["model"]) == ("unfinished", "dept", 5, "tiny-bert")
    assert every[LOST]["owner"] == "process 4711 on host node7 (dead)"
    assert every[BUSY]["status"] == "running"
    assert every[DONE]["score"] == 80.0
    assert "train 40/160" in text
    assert "ValueError: x" in text


def test_filters_of_ls_runs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*filters: str) -> set[str]:
        return {e["run_id"] for e in json.loads(call(ls_runs, store, capsys, "--json", *filters))}

    assert ids("status=failed,unfinished") == {FAILED, LOST}
    assert ids("method=lora", "status=done") == {DONE}
    assert ids("status=running") == set()
    assert ids("seed=1") == {DONE, FAILED}
    for wrong, message in [
        ("mehtod=lora", "no column `mehtod`. Did you mean `method`"),
        ("method=lroa", "no run has method=`lroa`. Did you mean `lora`"),
        ("status=finished", "no run has status=`finished`"),
        ("lora", "a filter is COLUMN=VALUE"),
    ]:
        with pytest.raises(UsageError, match=message):
            ls_runs(["--out-dir", str(store.out_dir), wrong])
    with pytest.raises(UsageError, match="not a whole number above 0"):
        ls_runs(["--out-dir", str(store.out_dir), "--limit", "0"])


def test_long_lists_are_cut_and_say_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    text = call(ls_runs, store, capsys, "--limit", "1")
    assert "2 older ones; `--limit 3` shows all." in text
    assert FAILED in text  # the newest
    assert len(entries(store)) == 3


def test_names_are_shown_not_obeyed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    file_record(store, NEW, method="[red]x[/red]\x1b[31m")
    text = call(ls_runs, store, capsys)
    assert "[red]x[/red]" in text
    assert "\x1b[31m" not in text


def test_overrides_tell_what_a_run_is() -> None:
    assert of_overrides(["method=lora", "task.lang=hau", "trainer.steps=3", "seed=1"]) == {
        "method": "lora",
        "subset": "hau",
        "seed": "1",
    }


def test_none_of_these_commands_imports_torch(store: Store) -> None:
    begin_sweep(store, [("seed=1", DONE), ("seed=2", LOST)])
    code = (
        "import sys\n"
        "from peftbench.inspect.gc import gc_command\n"
        "from peftbench.inspect.plan_command import plan_command\n"
        "from peftbench.inspect.runs import ls_runs\n"
        "from peftbench.inspect.status import status_command\n"
        "where = '--out-dir=' + sys.argv[1]\n"
        "gc_command([where, '--yes']); ls_runs([where]); status_command([where])\n"
        "plan_command(['method=lora,majority', 'model=tiny-bert', 'seed=1,2', 'out_dir=' + sys.argv[1]])\n"
        "heavy = ('torch', 'transformers', 'peft', 'evaluate', 'wandb', 'datasets', 'sklearn', 'pandas')\n"
        "print('HEAVY', [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.out_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []")
