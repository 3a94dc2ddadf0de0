"""plan says what a command would do, without doing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_sweeps import dead_claim, file_record, put

from peftbench.errors import UsageError
from peftbench.inspect import machine, plan_command
from peftbench.inspect.estimate import CostEstimate
from peftbench.inspect.machine import Machine
from peftbench.inspect.plan import Plan, make_plan, makespan
from peftbench.records.store import Store
from peftbench.sweeps.arrays import ArrayOptions
from peftbench.sweeps.jobs import Job, compose_jobs, expand
from peftbench.sweeps.local import LocalOptions

RICH = Machine(memory_mib=64_000.0, gpu_mib=None)
TRAINER = {"steps": 160, "epochs": None, "batch_size": 8, "micro_batch": None, "max_length": 128}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def jobs_of(store: Store, *overrides: str) -> list[Job]:
    return compose_jobs(expand(["model=tiny-bert", f"out_dir={store.out_dir}", *overrides]))


def plan_of(store: Store, *overrides: str, options: object = None, machine: Machine = RICH) -> Plan:
    return make_plan(jobs_of(store, *overrides), "local", options or LocalOptions(), machine)  # type: ignore[arg-type]


def ran(store: Store, job: Job, status: str = "done") -> None:
    """The record of a run of 105 s, 5 s of imports in it, in a process of 1,000 MiB."""
    assert job.config is not None
    file_record(
        store,
        str(job.run_id),
        status,
        method=job.config.method.name,
        seed=job.config.seed,
        seconds={"train": 80.0, "eval": 20.0, "import": 5.0, "total": 105.0},
        cpu_seconds={"train": 70.0, "eval": 10.0, "import": 4.0},
        memory={"train_peak_mib": 200.0, "process_peak_mib": 1000.0},
        compute={"steps": 160},
        environment={"device": "cpu"},
        config={"trainer": TRAINER},
    )


def states(plan: Plan) -> dict[str, str]:
    return {" ".join(p.job.overrides[2:]): p.state for p in plan.jobs}


def test_every_state(store: Store) -> None:
    jobs = jobs_of(store, "method=lora", "seed=1,2,3,4,5,6,1,-1")
    for job, status in zip(jobs, ("done", "failed", "interrupted"), strict=False):
        ran(store, job, status)
    put(store.folder(str(jobs[3].run_id)) / "draw.json")
    dead_claim(store, str(jobs[3].run_id))
    with store.claim(str(jobs[4].run_id)):
        plan = plan_of(store, "method=lora", "seed=1,2,3,4,5,6,1,-1")
    assert [p.state for p in plan.jobs] == [
        "done", "failed", "interrupted", "unfinished", "running", "pending", "duplicate", "mistake"
    ]  # fmt: skip
    assert [p.job.number for p in plan.to_do] == [1, 2, 3, 5]
    assert plan.jobs[6].job.same_as == 0
    assert "seed=-1" in plan.jobs[7].job.error
    assert plan.refused


def test_rerun_does_what_is_done_again(store: Store) -> None:
    for job in jobs_of(store, "method=lora", "seed=1,2"):
        ran(store, job)
    assert not plan_of(store, "method=lora", "seed=1,2").to_do
    assert len(plan_of(store, "method=lora", "seed=1,2", "rerun=true").to_do) == 2


def test_data_that_is_wrong_is_a_mistake_of_its_own_and_the_rest_goes_on(store: Store) -> None:
    plan = plan_of(store, "method=lora", "shots=5,5000")
    assert [p.state for p in plan.jobs] == ["pending", "mistake"]
    assert "too few rows" in plan.jobs[1].job.error
    assert not plan.refused


def test_cost_of_what_is_missing(store: Store) -> None:
    jobs = jobs_of(store, "method=lora,dept", "seed=1,2,3")
    ran(store, jobs[0])
    plan = plan_of(store, "method=lora,dept", "seed=1,2,3")
    assert len(plan.to_do) == 5
    assert plan.cost.unknown == 0
    assert plan.cost.wall_seconds == 5 + 5 * 100.0  # the imports once
    assert plan.cost.cpu_seconds == 5 * 80.0
    assert plan.cost.peak_mib == 1000.0
    bases = {p.estimate.basis for p in plan.to_do if p.estimate}
    assert bases == {"1 run of the same model, method, task and shots", "1 run of the same model, other methods"}
    assert plan_of(store, "method=lora,dept", "seed=1,2,3", options=LocalOptions(n_jobs=2)).cost.wall_seconds == 305
    assert plan_of(store, "method=lora", "seed=9", "trainer.steps=320").cost.wall_seconds == 5 + 180.0


def test_without_records_there_is_no_basis(store: Store) -> None:
    plan = plan_of(store, "method=lora", "seed=1,2")
    assert (plan.cost.unknown, plan.cost.wall_seconds, plan.cost.peak_mib) == (2, 0.0, None)
    assert not store.out_dir.exists()  # a plan leaves nothing behind


def test_what_will_not_fit(store: Store) -> None:
    ran(store, jobs_of(store, "method=lora", "seed=1")[0])

    def misfits(*overrides: str, options: object = None, machine: Machine = RICH) -> list[str]:
        plan = plan_of(store, "method=lora", "seed=2", *overrides, options=options, machine=machine)
        return [p.misfit for p in plan.to_do if p.misfit]

    small = Machine(memory_mib=900.0, gpu_mib=None)
    assert misfits() == []
    assert misfits(machine=small) == ["needs about 1,000 MiB, this machine has 900"]
    assert misfits("trainer.devices=100") == ["needs about 100,000 MiB, this machine has 64,000"]
    assert misfits(machine=Machine(None, None)) == []
    assert misfits(options=ArrayOptions(mem_gb=0.5)) == ["needs about 1,000 MiB, hydra.launcher.mem_gb gives 512"]
    assert misfits(options=ArrayOptions(mem_gb=1), machine=small) == []
    assert misfits(options=ArrayOptions(), machine=small) == []  # it is the cluster's machines that matter
    assert len(misfits(options=ArrayOptions(mem_gb=1, tasks_per_node=2))) == 1


def test_a_gpu_that_is_too_small(store: Store) -> None:
    (job,) = jobs_of(store, "method=lora", "seed=1")
    ran(store, job)
    record = store.load(str(job.run_id))
    assert record is not None
    record.environment["device"] = "cuda"
    record.memory |= {"train_peak_reserved_mib": 30_000.0}
    store.save(record)
    plan = plan_of(store, "method=lora", "seed=2", machine=Machine(64_000.0, gpu_mib=16_000.0))
    assert [p.misfit for p in plan.to_do] == ["needs about 30,000 MiB on a GPU that has 16,000"]


def test_processes_that_do_not_fit_together(store: Store) -> None:
    ran(store, jobs_of(store, "method=lora", "seed=1")[0])
    command = ("method=lora", "seed=2,3,4,5")
    machine = Machine(memory_mib=2_500.0, gpu_mib=None)
    (warning,) = plan_of(store, *command, options=LocalOptions(n_jobs=4), machine=machine).warnings
    assert "4 processes of up to 1,000 MiB do not fit into 2,500 MiB together; hydra.launcher.n_jobs=2" in warning
    assert plan_of(store, *command, options=LocalOptions(n_jobs=2), machine=machine).warnings == []


def test_a_training_of_a_length_for_gpus_is_warned_of(store: Store) -> None:
    command = ["method=madx", "model=tiny-bert", "task=demo_news"]
    (warning,) = plan_of(store, *command).warnings
    assert warning.startswith("1 x method.language_adapters.steps=50000: ")
    assert plan_of(store, *command, "method.language_adapters.steps=300").warnings == []
    assert plan_of(store, *command, options=ArrayOptions(gpus_per_node=1)).warnings == []
    (warning,) = plan_of(store, "method=lora", "trainer.steps=20000").warnings
    assert warning.startswith("1 x trainer.steps=20000: ")


def test_arrays_that_would_be_submitted(store: Store) -> None:
    jobs = jobs_of(store, "method=lora", "seed=1,2,3,4,5,6")
    ran(store, jobs[0])
    options = ArrayOptions(runs_per_job=2, timeout_min=3, max_parallel=2)
    plan = plan_of(store, "method=lora", "seed=1,2,3,4,5,6", options=options)
    assert [spec.tasks for spec in plan.arrays] == [((1, 2), (3, 4), (5,))]
    assert plan.cost.at_a_time == 2
    assert plan.cost.wall_seconds == 205 + 105
    (warning,) = plan.warnings
    assert "2 of 3 jobs take longer than timeout_min=3" in warning


def test_makespan() -> None:
    assert makespan([], 3) == 0
    assert makespan([5, 1, 1, 1], 2) == 5
    assert makespan([2, 2, 2], 5) == 2
    assert makespan([1, 2, 3], 1) == 6


# --- the command


def call(store: Store, capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert plan_command.plan_command(["model=tiny-bert", f"out_dir={store.out_dir}", *argv]) == code
    return capsys.readouterr().out


def test_the_screen(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_of(store, "method=lora", "seed=range(1,41)")
    for job in jobs[:3]:
        ran(store, job)
    with store.claim(str(jobs[3].run_id)):
        text = call(store, capsys, "-m", "method=lora", "seed=range(1,41)")
        everything = call(store, capsys, "-m", "method=lora", "seed=range(1,41)", "--all")
    assert "40 combinations, launcher local" in text
    assert "about 1.0 h, 1 at a time; 48 min of CPU, up to 1,000 MiB a process" in text
    assert "36 from: median of 3 runs of the same model, method, task and shots" in text
    assert "claimed: 1 by process" in text
    assert "20 more; `--all` shows them" in text
    assert all(str(job.run_id) in everything for job in jobs)


def test_mistakes_are_named_once_each_with_an_example(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    text = call(store, capsys, "method=lora,lorra", "seed=1,2", code=2)
    assert "mistake: 2 x method=lorra: no such method. Did you mean `lora`?" in text
    assert "for example model=tiny-bert" in text
    assert "the whole command would be refused" in text
    assert "would be refused" not in call(store, capsys, "method=lora", "shots=5,5000", code=2)


def test_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran(store, jobs_of(store, "method=lora", "seed=1")[0])
    told = json.loads(call(store, capsys, "method=lora", "seed=1,2", "hydra/launcher=slurm", "--json"))
    assert told["counts"] == {"done": 1, "pending": 1}
    assert told["launcher"] == "slurm"
    assert told["arrays"] == [[[1]]]
    assert told["runs"][1]["estimate"]["seconds"] == 100.0
    assert told["runs"][0]["estimate"] is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--jsn"], "plan --jsn: no such option. Did you mean `--json`"),
        (["hydra/launcher=slrum"], "hydra/launcher=slrum: no such launcher. Did you mean `slurm`"),
        (
            ["hydra/launcher=slurm", "hydra.launcher.tmeout_min=3"],
            "tmeout_min: no such key. Did you mean `timeout_min`",
        ),
        (["hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: must be at least 1"),
        (["seed=[1"], "seed=[1: cannot be read"),
    ],
)
def test_wrong_commands(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan_command.plan_command(argv)
    assert message in str(raised.value)


def test_the_launchers_options_are_those_of_its_file_and_the_command() -> None:
    name, options = plan_command.chosen_launcher(["seed=1", "hydra/launcher=slurm", "hydra.launcher.poll_s=9"])
    assert name == "slurm"
    assert isinstance(options, ArrayOptions)
    assert (options.poll_s, options.max_requeue) == (9.0, 20)
    assert plan_command.chosen_launcher(["seed=1"]) == ("local", LocalOptions())


def test_this_machine() -> None:
    found = machine.this_machine()
    assert found.memory_mib is not None
    assert 100 < found.memory_mib < 1e8


def test_an_estimate_without_memory_fits_anywhere(store: Store) -> None:
    from peftbench.inspect.plan import misfit

    (job,) = jobs_of(store, "method=lora", "seed=1")
    assert job.config is not None
    assert misfit(job.config, CostEstimate(1.0, None, "x"), LocalOptions(), Machine(1.0, 1.0)) == ""
