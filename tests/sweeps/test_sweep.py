"""What a sweep's folder remembers, and how its end is told from the records."""

import json
import threading
from dataclasses import asdict

import pytest

from peftbench.errors import UsageError
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.live import labels
from peftbench.sweeps.sweep import Sweep, SweepJob, cause, detail_file, report, warnings_by_kind


def job(number: int, run_id: str | None = None, **facts) -> Job:
    return Job(number, ("method=lora", f"seed={number}"), None, run_id or f"{number:016x}", **facts)


def record(run_id: str, status: str = "done", reason: str = "", created: str = "2999-01-01T00:00:00+00:00") -> Record:
    return Record(
        run_id=run_id,
        status=status,
        created=created,
        model="tiny-bert",
        method="lora",
        task="demo_news",
        subset="eng",
        protocol="default",
        shots=2,
        data_seed=1,
        seed=1,
        metric="f1_weighted",
        score=50.0 if status == "done" else None,
        reason=reason,
    )


def test_a_sweep_is_read_back_as_it_was_written(tmp_path):
    jobs = [job(0), job(1, error="wrong"), job(2, same_as=0)]
    made = Sweep.create(tmp_path, jobs, "local", ["peftbench", "-m", "method=lora"])
    assert Sweep.load(made.folder) == made
    assert Sweep.all(tmp_path) == [made]
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["sweep_id"] == made.sweep_id == made.folder.name
    assert manifest["jobs"][1] == {**asdict(made.jobs[1]), "overrides": ["method=lora", "seed=1"]}
    assert set(manifest) == {"sweep_id", "created", "command", "launcher", "host", "pid", "jobs"}


def test_sweeps_begun_at_the_same_moment_never_share_a_folder(tmp_path, monkeypatch):
    import peftbench.sweeps.sweep as module

    digits = iter(range(1000))
    lock = threading.Lock()

    def hex_digits(count: int) -> str:
        with lock:
            return f"{next(digits) // 4:04x}"  # four of them in a row draw the same name

    monkeypatch.setattr(
        module.secrets, "token_hex", lambda n: hex_digits(n) if n == 2 else "00000000" + str(next(digits))
    )
    threads = [threading.Thread(target=Sweep.create, args=(tmp_path, [job(0)], "local")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Sweep.all(tmp_path)) == 8


def test_damaged_and_foreign_folders_are_no_sweeps(tmp_path):
    sound = Sweep.create(tmp_path, [job(0)], "local")
    for name, content in (("torn", '{"jobs": ['), ("foreign", '{"a": 1}'), ("strange", '{"jobs": [{"x": 1}]}')):
        (tmp_path / "sweeps" / name).mkdir()
        (tmp_path / "sweeps" / name / "manifest.json").write_text(content)
    (tmp_path / "sweeps" / "empty").mkdir()
    assert Sweep.all(tmp_path) == [sound]
    assert Sweep.all(tmp_path / "nowhere") == []


def test_a_folder_that_cannot_be_written_is_a_mistake(tmp_path):
    (tmp_path / "sweeps").write_text("a file")
    with pytest.raises(UsageError, match="sweeps"):
        Sweep.create(tmp_path, [job(0)], "local")


def test_outcomes_come_from_the_records_of_this_sweep(tmp_path):
    store = Store(tmp_path)
    ids = [f"{n:016x}" for n in range(5)]
    long_ago = "2001-01-01T00:00:00+00:00"
    store.save(record(ids[0], created=long_ago))  # done before: counts
    store.save(record(ids[1], "failed", "of an earlier sweep", created=long_ago))  # failed before: is still to be done
    store.save(record(ids[2], "failed", "now"))
    wrong = Job(4, ("seed=4",), None, None, "wrong")
    sweep = Sweep.create(tmp_path, [*(job(n) for n in range(4)), wrong, job(5, run_id=ids[0], same_as=0)], "local")
    outcomes = [(j.number, r.status if r else None) for j, r in sweep.outcomes(store)]
    assert outcomes == [(0, "done"), (1, None), (2, "failed"), (3, None)]


def test_failures_are_grouped_by_cause_with_the_file_that_says_more():
    jobs = [SweepJob(n, (f"seed={n}",), f"{n:016x}") for n in range(9)]

    def failed(n: int, status: str, words: str) -> Record:
        return record(f"{n:016x}", status, words)

    outcomes = [
        (jobs[0], record("0" * 16)),
        (jobs[1], failed(1, "failed", f"ValueError: bad (traceback: results/runs/{1:016x}/traceback.txt)")),
        (jobs[2], failed(2, "diverged", "the training loss became nan at step 3")),
        (jobs[3], failed(3, "diverged", "the training loss became nan at step 7")),
        *((jobs[n], failed(n, "failed", f"killed (log: logs/worker-{n}.log)")) for n in (4, 5, 6, 7)),
        (jobs[8], None),
    ]
    lines = report(outcomes).splitlines()
    assert lines == [
        "4 runs failed: killed",
        *(f"    seed={n}   [{n:016x}]" for n in (4, 5, 6)),
        "    ... and 1 more",
        "    details: logs/worker-4.log",
        "2 runs diverged: the training loss became nan at step N",
        f"    seed=2   [{2:016x}]",
        f"    seed=3   [{3:016x}]",
        "1 run failed: ValueError: bad",
        f"    seed=1   [{1:016x}]",
        f"    details: results/runs/{1:016x}/traceback.txt",
        "1 run not finished",
        f"    seed=8   [{8:016x}]",
    ]
    assert report(outcomes[:1]) == ""


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("", "no reason was recorded"),
        ("Error: a\nb (traceback: x/y (1).txt)", "Error: a"),
        ("run 0123456789abcdef at 0x7f00", "run RUN at 0x..."),
    ],
)
def test_a_cause_is_what_runs_have_in_common(reason, expected):
    assert cause(reason) == expected


def test_the_file_that_a_reason_names():
    assert (
        detail_file("Error: (odd) (traceback: results/runs/a (2)/traceback.txt)") == "results/runs/a (2)/traceback.txt"
    )
    assert detail_file("no file") is None


def test_jobs_are_named_by_what_tells_them_apart():
    jobs = [Job(n, ("shots=2", f"seed={n}"), None, None) for n in (1, 2)]
    assert labels(jobs) == {1: "seed=1", 2: "seed=2"}
    assert labels(jobs[:1]) == {1: "shots=2 seed=1"}
    assert labels([]) == {}


def test_warnings_are_counted_by_kind():
    outcomes = []
    for number, warnings in enumerate((["3 % of `dev` were cut", "flat"], ["12.5 % of `test` were cut"], [], None)):
        made = None if warnings is None else record(f"{number:016x}")
        if made is not None:
            made.diagnosis = {"warnings": warnings}
        outcomes.append((SweepJob(number, (), f"{number:016x}"), made))
    head, *kinds = warnings_by_kind(outcomes)
    assert head == "warnings: 2 runs carry some, each in its record"
    assert kinds == ["    2 runs: 3 % of `dev` were cut", "    1 run: flat"]
    assert warnings_by_kind(outcomes[2:]) == []
