"""What users of a SLURM do: they type sweeps, look, and wait. For tests marked `slurm`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from waiting import until

from peftbench.records.states import read_progress
from peftbench.records.store import Store
from peftbench.sweeps.arrays import remembered

BASE = ["model=tiny-bert", "method=lora", "task=demo_news", "tracking.wandb=disabled", "trainer.threads=1"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.poll_s=1"]


def asked(*command: str) -> str:
    """What a command of the cluster says."""
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A living SLURM. Requeued jobs start at once here, where SLURM would let them rest for two minutes, and with a
    fresh time limit."""
    if shutil.which("sbatch") is None:
        pytest.skip("needs SLURM: `make slurm-test` installs one on a Debian machine")
    if subprocess.run(["sinfo"], capture_output=True, timeout=600, check=False).returncode:
        pytest.skip("SLURM does not answer: start one with scripts/slurm_dev_cluster.sh start")
    over = threading.Event()

    def hurry() -> None:
        while not over.wait(1.0):
            try:
                lines = asked("squeue", "--noheader", "--array", "--format=%i|%r|%j").splitlines()
            except subprocess.SubprocessError:  # the cluster is too busy to answer; the next look will do
                continue
            for line in lines:
                job, reason, name = line.split("|")
                if reason == "BeginTime" and name.startswith("peftbench-"):
                    change = [f"JobId={job}", "StartTime=now", "TimeLimit=60"]
                    subprocess.run(["scontrol", "update", *change], check=False)

    threading.Thread(target=hurry, daemon=True).start()
    yield
    over.set()


@pytest.fixture
def clean_up(tmp_path: Path) -> Iterator[None]:
    """A failed test leaves neither commands nor jobs."""
    yield
    for front in Front.started:
        if front.poll() is None:
            front.kill()
    folders = {path.parent.parent for path in tmp_path.glob("**/results/sweeps")}
    if jobs := [job for folder in folders for job in submitted(folder) if job]:
        subprocess.run(["scancel", *jobs], check=False)


class Front:
    """One `peftbench -m ...` of a user."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, folder: Path, *words: str) -> None:
        folder.mkdir(exist_ok=True)
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.log = folder / f"front-{time.monotonic_ns()}.txt"
        with self.log.open("w") as output:
            command = [sys.executable, "-m", "peftbench", "-m", *BASE, *SLURM, *words]
            self.process = subprocess.Popen(
                command, cwd=folder, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        Front.started.append(self.process)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, seconds: float = 900) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the front did not end in {seconds} s. It said:\n{self.said}\n{asked('squeue')}")


def submitted(folder: Path) -> list[str]:
    """Ids of all array jobs that were submitted for a folder's sweeps."""
    return [array.job_id for _, array in remembered(folder / "results" / "sweeps")]


def until_gone(store: Store, run_ids: list[str], pid: int) -> None:
    """Wait until this process does not work on these runs any more."""
    until(lambda: at_work(store, run_ids) != pid)


def at_work(store: Store, run_ids: list[str], steps: int = 0) -> int | None:
    """Process id of whoever works on one of these runs and has done so many steps of it."""
    for run_id in run_ids:
        holder = store.holders().get(run_id)
        if holder and holder.alive and ((read_progress(store.folder(run_id)) or {}).get("step") or 0) >= steps:
            return holder.pid
    return None
