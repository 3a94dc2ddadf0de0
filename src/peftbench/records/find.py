"""A folder of results that has to be there, and a run in it by the beginning of its id."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from peftbench.errors import UsageError, did_you_mean
from peftbench.records.record import Record
from peftbench.records.store import Store

A_FIRST = "A first one: peftbench method=head_only shots=10"


def no_runs_yet(out_dir: str) -> str:
    """What a view says of a folder that is there and has no runs."""
    return f"No runs in `{out_dir}` yet. {A_FIRST}"


def existing_store(out_dir: str) -> Store:
    """The results in a folder that has to exist.

    Raises:
        UsageError: it does not.
    """
    folder = Path(out_dir)
    if folder.is_dir():
        return Store(folder)
    if folder.exists():
        raise UsageError(f"out_dir={out_dir}: is a file, not a folder of results.")
    near = [p.parent.name for p in folder.parent.glob("*/records") if p.is_dir()]
    hint = did_you_mean(folder.name, near, limit=10) if near else f"{A_FIRST}."
    raise UsageError(
        f"out_dir={out_dir}: no runs here, for there is no folder {folder.resolve()}. {hint} "
        "Go to where runs were started, or say where they lie: out_dir=FOLDER."
    )


def find_run(store: Store, given: str, what: str = "") -> Record:
    """The one run whose id begins so.

    Args:
        what: the command that asks, for messages.

    Raises:
        UsageError: there is none, or several begin so.
    """
    asked = f"{what} {given}".strip()
    record = store.load(given)
    if record is None:
        ids = sorted(Path(entry.path).stem for entry in store.scan())
        fitting = [name for name in ids if name.startswith(given)]
        if len(fitting) > 1:
            raise UsageError(f"{asked}: {len(fitting)} runs begin so: {', '.join(fitting[:8])}.")
        record = store.load(fitting[0]) if fitting else None
    if record is None:
        near = "".join(f"Did you mean `{name}`? " for name in get_close_matches(given, ids, n=1, cutoff=0.8))
        raise UsageError(
            f"{asked}: no such run in `{store.out_dir}`. {near}`peftbench leaderboard` lists the runs there are; "
            "--out-dir names another folder."
        )
    return record
