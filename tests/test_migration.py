"""Runs of earlier versions get their new names, keep their old ones, and survive a death between any two steps."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench import migration
from peftbench.config import compose
from peftbench.migration import MARK, migrate, migrate_if_safe
from peftbench.records.leases import Lease
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run

HISTORIC = sorted((Path(__file__).parent / "records" / "historic").glob("*.json"))
FLOOR = ["method=majority", "task=demo_news", "shots=2", "tracking.wandb=disabled"]


@pytest.fixture(scope="module")
def floor(tmp_path_factory) -> Path:
    """The results of one run of a floor."""
    out = tmp_path_factory.mktemp("made")
    run(compose([*FLOOR, f"out_dir={out}"]))
    return out


@pytest.fixture
def old(floor, tmp_path) -> tuple[Store, Record, str]:
    """A folder as 0.1.0 left it: the store, its record under an old name, and the name that it should have."""
    shutil.copytree(floor, tmp_path / "out")
    store = Store(tmp_path / "out")
    (record,) = store.all()
    new = record.run_id
    store.path(new).unlink()
    record = replace(record, run_id="0123456789abcdef", identity={}, former_ids=[])
    store.save(record)
    os.replace(store.out_dir / "runs" / new, store.out_dir / "runs" / record.run_id)
    (store.out_dir / MARK).unlink(missing_ok=True)
    return store, record, new


def check(store: Store, record: Record, new: str) -> None:
    """One record, found by both names, with its files."""
    (only,) = store.all()
    assert (only.run_id, only.former_ids) == (new, [record.run_id])
    assert store.load(record.run_id) == store.load(new) == only
    assert only.score == record.score
    assert (store.folder(record.run_id) / "draw.json").exists()
    assert [p.name for p in (store.out_dir / "runs").iterdir()] == [new]


def test_renamed_findable_and_known_to_its_command(old):
    store, record, new = old
    assert migrate(store).renamed == {record.run_id: new}
    check(store, record, new)
    again = migrate(store)
    assert again == migration.Migration(), "a second time changes nothing"
    found, is_new = run(compose([*FLOOR, f"out_dir={store.out_dir}"]))
    assert found is not None
    assert (found.run_id, is_new) == (new, False)


@pytest.mark.parametrize("step", range(8))
def test_killed_between_any_two_steps(step, old, monkeypatch):
    store, record, new = old

    class Killed(BaseException):
        pass

    left = [step]

    def dying(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("write_atomic", "_move"):
            patched.setattr(migration, name, dying(getattr(migration, name)))
        patched.setattr(Store, "save", dying(Store.save))
        patched.setattr(Path, "unlink", dying(Path.unlink))
        try:
            migrate(store)
        except Killed:
            assert store.load(record.run_id) is not None, "it can be found at any time"
    shutil.rmtree(store.claims)  # the leases of the dead
    migrate(store)
    check(store, record, new)


def test_two_names_of_one_run(old):
    """0.1.0 had two names for a floor with and without a trainer's key."""
    store, record, new = old
    other = replace(record, run_id="fedcba9876543210", created="2099-01-01T00:00:00+00:00")
    store.save(other)
    done = migrate(store)
    assert (done.renamed, done.double) == ({record.run_id: new}, {other.run_id: new})
    assert [r.run_id for r in store.all()] == [new]
    found = store.load(other.run_id)
    assert found is not None
    assert found.run_id == new
    assert len(list((store.out_dir / "superseded").rglob(f"{other.run_id}.json"))) == 1


def test_a_run_at_work_is_left_alone(old):
    store, record, _ = old
    lease = Lease(store.claims, record.run_id)
    try:
        assert migrate_if_safe(store) is None
        assert migrate(store).kept == {record.run_id: "somebody works on it"}
    finally:
        lease.release()
    assert [r.run_id for r in store.all()] == [record.run_id]


def test_by_itself_once_and_never_where_nothing_can_be_written(old, monkeypatch):
    store, record, new = old
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        assert migrate_if_safe(store) is None
    found, is_new = run(compose([*FLOOR, f"out_dir={store.out_dir}"]))
    assert found is not None
    assert (found.run_id, is_new) == (new, False)
    check(store, record, new)
    assert migrate_if_safe(store) is None


@pytest.mark.parametrize("path", HISTORIC, ids=lambda p: p.stem)
def test_historic_records_are_kept_and_say_why(path, tmp_path):
    """Their configs were cut short; with the whole one they would be renamed."""
    store = Store(tmp_path)
    record = Record.from_dict(json.loads(path.read_text()))
    store.save(record)
    done = migrate(store)
    assert done.kept.keys() == {record.run_id}
    assert done.kept[record.run_id]
    assert store.load(record.run_id) == record


def test_a_historic_record_with_a_whole_config_is_renamed(tmp_path):
    from dataclasses import asdict

    store = Store(tmp_path)
    record = Record.from_dict(json.loads(HISTORIC[0].read_text()))
    cfg = asdict(compose(["method=lora", "model=tiny-bert", "task=demo_news"]))
    cfg["method"].pop("constant_lr", None)  # as 0.1.0 knew it
    record.config, record.draw["sha256"], record.data["sha256"] = cfg, "d" * 64, "e" * 64
    store.save(record)
    done = migrate(store)
    assert done.renamed.keys() == {record.run_id}
    found = store.load(record.run_id)
    assert found is not None
    assert found.identity["contents"]["model"].startswith("random:")
