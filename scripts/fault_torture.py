"""Kill runs at random moments, give their commands again until they are done, and count what was lost.

    python scripts/fault_torture.py --kills 200 --seed 1 --seconds 1800

Each run is one command line on a tiny random model, started in a fork of this process, which has everything imported
already. It gets a SIGKILL or a SIGTERM in a phase drawn at random (reading data, loading, training, evaluation, writing
of files and record), at a random moment of that phase; now and then the same command is given twice at once. In
other attempts the disk fails (full from a random write on, or one EIO or ESTALE), or another machine takes the claim.
In the end scores, curves and predictions must equal those of the same commands undisturbed, and the
leaderboard the records.
Prints a table; exit code 1 if anything was lost, double, unreadable or different.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork must not find threads that it does not have
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from peftbench.cli import main as peftbench
from peftbench.config import compose
from peftbench.inspect.gc import GcOptions, leftovers, remove
from peftbench.records import leaderboard
from peftbench.records.record import Record
from peftbench.records.store import Store

COMMON = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2"]
COMMON += ["trainer.steps=24", "trainer.eval_every=6", "trainer.device=cpu", "trainer.save=all"]
KINDS = [
    ["method=lora", "trainer.checkpoint_every=5"],
    ["method=dept"],
    ["method=full", "trainer.checkpoint_every=7", "method.stages=[supervised,supervised]"],
    ["method=adalora", "method.stages=[supervised,supervised]"],
    ["method=tfidf_lr"],
]
PHASES = ["data", "load", "train", "eval", "save"]
TWICE = 0.15
"""Share of the attempts for which the command is given twice at the same time."""
FAULTY = 0.35
"""Share of the attempts in which the disk fails or the claim is lost."""
DISK = {"full disk": (errno.ENOSPC, 10**9), "EIO": (errno.EIO, 1), "ESTALE": (errno.ESTALE, 1)}
"""What the disk answers, and how many writes in a row."""
LOST = "lost claim"
CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "utime")
DONE, CLAIMED = 0, 2
STOPPED = CLAIMED
"""Exit code of a run whose disk failed or whose claim was lost: as for one that gave way."""


@dataclass
class Tally:
    """What happened."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and by what came of the attempt: it stopped with a message, or it was done all the same."""
    attempts: int = 0
    rivals: int = 0
    given_way: int = 0
    leftovers: int = 0
    """Found and removed by gc: of processes that were killed between the record and the tidying up."""
    problems: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


def command(number: int, out_dir: Path) -> list[str]:
    """The command line of the run with that number."""
    return [*COMMON, *KINDS[number % len(KINDS)], f"seed={number + 1}", f"out_dir={out_dir}"]


@dataclass
class Disk:
    """Counts the calls of this process that change the disk; `times` of them fail with `code`, from `first` on."""

    first: int = 0
    code: int = 0
    times: int = 0
    calls: int = 0

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                self.calls += 1
                if self.first <= self.calls < self.first + self.times:
                    raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


def start(args: list[str], log: Path, disk: Disk | None = None) -> int:
    """Give the command in a process of its own, with that disk; its id. How often it wrote is noted beside the log."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if disk is not None:
            disk.install()
        peftbench(args)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        if disk is not None and not disk.times:
            log.with_suffix(".calls").write_text(str(disk.calls))
        os._exit(code)


def ended(pid: int) -> int | None:
    """Exit code, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def phase_of(folder: Path) -> str:
    """What the run says that it is doing; it reads data as long as it says nothing."""
    with suppress(OSError, ValueError):
        return json.loads((folder / "progress.json").read_bytes())["phase"]
    return "data"


def attempt(
    args: list[str], folder: Path, typical: dict[str, float], dice: random.Random, tally: Tally, log: Path
) -> bool:
    """Give the command once, kill it in a phase drawn at random if it gets there; whether it came to its end."""
    tally.attempts += 1
    target, number = dice.choice(PHASES), dice.choice([signal.SIGKILL, signal.SIGTERM])
    pid = start(args, log)
    rival = None
    if dice.random() < TWICE:
        time.sleep(dice.random() * typical["data"])
        rival, tally.rivals = start(args, log), tally.rivals + 1
    code = None
    while code is None and phase_of(folder) != target:
        time.sleep(0.001)
        code = ended(pid)
    if code is None:
        time.sleep(dice.random() * 1.2 * typical[target])
        at = phase_of(folder)
        code = ended(pid)
    if code is None:
        os.kill(pid, number)
        code = wait(pid)
        if code in (-number, 128 + number):
            tally.kills[at, number.name] += 1
        elif code not in (DONE, CLAIMED):
            tally.problems.append(f"{args}: exit code {code} after {number.name}")
    codes = {code, wait(rival)} if rival is not None else {code}
    tally.given_way += CLAIMED in codes
    if not codes <= {DONE, CLAIMED, -number, 128 + number} or (rival is None and code == CLAIMED):
        tally.problems.append(f"{args}: exit codes {codes}")
    return DONE in codes


def faulty(
    args: list[str], store: Store, run_id: str, calls: int, dice: random.Random, tally: Tally, log: Path
) -> bool:
    """Give the command once, on a disk that fails or with a claim that is lost; whether it came to its end."""
    tally.attempts += 1
    kind = dice.choice([*DISK, LOST])
    if kind == LOST:
        code = wait_without_claim(start(args, log), store, run_id, dice.choice(PHASES))
    else:
        code = wait(start(args, log, Disk(dice.randint(1, calls), *DISK[kind])))
    tally.faults[kind, "done" if code == DONE else "stopped"] += 1
    if code not in (DONE, STOPPED):
        tally.problems.append(f"{args}: exit code {code} after {kind}")
    return code == DONE


def wait_without_claim(pid: int, store: Store, run_id: str, phase: str) -> int:
    """Take the run's claim in that phase, as another machine would that has not seen its heart beat; the exit code."""
    code, foreign = None, store.claims / f"{run_id}.{'f' * 16}.json"
    while code is None and (phase_of(store.folder(run_id)) != phase or not list(store.claims.glob(f"{run_id}.*.json"))):
        time.sleep(0.001)
        code = ended(pid)
    with suppress(FileNotFoundError, ValueError):  # it may give the claim back in this moment
        (own,) = store.claims.glob(f"{run_id}.*.json")
        foreign.write_text(json.dumps({**json.loads(own.read_bytes()), "machine": "another"}))
        own.unlink()
    code = wait(pid) if code is None else code
    foreign.unlink(missing_ok=True)
    return code


def look(store: Store, expected: set[str], tally: Tally) -> dict[str, Record]:
    """What a reader finds at this moment: every record whole, every line of the leaderboard too."""
    records = {record.run_id: record for record in store.all()}
    if strange := records.keys() - expected:
        tally.problems.append(f"records of runs that were never asked for: {strange}")
    if (store.out_dir / "quarantine").exists():
        tally.problems.append("a record was unreadable")
    with suppress(FileNotFoundError):
        lines = (store.out_dir / "leaderboard.csv").read_bytes().split(b"\r\n")
        if lines[-1] != b"":
            tally.problems.append("the leaderboard was torn")
    return records


def same(one: Record, other: Record) -> bool:
    """Whether two records tell of the same result, bit for bit."""
    names = ("run_id", "status", "score", "scores", "dev_score", "curves", "predictions", "lr")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def torture(home: Path, kills: int, seconds: float, dice: random.Random, tally: Tally) -> int:
    """Do one run after the other until enough were killed; the number of runs."""
    whole, store, deadline = Store(home / "whole"), Store(home / "tortured"), time.monotonic() + seconds
    expected: dict[str, Record] = {}
    number = 0
    while tally.killed < kills and time.monotonic() < deadline:
        if wait(start(command(number, whole.out_dir), home / "whole.log", Disk())) != DONE:
            raise SystemExit(f"the undisturbed run {command(number, whole.out_dir)} failed; see {home}/whole.log")
        (new,) = [record for record in whole.all() if record.run_id not in expected]
        expected[new.run_id] = new
        spent = new.seconds
        typical = {"data": spent["data"] + 0.05, "load": spent["model"] + spent["method"] + spent["import"] + 0.02}
        typical |= {name: spent[name] for name in ("train", "eval")} | {"save": spent["save"] + 0.02}
        args, calls = command(number, store.out_dir), int((home / "whole.calls").read_text())
        done = False
        while not done:
            if tally.killed < kills and time.monotonic() < deadline and dice.random() < FAULTY:
                done = faulty(args, store, new.run_id, calls, dice, tally, home / "tortured.log")
            elif tally.killed < kills and time.monotonic() < deadline:
                done = attempt(args, store.folder(new.run_id), typical, dice, tally, home / "tortured.log")
            else:
                done = wait(start(args, home / "tortured.log")) == DONE
                tally.attempts += 1
            look(store, set(expected), tally)
        number += 1
        print(f"\r{tally.killed} of {kills} kills, {number} runs, {tally.attempts} attempts", end="", file=sys.stderr)
    print(file=sys.stderr)
    verify(store, expected, tally)
    return number


def verify(store: Store, expected: dict[str, Record], tally: Tally) -> None:
    """Nothing lost, double or different; the leaderboard equal to the records; gc finds all that was left behind."""
    records = look(store, set(expected), tally)
    tally.problems += [f"lost: {run_id}" for run_id in expected.keys() - records.keys()]
    tally.problems += [f"different: {n}" for n, r in records.items() if n in expected and not same(r, expected[n])]
    rows = leaderboard.rows(list(records.values()))
    if (store.out_dir / "leaderboard.csv").read_bytes() != leaderboard.to_csv(rows):
        tally.problems.append("the leaderboard does not equal the records")
    tally.leftovers = len(list(remove(store, list(leftovers(store, GcOptions())), GcOptions())))
    left = [*store.out_dir.glob("runs/*/stages/*"), *store.out_dir.glob("runs/*/progress.json")]
    left += [str(holder) for holder in store.holders().values()]
    tally.problems += [f"left behind: {each}" for each in left]
    for run_id, record in records.items():
        if not record.compute.get("attempts") or not (store.folder(run_id) / "predictions.jsonl").exists():
            tally.problems.append(f"no predictions: {run_id}")


def table(tally: Tally, runs: int, wall: float) -> str:
    """The report."""
    lines = [f"{'killed while':<14}{'SIGKILL':>9}{'SIGTERM':>9}"]
    for phase in PHASES:
        lines.append(f"{phase:<14}{tally.kills[phase, 'SIGKILL']:>9}{tally.kills[phase, 'SIGTERM']:>9}")
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in usage)
    lines.append(f"{tally.killed} kills in {tally.attempts} attempts at {runs} runs")
    for kind in [*DISK, LOST]:
        stopped, done = tally.faults[kind, "stopped"], tally.faults[kind, "done"]
        lines.append(f"{kind:<14}{stopped + done:>9}, of which {stopped} ended the attempt with a message")
    lines.append(f"{tally.rivals} times given twice at once, of which {tally.given_way} gave way to a claim")
    lines.append(
        f"{tally.leftovers} leftovers of processes that died just after they had filed a record, removed by gc"
    )
    lines.append(f"{wall:.0f} s, {cpu:.0f} CPU seconds")
    kinds = Counter(problem.partition(":")[0] for problem in tally.problems)
    lines.append(f"{kinds['lost']} lost, {kinds['different']} different, {len(tally.problems)} problems in all")
    return "\n".join([*lines, *tally.problems])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1800, help="start no further kill after this time")
    parser.add_argument("--folder", type=Path, help="keep everything there; a temporary folder is removed at the end")
    options = parser.parse_args()
    preload()
    began, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory(prefix="peftbench-torture-") as temporary:
        home = options.folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        runs = torture(home.absolute(), options.kills, options.seconds, random.Random(options.seed), tally)
    print(table(tally, runs, time.monotonic() - began))
    return 1 if tally.problems else 0


def preload() -> None:
    """Import what the runs need, so that a fork has it."""
    from importlib import import_module

    from peftbench.session import needed_modules
    from peftbench.tasks import data_dir, load_task

    for kind in KINDS:
        cfg = compose([*COMMON, *kind])
        needed = needed_modules(cfg, load_task(cfg.task, data_dir(cfg)))
        for name in [*needed, "peftbench.build", "peft", "transformers.models.bert"]:
            import_module(name)


if __name__ == "__main__":
    sys.exit(main())
