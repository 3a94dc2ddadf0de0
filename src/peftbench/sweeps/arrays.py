"""Array jobs of a sweep: how runs are packed into tasks, and what a sweep's folder remembers of them. Free of torch.

out_dir/sweeps/<sweep_id>/arrays/
  <n>.tasks.jsonl     what the jobs read: a line a task, a list of runs with their whole configs
  <n>.json            what was submitted: name, job id, the run ids of each task
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peftbench.config.schema import number, one_of
from peftbench.files import readable_errors, write_atomic
from peftbench.sweeps.jobs import Job, backbone_key

log = logging.getLogger(__name__)

FOLDER = "arrays"


@dataclass
class ArrayOptions:
    """`conf/hydra/launcher/slurm.yaml`, which says what each knob does."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = number(60, ge=1)
    mem_gb: float | None = number(None, gt=0)
    cpus_per_task: int | None = number(None, ge=1)
    gpus_per_node: int | None = number(None, ge=1)
    nodes: int = number(1, ge=1)
    tasks_per_node: int = number(1, ge=1)
    runs_per_job: int = number(1, ge=1)
    max_parallel: int | None = number(None, ge=1)
    max_array: int = number(1000, ge=1)
    signal_delay_s: int = number(120, ge=1)
    requeue: bool = True
    max_requeue: int = number(20, ge=0)
    setup: list[str] = field(default_factory=list)
    sbatch: list[str] = field(default_factory=list)
    wait: bool = True
    poll_s: float = number(10.0, gt=0)
    on_failure: str = one_of("continue", "stop", default="continue")

    @property
    def processes(self) -> int:
        """Processes that train one run together."""
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class ArraySpec:
    """One array job that would be submitted."""

    tasks: tuple[tuple[int, ...], ...]
    """Numbers of the runs of each task; those of a task share a backbone and are done one after the other."""
    options: ArrayOptions

    def __str__(self) -> str:
        sizes = sorted({len(task) for task in self.tasks})
        runs = f"{sizes[0]}-{sizes[-1]} runs" if len(sizes) > 1 else f"{sizes[0]} run{'s' if sizes[0] > 1 else ''}"
        of = self.options
        facts = [f"{runs} each", f"{of.timeout_min} min"]
        facts += [f"{of.mem_gb:g} GB"] if of.mem_gb else []
        facts += [f"{of.gpus_per_node} GPU{'s' if of.gpus_per_node > 1 else ''} a node"] if of.gpus_per_node else []
        facts += [f"{of.nodes} nodes"] if of.nodes > 1 else []
        facts += [f"{of.processes} processes a run"] if of.processes > 1 else []
        facts += [f"{of.max_parallel} at a time"] if of.max_parallel else []
        return f"array of {len(self.tasks)} job{'s' if len(self.tasks) > 1 else ''}: {', '.join(facts)}"


def arrays(jobs: Sequence[Job], options: ArrayOptions) -> list[ArraySpec]:
    """How `jobs` would be submitted: runs of one backbone together, `runs_per_job` a task, `max_array` tasks an array.

    Jobs that are wrong or the same as another are left out; that others are done already is the caller's business.
    """
    by_backbone: dict[str, list[int]] = {}
    for job in jobs:
        if job.config is not None and job.run_id is not None and job.same_as is None:
            by_backbone.setdefault(backbone_key(job.config), []).append(job.number)
    tasks = [tuple(pack) for numbers in by_backbone.values() for pack in chunks(numbers, options.runs_per_job)]
    return [ArraySpec(tuple(part), options) for part in chunks(tasks, options.max_array)]


def chunks(items: Sequence, size: int) -> list[Sequence]:
    """Consecutive parts of at most `size` items.

    >>> chunks([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


@dataclass
class SubmittedArray:
    """An array job that was handed to a queue, as its sweep's folder remembers it."""

    name: str
    """Name of the job; holds the sweep's id, so no other job has it."""
    job_id: str
    submitted: str
    """UTC, ISO 8601."""
    tasks: list[list[str]]
    """Run ids of each task."""
    earlier: dict[str, str]
    """`created` of the record that a run had before: while a run's record is that one, this job has not ended it."""


@dataclass(frozen=True)
class TaskRun:
    """One run of a task."""

    run_id: str
    config: dict[str, Any]
    earlier: str | None
    """See `SubmittedArray.earlier`."""


@dataclass(frozen=True)
class ArrayTask:
    """What one task of an array has to do, as its job reads it."""

    runs: list[TaskRun]
    options: ArrayOptions


def write_tasks(folder: Path, index: int, tasks: Sequence[ArrayTask]) -> Path:
    """The file that the tasks of array `index` of a sweep read, each its own line."""
    path = folder / FOLDER / f"{index}.tasks.jsonl"
    with readable_errors("write to", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(task)) + "\n" for task in tasks).encode())
    return path


def read_task(path: Path, index: int) -> ArrayTask:
    """The task of that index. Raises IndexError if there is none."""
    with path.open(encoding="utf-8") as lines:
        line = next(itertools.islice(lines, index, None), None)
    if line is None:
        raise IndexError(f"{path} has no task {index}")
    plain = json.loads(line)
    return ArrayTask([TaskRun(**run) for run in plain["runs"]], ArrayOptions(**plain["options"]))


def task_folder(tasks: Path, index: int) -> Path:
    """Where the processes of a task print: `tasks` is the file of its array in `<sweep>/arrays`."""
    return tasks.parent.parent / "logs" / f"{tasks.name.partition('.')[0]}-{index}"


def remember(folder: Path, index: int, array: SubmittedArray) -> None:
    """Write down what was submitted, or (before that, with an empty job id) what is about to be."""
    write_atomic(folder / FOLDER / f"{index}.json", json.dumps(asdict(array), indent=1).encode())


def remembered(sweeps: Path) -> list[tuple[Path, SubmittedArray]]:
    """All arrays of all sweeps in this folder, with the folder of their sweep."""
    found = []
    for path in sorted(sweeps.glob(f"*/{FOLDER}/*.json")):
        try:
            found.append((path.parent.parent, SubmittedArray(**json.loads(path.read_bytes()))))
        except (OSError, ValueError, TypeError) as error:
            log.warning(
                "%s cannot be read (%s): if its jobs are still queued, their runs may be submitted again.", path, error
            )
    return found


def now() -> str:
    """This moment as records write it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
