"""The worker of the slurm launcher's jobs, as a process of this machine, without a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from local_queue import LocalQueue
from slow_steps import slow_after
from waiting import until

from peftbench.config.load import compose
from peftbench.records.states import read_progress
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.sweeps import launchers, queues, worker
from peftbench.sweeps.arrays import ArrayOptions, ArrayTask, TaskRun, write_tasks
from peftbench.sweeps.jobs import compose_jobs

FLOOR = ["method=majority", "task=demo_news", "tracking.wandb=disabled"]
TINY = ["model=tiny-bert", "method=lora", "task=demo_news", "tracking.wandb=disabled", "trainer.threads=1"]


def task_of(*overrides: list[str], earlier: str | None = None, **options: object) -> ArrayTask:
    """A task with one run for each list of overrides."""
    jobs = compose_jobs(overrides)
    runs = [TaskRun(str(job.run_id), asdict(job.config), earlier) for job in jobs]  # type: ignore[call-overload]
    return ArrayTask(runs, ArrayOptions(**options))  # type: ignore[arg-type]


def test_a_task_does_what_is_left_of_it(tmp_path: Path) -> None:
    out = f"out_dir={tmp_path}"
    task = task_of([*FLOOR, out, "seed=1"], [*FLOOR, out, "seed=2"])
    record, _ = run(compose([*FLOOR, out, "seed=1"]))
    assert record is not None
    assert [job.run_id for job in worker.open_jobs(task)] == [task.runs[1].run_id]


def test_rerun_counts_once_in_a_job_that_is_requeued(tmp_path: Path) -> None:
    words = [*FLOOR, f"out_dir={tmp_path}", "rerun=true"]
    before, _ = run(compose(words))
    assert before is not None
    (job,) = worker.open_jobs(task_of(words, earlier=before.created))
    assert job.config is not None
    assert job.config.rerun
    store = Store(tmp_path)
    before.created, before.status = "2030-01-01T00:00:00+00:00", "interrupted"  # what the job itself left
    store.save(before)
    (job,) = worker.open_jobs(task_of(words, earlier="2020-01-01T00:00:00+00:00"))
    assert job.config is not None
    assert not job.config.rerun
    before.status = "done"
    store.save(before)
    assert worker.open_jobs(task_of(words, earlier="2020-01-01T00:00:00+00:00")) == []


@pytest.mark.slow
def test_sweep_from_command_to_table_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queues, "SlurmQueue", LocalQueue)
    jobs = [[*FLOOR, f"out_dir={tmp_path}", f"seed={seed}"] for seed in (1, 2)]
    options = {"runs_per_job": 2, "poll_s": 0.5}
    assert launchers.run_sweep("slurm", options, jobs) == 0
    assert "array of 1 job: 2 runs each" in capsys.readouterr().out
    assert len(Store(tmp_path).all()) == 2
    assert launchers.run_sweep("slurm", options, jobs) == 0
    assert "2 runs: 2 done already" in capsys.readouterr().out
    assert len(list(tmp_path.glob("sweeps/*/arrays"))) == 1
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[ArrayTask], subprocess.Popen[bytes]]]:
    """Starts the program of a job with one task, as submitit's controller does."""
    started = []

    def start(task: ArrayTask) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "peftbench.sweeps.worker", str(write_tasks(tmp_path, 0, [task])), "0"]
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environ))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.mark.slow
def test_at_the_time_limit_a_job_saves_asks_to_be_requeued_and_goes_on(tmp_path: Path, begin: Callable) -> None:
    go = tmp_path / "go"
    words = [*TINY, f"out_dir={tmp_path}", "trainer.steps=100", "trainer.eval_every=50", *slow_after(10, until=go)]
    task = task_of(words)
    store, run_id = Store(tmp_path), task.runs[0].run_id
    job = begin(task)
    until(lambda: ((read_progress(store.folder(run_id)) or {}).get("step") or 0) > 10)
    job.send_signal(signal.SIGUSR2)
    assert job.wait(600) == worker.LOCAL_REQUEUE
    cut = store.load(run_id)
    assert cut is not None
    assert cut.status == "interrupted"
    go.touch()
    assert begin(task).wait(600) == 0
    record = store.load(run_id)
    assert record is not None
    assert record.status == "done"
    assert record.compute["attempts"] == 2
    assert record.curves["step"] == list(range(1, 101))


@pytest.mark.slow
def test_a_killed_process_takes_its_own_run_along_and_no_other(tmp_path: Path, begin: Callable) -> None:
    out = f"out_dir={tmp_path}"
    held = [*TINY, out, "trainer.steps=5000", *slow_after(0, until=tmp_path / "never")]
    task = task_of(held, [*TINY, out, "trainer.steps=5"])
    store = Store(tmp_path)
    job = begin(task)
    os.kill(until(lambda: store.holders().get(task.runs[0].run_id)).pid, signal.SIGKILL)
    assert job.wait(600) == 1
    killed, other = (store.load(each.run_id) for each in task.runs)
    assert killed is not None
    assert other is not None
    assert (killed.status, other.status) == ("failed", "done")
    assert "SIGKILL" in killed.reason
    assert "worker-0.log" in killed.reason
