"""What a command would run, what is done already, what it will cost and what will not fit. Free of torch."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import RunConfig
from peftbench.config.space import value_at
from peftbench.inspect.estimate import CostEstimate, Estimator
from peftbench.inspect.machine import Machine
from peftbench.inspect.shared import sharing
from peftbench.records.leaderboard import newest_rows
from peftbench.records.states import TO_DO, RunState, run_states
from peftbench.records.store import Store
from peftbench.stages import stages_of
from peftbench.sweeps.arrays import ArrayOptions, ArraySpec, arrays
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.launchers import one_out_dir
from peftbench.sweeps.local import LocalOptions

Options = LocalOptions | ArrayOptions
BASIS = 5000
"""Records that estimates rest on, the newest ones: to read all of a hundred thousand takes longer than the rest."""

LONG_STEPS = 20_000
"""Optimiser steps of one training that are a matter of hours or days on a CPU."""


@dataclass(frozen=True)
class PlannedJob:
    """One combination.

    Attributes:
        state: of its run (`peftbench.records.states`), or `mistake`, or `duplicate`.
        run: how its run stands; None for a mistake.
        estimate: what it will cost; None if there is nothing to do.
        misfit: why it will not fit, if it will not.
    """

    job: Job
    state: str
    run: RunState | None = None
    estimate: CostEstimate | None = None
    misfit: str = ""


@dataclass(frozen=True)
class Cost:
    """Of all runs that are to be done and have a basis.

    Attributes:
        wall_seconds: from the first to the last, as many at a time as the launcher does.
        cpu_seconds: of all processes.
        at_a_time: processes, or jobs of an array, side by side.
        unknown: runs without a basis, which are not counted.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float | None
    at_a_time: int
    unknown: int


@dataclass(frozen=True)
class Plan:
    """What a command would do."""

    jobs: list[PlannedJob]
    launcher: str
    options: Options
    cost: Cost
    arrays: list[ArraySpec]
    warnings: list[str]
    shared: list[str]

    @property
    def counts(self) -> Counter[str]:
        """Combinations by state."""
        return Counter(planned.state for planned in self.jobs)

    @property
    def to_do(self) -> list[PlannedJob]:
        """The runs that would be done."""
        return [planned for planned in self.jobs if planned.estimate is not None]

    @property
    def refused(self) -> bool:
        """Whether the command would run nothing because it is wrong."""
        return any(p.job.config is None for p in self.jobs) or all(p.state == "mistake" for p in self.jobs)


def make_plan(jobs: Sequence[Job], launcher: str, options: Options, machine: Machine) -> Plan:
    """Look up every run and estimate those that are to be done."""
    runs = [job for job in jobs if job.config is not None and job.run_id is not None]
    planned = {job.number: PlannedJob(job, "mistake") for job in jobs}
    if runs:
        planned |= {p.job.number: p for p in _look_up(Store(one_out_dir(runs)), runs, options, machine)}
    to_do = [p for p in planned.values() if p.estimate is not None]
    specs = arrays([p.job for p in to_do], options) if isinstance(options, ArrayOptions) else []
    cost = total_cost(to_do, options, specs)
    found = warnings(to_do, cost, options, specs, machine)
    one_process = isinstance(options, LocalOptions) and options.n_jobs == 1
    shared = sharing([p.job.config for p in to_do if p.job.config is not None], one_process)
    return Plan(list(planned.values()), launcher, options, cost, specs, found, shared)


def _look_up(store: Store, jobs: Sequence[Job], options: Options, machine: Machine) -> Iterable[PlannedJob]:
    """The jobs with the states of their runs, and with estimates of those that are to be done."""
    states = run_states(store, [str(job.run_id) for job in jobs])
    estimator: Estimator | None = None
    for job in jobs:
        assert job.config is not None
        run = states[str(job.run_id)]
        again = run.state == "done" and job.config.rerun
        if job.same_as is not None:
            yield PlannedJob(job, "duplicate", run)
        elif run.state in TO_DO or again:
            estimator = estimator or Estimator(newest_rows(store, BASIS))
            cost = estimator.estimate(job.config, device_of(job.config, options, machine))
            state = "pending" if again else run.state
            yield PlannedJob(job, state, run, cost, misfit(job.config, cost, options, machine))
        else:
            yield PlannedJob(job, run.state, run)


def device_of(cfg: RunConfig, options: Options, machine: Machine) -> str:
    """`cuda` or `cpu`: where the run would be done."""
    if not cfg.method.needs_model or cfg.trainer.device == "cpu":
        return "cpu"
    there = options.gpus_per_node if isinstance(options, ArrayOptions) and options.gpus_per_node else machine.gpu_mib
    return "cuda" if cfg.trainer.device == "cuda" or there else "cpu"


def processes_of(cfg: RunConfig, options: Options) -> int:
    """Processes of one run on one machine."""
    if isinstance(options, ArrayOptions) and options.processes > 1:
        return options.tasks_per_node
    return cfg.trainer.devices


def misfit(cfg: RunConfig, estimate: CostEstimate, options: Options, machine: Machine) -> str:
    """Why a run will not fit into the memory that it would get; "" if it will, or nobody knows."""
    count = processes_of(cfg, options)
    limit, whose = machine.memory_mib, "this machine has"
    if isinstance(options, ArrayOptions):
        limit, whose = (options.mem_gb * 1024 if options.mem_gb else None), "hydra.launcher.mem_gb gives"
    if estimate.peak_mib is not None and limit is not None and count * estimate.peak_mib > limit:
        return f"needs about {count * estimate.peak_mib:,.0f} MiB, {whose} {limit:,.0f}"
    gpu = None if isinstance(options, ArrayOptions) else machine.gpu_mib
    if estimate.gpu_mib is not None and gpu is not None and estimate.gpu_mib > gpu:
        return f"needs about {estimate.gpu_mib:,.0f} MiB on a GPU that has {gpu:,.0f}"
    return ""


def total_cost(to_do: Sequence[PlannedJob], options: Options, specs: Sequence[ArraySpec]) -> Cost:
    """Sums over the runs to do; imports are paid once a process."""
    known = known_costs(to_do)
    if isinstance(options, ArrayOptions):
        tasks = [task for spec in specs for task in spec.tasks]
        spans = [span for task in tasks if (span := task_seconds(task, known)) > 0]
        at_a_time = min(len(tasks), options.max_parallel or len(tasks)) if tasks else 0
        start = 0.0
    else:
        spans = [e.seconds or 0.0 for e in known.values()]
        at_a_time = min(options.n_jobs, len(to_do))
        start = max((e.import_seconds for e in known.values()), default=0.0)
    count = {p.job.number: processes_of(p.job.config, options) for p in to_do if p.job.config is not None}
    return Cost(
        wall_seconds=start + makespan(spans, at_a_time),
        cpu_seconds=sum((e.cpu_seconds or e.seconds or 0.0) * count[number] for number, e in known.items()),
        peak_mib=max((e.peak_mib for e in known.values() if e.peak_mib is not None), default=None),
        at_a_time=at_a_time,
        unknown=len(to_do) - len(known),
    )


def known_costs(to_do: Iterable[PlannedJob]) -> dict[int, CostEstimate]:
    """Estimates that have a basis, by the number of the job."""
    return {p.job.number: p.estimate for p in to_do if p.estimate is not None and p.estimate.seconds is not None}


def task_seconds(task: Sequence[int], known: Mapping[int, CostEstimate]) -> float:
    """Wall time of one job of an array: its runs one after the other, the imports once."""
    of = [known[number] for number in task if number in known]
    return max((e.import_seconds for e in of), default=0.0) + sum(e.seconds or 0.0 for e in of)


def makespan(spans: Iterable[float], at_a_time: int) -> float:
    """Seconds until all is done when whoever is free takes the next.

    >>> makespan([3, 2, 2, 1], 2)
    4.0
    """
    free = [0.0] * max(1, at_a_time)
    for span in spans:
        heapq.heapreplace(free, free[0] + span)
    return max(free)


def warnings(
    to_do: Sequence[PlannedJob], cost: Cost, options: Options, specs: Sequence[ArraySpec], machine: Machine
) -> list[str]:
    """What a reader must know before the command is given."""
    found = long_trainings(to_do, options, machine)
    if isinstance(options, ArrayOptions):
        known, limit = known_costs(to_do), 60.0 * options.timeout_min
        spans = [task_seconds(task, known) for spec in specs for task in spec.tasks]
        if late := sum(span > limit for span in spans):
            ends = "they are checkpointed and go on in a new job" if options.requeue else "they end there"
            found.append(f"{late:,} of {len(spans):,} jobs take longer than timeout_min={options.timeout_min}: {ends}")
    elif machine.memory_mib and cost.peak_mib and cost.at_a_time * cost.peak_mib > machine.memory_mib:
        fits = max(1, int(machine.memory_mib // cost.peak_mib))
        found.append(
            f"{cost.at_a_time} processes of up to {cost.peak_mib:,.0f} MiB do not fit into {machine.memory_mib:,.0f} "
            f"MiB together; hydra.launcher.n_jobs={fits} would"
        )
    return found


def long_trainings(to_do: Sequence[PlannedJob], options: Options, machine: Machine) -> list[str]:
    """The keys that set a training of a length for GPUs (`LONG_STEPS`) for runs that would be done on a CPU."""
    asked: Counter[str] = Counter()
    for cfg in (p.job.config for p in to_do if p.job.config is not None):
        if device_of(cfg, options, machine) == "cpu":
            keys = {stage.steps_key for stage in stages_of(cfg.method.stages) if stage.trains}
            asked.update(f"{key}={steps}" for key in keys if (steps := value_at(cfg, key) or 0) >= LONG_STEPS)
    return [
        f"{count:,} x {setting}: a training of a length for GPUs, hours or days on a CPU; fewer take less"
        for setting, count in sorted(asked.items())
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """All that a plan knows, for programs."""
    return {
        "counts": dict(plan.counts),
        "launcher": plan.launcher,
        "cost": vars(plan.cost),
        "arrays": [[list(task) for task in spec.tasks] for spec in plan.arrays],
        "warnings": plan.warnings,
        "shared": plan.shared,
        "runs": [_job_json(planned) for planned in plan.jobs],
    }


def _job_json(planned: PlannedJob) -> dict[str, Any]:
    job, holder = planned.job, planned.run.holder if planned.run else None
    return {
        "number": job.number,
        "overrides": list(job.overrides),
        "run_id": job.run_id,
        "state": planned.state,
        "same_as": job.same_as,
        "error": job.error,
        "owner": str(holder) if holder else None,
        "estimate": vars(planned.estimate) if planned.estimate else None,
        "misfit": planned.misfit,
    }
