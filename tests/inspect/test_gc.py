"""gc removes what nobody needs, only when told to, and never under the hands of a living process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_sweeps import age, begin_sweep, dead_claim, file_record, put

from peftbench.errors import UsageError
from peftbench.inspect import gc
from peftbench.inspect.gc import GcOptions, gc_command, leftovers
from peftbench.records.store import Store

STAGE = "stages/0-supervised"
DONE, CUT, LOST, FRESH = "d" * 16, "c" * 16, "a" * 16, "b" * 16


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One run of each kind, each with something in its folder."""
    store = Store(tmp_path / "results")
    file_record(store, DONE)
    file_record(store, CUT, "interrupted")
    for run_id in (DONE, CUT, LOST, FRESH):
        put(store.folder(run_id) / STAGE / "checkpoint-00000010" / "tensors.safetensors")
        put(store.folder(run_id) / STAGE / "draft-checkpoint-00000020" / "tensors.safetensors")
        put(store.folder(run_id) / "draw.json")
        put(store.folder(run_id) / "progress.json")
        put(store.folder(run_id) / "attempts.json")
    age(store.folder(LOST), 2)
    return store


def files(store: Store) -> set[str]:
    return {str(p.relative_to(store.out_dir)) for p in store.out_dir.rglob("*") if p.is_file()}


def found(store: Store, **wanted: object) -> set[tuple[str, str]]:
    return {(x.kind, str(Path(x.path).relative_to(store.out_dir))) for x in leftovers(store, GcOptions(**wanted))}  # type: ignore[arg-type]


def run_gc(store: Store, *argv: str) -> int:
    return gc_command(["--out-dir", str(store.out_dir), *argv])


def test_what_may_go(store: Store) -> None:
    assert found(store) == {
        ("checkpoint", f"runs/{DONE}/stages"),
        ("note", f"runs/{DONE}/progress.json"),
        ("note", f"runs/{DONE}/attempts.json"),
        ("draft", f"runs/{CUT}/{STAGE}/draft-checkpoint-00000020"),  # its finished one is what it goes on from
        ("draft", f"runs/{FRESH}/{STAGE}/draft-checkpoint-00000020"),
        ("run folder", f"runs/{LOST}"),
    }
    assert ("run folder", f"runs/{LOST}") not in found(store, days=3)


def test_dry_by_default(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(store)
    assert run_gc(store) == 0
    assert files(store) == before
    printed = capsys.readouterr().out
    assert "Nothing was removed" in printed
    assert "run folder" in printed


def test_yes_removes_just_that(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {x.path for x in leftovers(store, GcOptions())}
    kept = {f for f in files(store) if not any((store.out_dir / f).is_relative_to(path) for path in expected)}
    assert run_gc(store, "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {x["path"] for x in told["leftovers"]} == expected
    assert told["removed"] is True
    assert files(store) == kept
    assert f"runs/{CUT}/{STAGE}/checkpoint-00000010/tensors.safetensors" in kept
    assert f"records/{DONE}.json" in kept
    assert list(store.claims.glob("*")) == []
    assert run_gc(store, "--yes") == 0
    assert files(store) == kept


def test_a_living_owner_loses_nothing(store: Store) -> None:
    """Another process holds every run, and a file of it looks long abandoned."""
    for run_id in (DONE, CUT, LOST, FRESH):
        age(put(store.folder(run_id) / ".draw.json.1-aa.tmp"), 3)
    age(store.folder(LOST), 2)
    before = files(store)
    code = (
        "import contextlib, sys\nfrom peftbench.records.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "with contextlib.ExitStack() as stack:\n"
        "    [stack.enter_context(store.claim(run_id)) for run_id in sys.argv[2:]]\n"
        "    print('claimed', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(store.out_dir), DONE, CUT, LOST, FRESH]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "claimed\n"
        assert found(store) == set()
        run_gc(store, "--yes", "--older-than", "0")
        assert before <= files(store)
        assert len(list(store.claims.iterdir())) == 4
        owner.communicate("")
    assert files(store) == before
    assert len(found(store)) == 9  # the owner has let go


def test_a_run_that_begins_between_looking_and_removing_is_left_alone(store: Store) -> None:
    seen = list(leftovers(store, GcOptions()))
    with store.claim(LOST):
        gone = {x.path for x in gc.remove(store, seen, GcOptions())}
    assert store.folder(LOST).joinpath("draw.json").exists()
    assert gone == {x.path for x in seen if x.run_id != LOST}


def test_a_run_that_ended_between_looking_and_removing_is_judged_anew(store: Store) -> None:
    seen = list(leftovers(store, GcOptions()))
    file_record(store, LOST, "interrupted")
    gone = {x.path for x in gc.remove(store, seen, GcOptions())}
    assert str(store.folder(LOST)) not in gone
    assert (store.folder(LOST) / STAGE / "checkpoint-00000010").exists()


def test_claims_of_the_dead(store: Store) -> None:
    stale = dead_claim(store, FRESH)
    only_claim = dead_claim(store, "e" * 16)
    assert {("claim", f"claims/{stale.name}"), ("claim", f"claims/{only_claim.name}")} <= found(store)
    run_gc(store, "--yes")
    assert not stale.exists()
    assert not only_claim.exists()
    assert store.folder(FRESH).joinpath("draw.json").exists()
    assert not store.folder("e" * 16).exists()


def test_temporary_files_of_killed_writers(store: Store) -> None:
    begin_sweep(store, [("seed=1", DONE)])
    (sweep,) = (store.out_dir / "sweeps").iterdir()
    old = [store.out_dir, store.records, store.folder(CUT), sweep]
    for folder in old:
        age(put(folder / ".leaderboard.csv.77-abcdef01.tmp"), 1)
    being_written = put(store.records / f".{DONE}.json.78-abcdef01.tmp")
    temporary = {path for kind, path in found(store) if kind == "temporary file"}
    assert temporary == {str((f / ".leaderboard.csv.77-abcdef01.tmp").relative_to(store.out_dir)) for f in old}
    run_gc(store, "--yes")
    assert being_written.exists()
    assert not (store.records / ".leaderboard.csv.77-abcdef01.tmp").exists()


def test_logs_of_a_sweep_go_when_all_its_runs_are_done(store: Store) -> None:
    done, part = begin_sweep(store, [("seed=1", DONE)]), begin_sweep(store, [("seed=1", DONE), ("seed=2", CUT)])
    for sweep in (done, part):
        age(put(sweep.logs / "worker-0.log").parent, 2)
    logs = {path for kind, path in found(store) if kind == "log"}
    assert logs == {str(done.logs.relative_to(store.out_dir))}
    assert not {path for kind, path in found(store, days=3) if kind == "log"}
    run_gc(store, "--yes")
    assert (done.folder / "manifest.json").exists()
    assert part.logs.exists()


def test_superseded_and_quarantine_only_on_request(store: Store) -> None:
    store.supersede(DONE)
    put(store.out_dir / "quarantine" / "e.json")
    kinds = {kind for kind, _ in found(store)}
    assert not {"superseded", "quarantine"} & kinds
    run_gc(store, "--yes")
    assert (store.out_dir / "quarantine" / "e.json").exists()
    run_gc(store, "--yes", "--superseded", "--quarantine")
    assert list((store.out_dir / "superseded").iterdir()) == list((store.out_dir / "quarantine").iterdir()) == []


def test_wrong_options(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"resluts.*Did you mean `results`"):
        gc_command(["--out-dir", str(tmp_path / "resluts")])
    with pytest.raises(UsageError, match="not a number of days"):
        run_gc(store, "--older-than", "-1")
    with pytest.raises(UsageError, match=r"gc --yess: no such option. Did you mean `--yes`"):
        run_gc(store, "--yess")


def test_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    """A run's folder, its stages, a sweep and a temporary file that are links: what lies behind them stays."""
    precious = put(tmp_path / "project" / "checkpoint-100" / "model.bin")
    put(precious.parent / "draft-x")
    (store.out_dir / "sweeps").mkdir()
    for link in (store.folder("9" * 16), store.folder(DONE) / "stages" / "link", store.out_dir / "sweeps" / "link"):
        link.symlink_to(tmp_path / "project")
    file_record(store, "9" * 16)
    run_gc(store, "--yes", "--older-than", "0")
    assert precious.exists()
    assert (precious.parent / "draft-x").exists()


def test_ages_are_by_the_clock_of_the_file_system(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(store)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert found(store) == before
