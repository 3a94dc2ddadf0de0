"""The slurm launcher on a real SLURM, as a user types it. `make slurm-test` starts one on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slow_steps import slow_after
from slurm_users import BASE, Front, asked, at_work, clean_up, cluster, submitted, until_gone  # noqa: F401
from waiting import until

from peftbench.records.leaderboard import rows_of
from peftbench.records.store import Store
from peftbench.sweeps.arrays import remembered

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster", "clean_up")]


def test_time_limits_a_scancel_and_a_kill_cost_no_run_and_double_none(tmp_path: Path) -> None:
    """The promise of the launcher: typed twice again, a sweep that was maltreated is complete."""
    words = ["trainer.steps=100,400", "seed=1,2,3,4,5,6", "trainer.eval_every=200", "hydra.launcher.runs_per_job=3"]
    words += ["hydra.launcher.timeout_min=60", "hydra.launcher.signal_delay_s=100"]
    slow = slow_after(20, until=tmp_path / "go-${trainer.steps}")  # none is over before it is maltreated
    words += slow
    store = Store(tmp_path / "results")
    first = Front(tmp_path, *words)
    until(lambda: submitted(tmp_path) not in ([], [""]))
    (_, array), *_ = remembered(tmp_path / "results" / "sweeps")
    assert [len(task) for task in array.tasks] == [3, 3, 3, 3]
    until(lambda: at_work(store, array.tasks[0]))
    asked("scancel", f"{array.job_id}_0")
    os.kill(until(lambda: at_work(store, array.tasks[1])), signal.SIGKILL)
    (tmp_path / "go-100").touch()
    working = {task: until(lambda task=task: at_work(store, array.tasks[task], steps=20)) for task in (2, 3)}
    for task in working:
        shorten(f"{array.job_id}_{task}")
    for task, pid in working.items():
        until_gone(store, array.tasks[task], pid)
    (tmp_path / "go-400").touch()
    assert first.wait() == 1, first.said
    assert "killed by SIGKILL" in first.said
    assert "CANCELLED" in first.said

    second = Front(tmp_path, *words)
    assert second.wait() == 0, second.said
    # How many the first left depends on how fast the machine is; that none is left or done twice does not.
    done, begun = map(int, re.search(r"12 runs: (\d+) done already, (\d+) submitted", second.said).groups())  # type: ignore[union-attr]
    assert done + begun == 12
    assert begun > 0
    third = Front(tmp_path, *words)
    assert third.wait() == 0
    assert "12 runs: 12 done already" in third.said
    assert len(submitted(tmp_path)) == 2
    check_complete(store)

    cut = [r for r in store.all() if r.run_id in (*array.tasks[2], *array.tasks[3]) and r.compute["attempts"] > 1]
    assert len(cut) == 2, "a time limit did not cut its run"
    alone = [*BASE, *slow, f"seed={cut[0].seed}", "trainer.steps=400", "trainer.eval_every=200", "out_dir=alone"]
    subprocess.run([sys.executable, "-m", "peftbench", *alone], cwd=tmp_path, check=True, capture_output=True)
    (uncut,) = Store(tmp_path / "alone").all()
    assert uncut.run_id == cut[0].run_id
    assert uncut.curves["loss"] == cut[0].curves["loss"]
    assert uncut.predictions["sha256"] == cut[0].predictions["sha256"]


def shorten(job: str) -> None:
    """Give a running job the least time limit, in whole minutes, that leaves it half a minute to put its work down."""
    shown = asked("scontrol", "show", "job", job)
    hours, minutes, seconds = map(int, re.search(r"RunTime=(\d+):(\d+):(\d+)", shown).groups())  # type: ignore[union-attr]
    asked("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + (1 if seconds <= 30 else 2)}")


def check_complete(store: Store) -> None:
    """12 records of 12 runs, each of which came to its end once."""
    records = store.all()
    assert len(records) == len({r.run_id for r in records}) == len(rows_of(store, [r.run_id for r in records])) == 12
    assert {r.status for r in records} == {"done"}
    assert not (store.out_dir / "superseded").exists()
    assert not (store.out_dir / "quarantine").exists()
    logs = "".join(p.read_text() for p in store.out_dir.glob("sweeps/*/logs/*.out"))
    for record in records:
        assert len(re.findall(rf"^{record.run_id}  f1_weighted", logs, re.MULTILINE)) == 1


def test_ctrl_c_leaves_the_jobs_and_the_same_command_finds_them(tmp_path: Path) -> None:
    words = ["seed=1,2", "trainer.steps=5", "hydra.launcher.timeout_min=5", "hydra.launcher.sbatch=[hold]"]
    first = Front(tmp_path, *words)
    until(lambda: "pending" in first.said)
    os.killpg(first.process.pid, signal.SIGINT)
    assert first.wait() == 130
    (job,) = submitted(tmp_path)
    assert "the jobs go on" in first.said
    assert f"scancel {job}" in first.said
    second = Front(tmp_path, *words)
    until(lambda: "2 runs: 2 in the queue already" in second.said)
    asked("scontrol", "release", job)
    assert second.wait() == 0, second.said
    assert submitted(tmp_path) == [job]
    assert {r.status for r in Store(tmp_path / "results").all()} == {"done"}


def test_a_job_that_slurm_takes_the_node_from_goes_on_where_it_was(tmp_path: Path) -> None:
    """What a preemption does: SIGTERM, and back into the queue."""
    go = tmp_path / "go"
    front = Front(tmp_path, "trainer.steps=100", "trainer.eval_every=50", *slow_after(20, until=go))
    until(lambda: submitted(tmp_path) not in ([], [""]))
    (_, array), *_ = remembered(tmp_path / "results" / "sweeps")
    store = Store(tmp_path / "results")
    pid = until(lambda: at_work(store, array.tasks[0], steps=20))
    asked("scontrol", "requeue", f"{array.job_id}_0")
    until_gone(store, array.tasks[0], pid)
    go.touch()
    assert front.wait() == 0, front.said
    (record,) = store.all()
    assert record.status == "done"
    assert record.compute["attempts"] == 2
    assert record.curves["step"] == list(range(1, 101))


def test_a_job_that_sbatch_refuses_is_told_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    front = Front(tmp_path, "hydra.launcher.partition=nowhere")
    assert front.wait() == 2
    assert re.search(r"^peftbench: hydra/launcher=slurm: sbatch refused: .*partition", front.said, re.MULTILINE)
    assert "Traceback" not in front.said
    assert not list((tmp_path / "results").glob("sweeps/[0-9]*"))


def test_what_is_asked_of_the_cluster_arrives_there_and_nobody_has_to_wait(tmp_path: Path) -> None:
    knobs = {"mem_gb": "1.5", "timeout_min": "7", "cpus_per_task": "2", "wait": "false", "max_parallel": "1"}
    knobs["sbatch"] = "[hold]"
    front = Front(tmp_path, "seed=1,2", *(f"hydra.launcher.{knob}={value}" for knob, value in knobs.items()))
    assert front.wait() == 0, front.said
    (job,) = submitted(tmp_path)
    shown = asked("scontrol", "show", "job", job)
    asked("scancel", job)
    for words in ("TimeLimit=00:07:00", "MinMemoryNode=1.50G", "CPUs/Task=2", "ArrayTaskThrottle=1"):
        assert words in shown
    (folder, _), *_ = remembered(tmp_path / "results" / "sweeps")
    assert json.loads((folder / "manifest.json").read_text())["launcher"] == "slurm"
