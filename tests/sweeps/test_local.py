"""Many runs in one command on one machine: the results of solo runs, whatever happens to the others."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from waiting import until

from peftbench.cli import main
from peftbench.config import compose
from peftbench.inputs import InputCache
from peftbench.models.backbone_cache import keep_loaded
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.sweeps import local
from peftbench.sweeps import pool as pool_module
from peftbench.sweeps.jobs import compose_jobs, expand
from peftbench.sweeps.order import WaitingJobs
from peftbench.sweeps.pool import Pool, gpus, share
from peftbench.sweeps.run_job import run_job
from peftbench.sweeps.sweep import Sweep

FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2"]
IN_PLACE = ["full", "lora", "dept", "lora"]
"""Tuners that change the backbone: its weights, its modules, or both."""


DEADLY = """
import os, signal
from dataclasses import dataclass
from peftbench.config.schema import TunerConfig
from peftbench.tuners.base import Tuner

@dataclass
class DeadlyConfig(TunerConfig):
    pass

class DeadlyTuner(Tuner):
    families = frozenset({"encoder"})

    def build(self, backbone, context):
        if context.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return backbone.model.requires_grad_(False)

    def param_groups(self, model):
        return {}

    def save(self, model, folder):
        pass

    def load(self, model, folder):
        pass
"""


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    return tmp_path


def records(out_dir: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in (out_dir / "records").glob("*.json")}


def results(out_dir: Path) -> dict[str, tuple]:
    """What must not depend on how a run was started."""
    return {
        name: (r["status"], r["scores"], r["dev_score"], r["curves"], r["predictions"].get("sha256"), r["parameters"])
        for name, r in records(out_dir).items()
    }


def test_runs_on_a_kept_backbone_equal_solo_runs_bit_for_bit(here):
    for method in dict.fromkeys(IN_PLACE):
        run(compose([*FAST, f"method={method}", "out_dir=solo", "trainer.steps=3"]))
    with keep_loaded() as cache:
        for method in IN_PLACE:
            run(compose([*FAST, f"method={method}", "out_dir=kept", "trainer.steps=3", "rerun=true"]))
    assert cache.loads == 1
    assert results(here / "kept") == results(here / "solo")


@pytest.mark.slow
def test_every_tuner_leaves_the_kept_backbone_as_it_was(here):
    from peftbench.config.catalogue import names

    for model in ("tiny-bert", "tiny-t5"):
        methods = [m for m in names("method") if m not in ("file", "peft", "possibility_exploration")]
        methods = [m for m in methods if compose([f"method={m}"]).method.stages == ["supervised"]]
        jobs = compose_jobs(
            [[*FAST, f"model={model}", f"method={m}", "trainer.steps=2", "out_dir=kept"] for m in methods]
        )
        with keep_loaded():
            for job in jobs:
                run_job(job.config, InputCache())
        for job in jobs:
            run_job(replace(job.config, out_dir="solo"), InputCache())
    solo, kept = results(here / "solo"), results(here / "kept")
    assert len(solo) > 60
    assert kept == solo


def test_a_sweep_in_one_process_equals_solo_runs_and_shares_the_backbone(here, capsys):
    assert call("-m", *FAST, "method=full,lora,majority", "seed=1,2", "model=tiny-bert,tiny-llama") == 0
    assert call(*FAST, "method=lora", "seed=2", "model=tiny-bert", "out_dir=solo") == 0
    swept, solo = results(here / "results"), results(here / "solo")
    assert len(swept) == 10
    assert solo.items() <= swept.items()
    printed = capsys.readouterr().out
    assert "a backbone was loaded 2 times for 8 runs" in printed
    assert "2 the same as another" in printed
    assert "10 of 10 runs are done" in printed
    (sweep,) = Sweep.all("results")
    assert {job.run_id for job in sweep.jobs} == swept.keys()
    assert len(sweep.jobs) == 12


@pytest.mark.slow
def test_worker_processes_give_the_same_and_the_rest_goes_on_when_one_is_killed(here, capfd):
    """A user's tuner that kills its process at one seed."""
    (here / "deadly.py").write_text(DEADLY)
    file = ["method=file", "method.tuner.file=deadly.py"]
    command = ["-m", *FAST, *file, "seed=1,2,3", "hydra.launcher.n_jobs=2"]
    assert call(*command) == 1
    by_seed = {r["seed"]: r for r in records(here / "results").values()}
    assert {seed: r["status"] for seed, r in by_seed.items()} == {1: "done", 2: "failed", 3: "done"}
    assert "SIGKILL" in by_seed[2]["reason"]
    shown = capfd.readouterr().out
    assert "2 of 3 runs are done" in shown
    assert "1 run failed: its process ended before it filed a record (killed by SIGKILL)" in shown
    assert "worker-" in shown
    assert call(*FAST, *file, "seed=3", "out_dir=solo") == 0
    assert results(here / "solo").items() <= results(here / "results").items()


def test_worker_processes_do_runs_side_by_side(here, capfd):
    assert call("-m", *FAST, "method=majority,tfidf_lr", "seed=1,2", "hydra.launcher.n_jobs=2") == 0
    assert {r["status"] for r in records(here / "results").values()} == {"done"}
    assert "4 of 4 runs are done" in capfd.readouterr().out
    (sweep,) = Sweep.all("results")
    assert {p.name for p in sweep.logs.iterdir()} == {"worker-0.log", "worker-1.log"}


def test_a_crash_that_no_record_tells_of_is_filed_with_its_traceback(here, monkeypatch, capsys):
    import peftbench.session as session

    monkeypatch.setattr(session, "needed_modules", lambda cfg, data: ["no_such_module"] if cfg.seed == 1 else [])
    assert call("-m", *FAST, "method=majority", "shots=2", "data_seed=1,2", "seed=1,2") == 1
    statuses = [(r["seed"], r["status"]) for r in records(here / "results").values()]
    assert sorted(statuses) == [(1, "failed"), (1, "failed"), (2, "done"), (2, "done")]
    shown = capsys.readouterr().out
    assert shown.count("2 runs failed: ModuleNotFoundError") == 1
    details = shown.rpartition("details: ")[2].splitlines()[0]
    assert "no_such_module" in Path(details).read_text()


def test_on_failure_stop_begins_no_further_run(here, monkeypatch, capsys):
    import peftbench.stages.learning as supervised

    monkeypatch.setattr(supervised, "train", lambda *a, **k: 1 / 0)
    assert call("-m", *FAST, "method=lora", "seed=1,2,3", "hydra.launcher.on_failure=stop") == 1
    assert [r["status"] for r in records(here / "results").values()] == ["failed"]
    shown = capsys.readouterr().out
    assert "2 runs that have not begun are left out" in shown
    assert "2 runs not finished" in shown


def test_a_repeated_sweep_runs_only_what_is_missing(here, monkeypatch, capsys):
    from peftbench.stages.classical.floors import ClassicalPredictor

    real = ClassicalPredictor.fit
    monkeypatch.setattr(
        ClassicalPredictor, "fit", lambda self, rows: 1 / 0 if self.context.cfg.seed == 2 else real(self, rows)
    )
    command = ["-m", *FAST, "method=majority,tfidf_lr", "seed=1,2"]
    assert call(*command) == 1
    first = records(here / "results")
    monkeypatch.setattr(ClassicalPredictor, "fit", real)
    capsys.readouterr()
    assert call(*command) == 0
    second = records(here / "results")
    assert {n for n in first if first[n] == second[n]} == {n for n, r in first.items() if r["seed"] == 1}
    assert "saved: 2 done already" in capsys.readouterr().out
    assert call(*command) == 0
    assert records(here / "results") == second
    assert len(Sweep.all("results")) == 3


def test_a_run_in_other_hands_is_left_to_them_and_looked_at_again(here, monkeypatch, capsys):
    jobs = compose_jobs([[*FAST, "method=majority", f"seed={seed}", "out_dir=results"] for seed in (1, 2)])
    with ExitStack() as other:
        other.enter_context(Store("results").claim(jobs[0].run_id))
        looks = iter([lambda: None, other.close])  # at the second look it is let go
        monkeypatch.setattr(local, "time", SimpleNamespace(sleep=lambda seconds: next(looks)()))
        assert call("-m", *FAST, "method=majority", "seed=1,2") == 0
    shown = capsys.readouterr().out
    assert "is being worked on by process" in shown
    assert "waiting for 1 runs" in shown
    assert {r["status"] for r in records(here / "results").values()} == {"done"}
    assert len(records(here / "results")) == 2
    assert next(looks, None) is None


class WorkerThatIsToldToStop:
    """A worker process in name; while the last of `count` is handed its run, this process gets a signal."""

    sent: ClassVar[list[int]] = []
    begun: ClassVar[list[str]] = []

    def __init__(self, count: int, number: signal.Signals) -> None:
        self.count, self.number, self.stdin, self.returncode = count, number, self, 0

    def write(self, text: str) -> None:
        self.begun.append(text)

    def flush(self) -> None:
        if len(self.begun) == self.count:
            signal.raise_signal(self.number)

    def close(self) -> None: ...

    def send_signal(self, number: int) -> None:
        self.sent.append(number)
        signal.raise_signal(self.number)  # again, as an impatient `kill` does: it is ending already

    def wait(self, seconds: float) -> None: ...


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_a_sweep_stops_its_workers_and_is_told(here, monkeypatch, capsys, number):
    def start(pool: Pool, place: int) -> pool_module._Worker:
        process: Any = WorkerThatIsToldToStop(2, number)
        return pool_module._Worker(place, process, open(os.devnull), here / "log")

    monkeypatch.setattr(WorkerThatIsToldToStop, "sent", [])
    monkeypatch.setattr(WorkerThatIsToldToStop, "begun", [])
    monkeypatch.setattr(Pool, "_start", start)
    monkeypatch.setattr(pool_module.selectors, "DefaultSelector", FakeSelector)
    before = signal.getsignal(number)
    assert call("-m", *FAST, "method=majority", "seed=1,2,3", "hydra.launcher.n_jobs=2") == 128 + number
    assert WorkerThatIsToldToStop.sent == [signal.SIGTERM] * 2
    assert re.search(rf"{number.name}: sweep \S+ ended; 0 of 3 runs are done, 3 runs left", capsys.readouterr().err)
    assert signal.getsignal(number) is before


class FakeSelector(selectors.DefaultSelector):
    """Takes what a real one could not wait for."""

    def register(self, *_: object) -> None: ...  # type: ignore[override]


def test_a_signal_between_two_runs_in_one_process_is_told(here, monkeypatch, capsys):
    real = local.run_jobs

    def run_and_be_stopped(*args):
        ended = real(*args)
        signal.raise_signal(signal.SIGTERM)
        return ended

    monkeypatch.setattr(local, "run_jobs", run_and_be_stopped)
    assert call("-m", *FAST, "method=majority", "seed=1,2") == 143
    assert "1 of 2 runs are done, 1 runs left" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_ends_the_runs_politely_and_tells_what_is_left(here, n_jobs):
    command = [sys.executable, "-m", "peftbench", "-m", *FAST, "method=lora", "seed=1,2,3", "trainer.steps=100000"]
    process = subprocess.Popen(
        [*command, "trainer.eval_every=100000", f"hydra.launcher.n_jobs={n_jobs}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until(lambda: len(training(here / "results")) == n_jobs)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group in the foreground
    shown, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "3 runs left" in shown
    assert "Traceback" not in shown
    assert {r["status"] for r in records(here / "results").values()} == {"interrupted"}
    assert len(records(here / "results")) == n_jobs
    assert not Store("results").holders()


@pytest.mark.slow
def test_no_worker_outlives_a_killed_front(here):
    command = [sys.executable, "-m", "peftbench", "-m", *FAST, "method=lora", "seed=1,2", "trainer.steps=100000"]
    process = subprocess.Popen([*command, "trainer.eval_every=100000", "hydra.launcher.n_jobs=2"])
    until(lambda: len(training(here / "results")) == 2)
    process.kill()
    process.wait()
    until(lambda: not any(holder.alive for holder in Store("results").holders().values()))


def training(out_dir: Path) -> list[Path]:
    """Progress files of runs that have begun to train."""
    return [p for p in out_dir.glob("runs/*/progress.json") if '"train"' in p.read_text()]


def test_runs_of_one_backbone_follow_each_other_and_helpers_take_the_least_begun():
    inputs = InputCache()
    jobs = compose_jobs(expand(["seed=1,2", "method=lora,full", "model=tiny-bert,tiny-t5", "shots=2"]), inputs)
    line = WaitingJobs(jobs, inputs)
    first, key = line.take()
    _, other_key = line.take()  # a second process takes the other backbone
    assert key != other_key
    assert {line.take(key)[0].config.model.name for _ in range(3)} == {first.config.model.name}
    _, helped_key = line.take(key)
    assert helped_key == other_key
    assert len(line) == 2
    line.clear()
    assert line.take(key) is None


def test_a_worker_gets_a_gpu_of_its_own_and_its_part_of_the_cores():
    assert gpus({"CUDA_VISIBLE_DEVICES": "3,5"}) == ["3", "5"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}) == gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    given = [share({"CUDA_VISIBLE_DEVICES": "3,5", "OMP_NUM_THREADS": "1"}, place, 3) for place in range(3)]
    assert [own["CUDA_VISIBLE_DEVICES"] for own in given] == ["3", "5", "3"]
    assert "OMP_NUM_THREADS" not in given[0]
    assert "CUDA_VISIBLE_DEVICES" not in share({"CUDA_VISIBLE_DEVICES": "3,5"}, 0, 1)
    assert int(share({"CUDA_VISIBLE_DEVICES": ""}, 0, 10_000)["OMP_NUM_THREADS"]) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["method=lora,detp"], "Did you mean `dept`?"),
        (["seed=1,-1"], "seed=-1"),
        (["hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: must be at least 1"),
        (["hydra.launcher.on_failure=go"], "hydra.launcher.on_failure=go"),
        (["out_dir=a,b"], "one folder"),
        (["shots=9999"], "too few rows"),
        (["seed=interval(1,2)"], "list of values"),
        (["hydra/launcher=slrum"], "slrum"),
        (["hydra.launcher.jobs=3"], "jobs"),
        (["task=3"], "task"),
    ],
)
def test_a_wrong_sweep_runs_and_writes_nothing(here, capsys, args, words):
    assert call("-m", *FAST, *args) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert list(here.iterdir()) == []


def test_a_combination_that_cannot_be_a_run_leaves_no_folder(here, capsys):
    assert call("-m", *FAST, "method=lm_bff", "model=tiny-bert,tiny-llama") == 2
    assert "could not start: model=tiny-llama: method/formulation=cloze does not fit" in capsys.readouterr().out
    assert {p.name for p in (here / "results" / "runs").iterdir()} == records(here / "results").keys()
