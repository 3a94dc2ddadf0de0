"""What the commands that look at runs have in common on the command line."""

from __future__ import annotations

from pathlib import Path

from peftbench.errors import UsageError, did_you_mean
from peftbench.records.store import Store


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
    hint = f" {did_you_mean(folder.name, near, limit=10)}" if near else ""
    raise UsageError(
        f"out_dir={out_dir}: no runs here, for there is no folder {folder.resolve()}.{hint} "
        "Go to where runs were started, or say where they lie: out_dir=FOLDER."
    )
