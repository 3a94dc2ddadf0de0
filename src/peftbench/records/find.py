"""A run by the beginning of its id."""

from __future__ import annotations

from pathlib import Path

from peftbench.errors import UsageError
from peftbench.records.record import Record
from peftbench.records.store import Store


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
        raise UsageError(
            f"{asked}: no such run in `{store.out_dir}`. `peftbench leaderboard` lists the runs there are; --out-dir "
            "names another folder."
        )
    return record
