"""Array jobs without a cluster: packing, the batch file, reading squeue, the state of a run, what is submitted."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_queue import LocalQueue

from peftbench.config.load import compose
from peftbench.errors import UsageError
from peftbench.records.leases import Holder
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.sweeps import queues, slurm
from peftbench.sweeps.arrays import ArrayOptions, arrays, read_task, remembered
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.queues import TaskState, parse_squeue, sbatch_error, slurm_executor
from peftbench.sweeps.watch import Watch, WatchedRun, look
from peftbench.sweeps.worker import trains_together

CONFIGS = {name: compose([f"model={name}", "method=lora"]) for name in ("tiny-bert", "tiny-t5")}
WORKER = ["python", "-m", "peftbench.sweeps.worker", "/there/0.tasks.jsonl"]


def job(number: int, model: str = "tiny-bert", **changes: object) -> Job:
    """A job whose run id is its number, spelt out."""
    return Job(number, (f"seed={number}",), CONFIGS[model], f"run{number:013d}", **changes)  # type: ignore[arg-type]


def record(job_: Job, status: str = "done", created: str = "2026-01-01T00:00:00+00:00") -> Record:
    """A record of that job's run."""
    return Record(
        run_id=str(job_.run_id), status=status, created=created, model="m", method="lora", task="t", subset="s",
        protocol="p", shots=1, data_seed=1, seed=1, metric="f1", score=1.0 if status == "done" else None,
    )  # type: ignore[arg-type]  # fmt: skip


def test_runs_of_one_backbone_share_tasks() -> None:
    jobs = [job(i, "tiny-t5" if i % 2 else "tiny-bert") for i in range(7)]
    (spec,) = arrays(jobs, ArrayOptions(runs_per_job=3))
    assert spec.tasks == ((0, 2, 4), (6,), (1, 3, 5))
    assert str(spec) == "array of 3 jobs: 1-3 runs each, 60 min"


def test_wrong_and_repeated_jobs_are_not_submitted() -> None:
    wrong = replace(job(1), run_id=None, error="no such data")
    (spec,) = arrays([job(0), wrong, job(2, same_as=0)], ArrayOptions())
    assert spec.tasks == ((0,),)
    assert arrays([wrong], ArrayOptions()) == []


def test_more_tasks_than_an_array_may_have_become_several_arrays() -> None:
    specs = arrays([job(i) for i in range(5)], ArrayOptions(max_array=2))
    assert [spec.tasks for spec in specs] == [((0,), (1,)), ((2,), (3,)), ((4,),)]


@pytest.fixture
def with_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's executor looks for srun before it writes anything."""
    import shutil

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest: f"/bin/{name}" if name == "srun" else which(name, *rest))


def batch_file(options: ArrayOptions, tasks: int, folder: Path) -> list[str]:
    """Lines of the file that sbatch would get."""
    commands = [[*WORKER, str(i)] for i in range(tasks)]
    executor = slurm_executor("peftbench-x-0", tasks, folder, options)
    return executor._make_submission_file_text(queues.array_command(commands), "uid").splitlines()


@pytest.mark.usefixtures("with_srun")
def test_batch_file_says_what_the_options_say(tmp_path: Path) -> None:
    options = ArrayOptions(
        partition="gpu", account="me", qos="low", constraint="a100", timeout_min=90, mem_gb=7.5, cpus_per_task=4,
        gpus_per_node=2, nodes=2, tasks_per_node=2, max_parallel=3, signal_delay_s=200, setup=["module load cuda"],
        sbatch=["--exclude=node7", "exclusive"],
    )  # fmt: skip
    lines = batch_file(options, 12, tmp_path)
    wanted = {
        "partition=gpu", "account=me", "qos=low", "constraint=a100", "time=90", "mem=7680MB", "cpus-per-task=4",
        "gpus-per-node=2", "nodes=2", "ntasks-per-node=2", "array=0-11%3", "signal=B:USR2@200", "requeue",
        "exclude=node7", "exclusive", "job-name=peftbench-x-0", "open-mode=append",
    }  # fmt: skip
    flags = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert wanted <= flags
    assert not any(flag.startswith(("wckey", "error")) for flag in flags)
    assert lines.index("module load cuda") < lines.index(f'exec {" ".join(WORKER)} "$SLURM_ARRAY_TASK_ID"')
    assert not any("srun" in line or ".pkl" in line or "submitit.core" in line for line in lines)


@pytest.mark.usefixtures("with_srun")
def test_batch_file_leaves_to_the_cluster_what_is_not_set(tmp_path: Path) -> None:
    text = "\n".join(batch_file(ArrayOptions(requeue=False), 1, tmp_path))
    for flag in ("partition", "account", "qos", "mem", "cpus-per-task", "gpus", "constraint"):
        assert f"#SBATCH --{flag}" not in text
    assert "#SBATCH --no-requeue" in text
    assert "#SBATCH --array=0-0%1" in text


def test_without_slurm_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match=r"sbatch, srun, squeue, scancel not found.*hydra/launcher=local"):
        queues.SlurmQueue()


def test_without_submitit_the_launchers_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'peftbench\[slurm\]'"):
        queues.need_submitit()


def test_floors_do_not_ask_for_several_processes() -> None:
    floor = replace(job(0), config=compose(["method=majority"]))
    assert [trains_together(job(1)), trains_together(floor)] == [True, False]


def test_squeue_is_read_by_name_and_index() -> None:
    text = """\
17|0|RUNNING|None|peftbench-a-0
17|1|COMPLETING|None|peftbench-a-0
17|2|PENDING|Resources|peftbench-a-0
17|3|CANCELLED|None|peftbench-a-0
17|4|NODE_FAIL|NodeFail|peftbench-a-0
21|N/A|RUNNING|None|somebody|else
slurm_load_jobs: a line of another kind
"""
    assert parse_squeue(text) == {
        ("peftbench-a-0", 0): TaskState("running", "", "17_0"),
        ("peftbench-a-0", 1): TaskState("running", "", "17_1"),
        ("peftbench-a-0", 2): TaskState("pending", "Resources", "17_2"),
        ("peftbench-a-0", 3): TaskState("ended", "CANCELLED", "17_3"),
        ("peftbench-a-0", 4): TaskState("ended", "NODE_FAIL (NodeFail)", "17_4"),
    }


def test_a_queue_that_does_not_answer_is_not_an_empty_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "squeue")

    monkeypatch.setattr(queues.SlurmQueue, "__init__", lambda self: None)
    monkeypatch.setattr(subprocess, "run", fail)
    assert queues.SlurmQueue().states() is None


def test_what_sbatch_said_is_found_in_submitits_report() -> None:
    report = (
        "Command '['sbatch', 'x.sh']' returned non-zero exit status 1.\n"
        "sbatch: error: invalid partition specified: nope\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert sbatch_error(report) == (
        "invalid partition specified: nope Batch job submission failed: Invalid partition name specified"
    )


PENDING, RUNNING, ENDED = TaskState("pending", "Resources"), TaskState("running"), TaskState("ended", "TIMEOUT", "9_1")
OLD = "2025-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("task", "status", "created", "held", "state"),
    [
        (PENDING, None, "", False, "pending"),
        (RUNNING, None, "", True, "running"),
        (RUNNING, None, "", False, "pending"),  # another run of its job goes first
        (RUNNING, "done", "new", False, "done"),
        (RUNNING, "failed", "new", False, "failed"),
        (RUNNING, "failed", OLD, False, "pending"),  # the failure of an earlier command
        (PENDING, "interrupted", "new", False, "pending"),  # requeued
        (ENDED, "interrupted", "new", False, "interrupted"),
        (ENDED, None, "", False, "unfinished"),
        (ENDED, "failed", OLD, False, "unfinished"),
        (ENDED, None, "", True, "running"),  # taken over by a process that is no task of ours
        (None, None, "", False, "unfinished"),
    ],
)
def test_state_of_a_run(task: TaskState | None, status: str | None, created: str, held: bool, state: str) -> None:
    run = WatchedRun("r", ("peftbench-a-0", 1), earlier=OLD, job_id="9_1")
    found = record(job(0), status, created) if status else None
    assert look(run, task, found, held)[0] == state
    if state in ("unfinished", "interrupted"):
        assert "9_1" in look(run, task, found, held)[1]


class FakeStore:
    """Records and claims, in memory."""

    def __init__(self, *records: Record, held: tuple[str, ...] = ()) -> None:
        self.records, self.held = {r.run_id: r for r in records}, held

    def load(self, run_id: str) -> Record | None:
        return self.records.get(run_id)

    def rows(self, run_ids: list[str]) -> dict[str, dict]:
        return {r: {"status": self.records[r].status, "created": self.records[r].created}
                for r in run_ids if r in self.records}  # fmt: skip

    def holders(self) -> dict[str, Holder]:
        return {run_id: Holder("here", 1, "now", 0.0, alive=True) for run_id in self.held}


class FakeQueue:
    """A queue whose answers are set by the test."""

    outlives_us = True

    def __init__(self, states: dict | None = None) -> None:
        self.now, self.submitted, self.cancelled = states, [], set()

    def states(self) -> dict | None:
        return self.now

    def submit(self, name: str, commands: list, logs: Path, options: ArrayOptions) -> str:
        self.submitted.append((name, commands))
        self.now |= {(name, i): TaskState("pending", "Priority", f"7_{i}") for i in range(len(commands))}
        return "7"

    def cancel(self, job_ids: set) -> None:
        self.cancelled |= set(job_ids)


@pytest.fixture(autouse=True)
def _rows_of_fake_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "rows_of", lambda store, run_ids: store.rows(run_ids))


def launcher(tmp_path: Path, sweep: str, queue: FakeQueue, store: FakeStore, **options: object) -> slurm.ArrayLauncher:
    folder = tmp_path / "sweeps" / sweep
    folder.mkdir(parents=True)
    made = slurm.ArrayLauncher(folder, tmp_path, ArrayOptions(wait=False, **options), queue)  # type: ignore[arg-type]
    made.store = store  # type: ignore[assignment]
    return made


def test_only_what_is_missing_is_submitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(i) for i in range(5)] + [job(5, same_as=0)]
    store = FakeStore(record(jobs[0]), record(jobs[1], "failed"), held=(str(jobs[2].run_id),))
    queue = FakeQueue({})
    runs = launcher(tmp_path, "first", queue, store, runs_per_job=2).launch(jobs)
    assert [r.run_id for r in runs] == [j.run_id for j in (jobs[2], jobs[1], jobs[3], jobs[4])]
    ((name, commands),) = queue.submitted
    assert name == "peftbench-first-0"
    assert len(commands) == 2
    said = capsys.readouterr().out
    assert "6 runs: 1 done already, 1 the same as another, 1 in the hands of other processes, 3 submitted" in said
    assert "scancel 7" in said
    task = read_task(Path(commands[0][-2]), 0)
    assert [(r.run_id, r.earlier) for r in task.runs] == [
        (jobs[1].run_id, record(jobs[1]).created),
        (jobs[3].run_id, None),
    ]
    assert task.options.runs_per_job == 2
    (_, array), *_ = remembered(tmp_path / "sweeps")
    assert array.job_id == "7"


def test_typed_again_queued_runs_are_watched_not_submitted(tmp_path: Path) -> None:
    jobs, queue, store = [job(i) for i in range(3)], FakeQueue({}), FakeStore()
    launcher(tmp_path, "first", queue, store).launch(jobs[:2])
    runs = launcher(tmp_path, "second", queue, store).launch(jobs)
    assert [(r.run_id, r.task[0]) for r in runs if r.task] == [
        (jobs[0].run_id, "peftbench-first-0"),
        (jobs[1].run_id, "peftbench-first-0"),
        (jobs[2].run_id, "peftbench-second-0"),
    ]
    assert [len(commands) for _, commands in queue.submitted] == [2, 1]
    queue.now = {task: TaskState("ended", "CANCELLED", s.job_id) for task, s in queue.now.items()}
    assert len(launcher(tmp_path, "third", queue, store).launch(jobs)) == 3
    assert len(queue.submitted) == 3


def test_a_failure_that_a_living_task_has_filed_is_tried_again_at_once(tmp_path: Path) -> None:
    """A task still runs while its worker goes on with other runs or ends: it does not come back to the failed one."""
    jobs, queue, store = [job(i) for i in range(3)], FakeQueue({}), FakeStore()
    launcher(tmp_path, "first", queue, store, runs_per_job=3).launch(jobs)
    queue.now = {task: TaskState("running", "", state.job_id) for task, state in queue.now.items()}
    store.records = {str(jobs[0].run_id): record(jobs[0], "failed")}
    second = launcher(tmp_path, "second", queue, store).launch(jobs)
    assert {run.run_id: run.task and run.task[0] for run in second} == {
        jobs[0].run_id: "peftbench-second-0",
        jobs[1].run_id: "peftbench-first-0",
        jobs[2].run_id: "peftbench-first-0",
    }


def test_a_refusal_after_the_first_array_leaves_that_one_its_files(tmp_path: Path) -> None:
    class Full(FakeQueue):
        def submit(self, *words: object) -> str:
            if self.submitted:
                raise UsageError("sbatch refused: too many jobs.")
            return super().submit(*words)  # type: ignore[arg-type]

    jobs, queue = [job(i) for i in range(5)], Full({})
    runs = launcher(tmp_path, "first", queue, FakeStore(), max_array=2).launch(jobs)
    assert [run.run_id for run in runs] == [jobs[0].run_id, jobs[1].run_id]
    (_, array), refused = remembered(tmp_path / "sweeps")
    assert (array.job_id, refused[1].job_id) == ("7", "")


def test_nothing_is_submitted_while_the_queue_is_silent(tmp_path: Path) -> None:
    queue = FakeQueue(None)
    with pytest.raises(UsageError, match="nothing was submitted"):
        launcher(tmp_path, "first", queue, FakeStore()).launch([job(0)])
    assert queue.submitted == []


def test_a_silent_queue_ends_no_watch() -> None:
    queue = FakeQueue(None)
    watch = Watch([WatchedRun("r", ("a", 0), None)], FakeStore(), queue)  # type: ignore[arg-type]
    assert watch.refresh()
    assert any("has not answered" in line for line in watch.lines())
    queue.now = {}
    assert watch.refresh()  # a second look, for records that come late
    assert not watch.refresh()
    assert watch.counts() == {"unfinished": 1}


def test_stop_at_the_first_failure_cancels_what_has_not_begun(tmp_path: Path) -> None:
    jobs, queue, store = [job(i) for i in range(3)], FakeQueue({}), FakeStore()
    made = launcher(tmp_path, "first", queue, store, on_failure="stop")
    watch = Watch(made.launch(jobs), store, queue)  # type: ignore[arg-type]
    watch.refresh()
    made._after_look(watch)
    assert queue.cancelled == set()
    store.records = {str(jobs[0].run_id): record(jobs[0], "failed")}
    watch.refresh()
    made._after_look(watch)
    assert queue.cancelled == {"7_1", "7_2"}


def test_local_queue_runs_so_many_at_a_time_and_tells_exit_codes(tmp_path: Path) -> None:
    queue, options = LocalQueue(), ArrayOptions(max_parallel=1)
    queue.submit("a", [["true"], ["sh", "-c", "exit 3"]], tmp_path, options)
    assert [s.state for s in queue.states().values()] == ["pending", "running"]
    while any(s.state != "ended" for s in queue.states().values()):
        pass
    assert set(queue.states()) == {("a", 0), ("a", 1)}


@pytest.mark.parametrize(
    "options",
    [
        {"partition": "cpu\nrm -rf /"},
        {"sbatch": ["--exclude=a\rb"]},
        {"qos": "x\x1b"},
        {"setup": ["module load a\nrm -rf /"]},
    ],
)
def test_a_control_character_never_reaches_a_batch_script(options: dict[str, Any]) -> None:
    from peftbench.errors import UsageError
    from peftbench.sweeps.arrays import ArrayOptions
    from peftbench.sweeps.queues import sbatch_parameters

    with pytest.raises(UsageError, match="control character"):
        sbatch_parameters("name", ArrayOptions(**options))
    with pytest.raises(UsageError, match="out_dir="):
        slurm_executor("name", 1, Path("a\nb"), ArrayOptions())


@pytest.mark.parametrize("key", ["out_dir", "data_dir"])
def test_a_control_character_in_a_folder_is_refused_in_any_command(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key}=.*control character"):
        compose(["method=majority", f"{key}='a\nb'"])
    with pytest.raises(UsageError, match=r"out_dir=.*control character"):
        Store("a\nb")
