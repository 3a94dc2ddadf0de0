"""What the commands about sweeps have in common on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from peftbench.errors import UsageError, did_you_mean
from peftbench.records.store import Store


class CommandParser(argparse.ArgumentParser):
    """A parser with `--out-dir` (or `out_dir=FOLDER`, as in a run's command) and `--json`; mistakes are UsageErrors."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        self.command = f"peftbench {command}"
        super().__init__(prog=self.command, description=description, epilog=epilog, allow_abbrev=False)
        self.add_argument("--out-dir", "--out_dir", default="results", metavar="FOLDER", help="default: results")
        self.add_argument("--json", action="store_true", help="machine-readable")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options; `out_dir=FOLDER` counts as `--out-dir FOLDER`."""
        key = "out_dir="
        return self.parse_intermixed_args([f"--out-dir={a[len(key) :]}" if a.startswith(key) else a for a in argv])

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.command}: {message}. `{self.command} --help` shows the options.")


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


def not_negative(text: str) -> float:
    """A number of days for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is not a number of days, 0 or more")
    return value
