"""`peftbench reproduce RUN_ID`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.options import OptionParser, number, whole
from peftbench.records.find import existing_store, find_run
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.reproduce.checks import (
    EXACT,
    ROUNDING,
    code_changes,
    conditions,
    later_conditions,
    rebuild_config,
    refusals,
)
from peftbench.reproduce.sources import lend, missing

FOLDER = "reproductions"
"""Below `out_dir`: a store of its own, so that no table counts a run twice."""

_EPILOG = """\
Example: peftbench reproduce 0123456789abcdef
Nothing that was recorded is touched: the new run is filed in OUT_DIR/reproductions.
On the same machine with the same packages, on the CPU, everything has to be equal. Otherwise (a GPU, other packages,
another number of processes) rounding differs, and training magnifies it, at most up to the difference between two
training seeds: that is the tolerance.
Exit codes: 0 within the tolerance, 1 not, 2 it cannot be reproduced (the message says what has changed).
"""


_POINTS = number("a number of points from 0 to 100", lambda points: 0 <= points <= 100)


def reproduce_command(argv: Sequence[str]) -> int:
    """Run `peftbench reproduce ARGV`; returns the exit code. Raises UsageError if the run cannot be repeated."""
    options = _parser().parse(argv)
    store = existing_store(options.out_dir)
    old = _find(store, options.run_id)
    cfg = rebuild_config(old, str(Path(options.out_dir) / FOLDER), options.devices)
    inputs = InputCache()
    _refuse(old, store, cfg, inputs, options.force)
    differ = conditions(old, cfg.trainer.devices)
    notes = code_changes(old, cfg)
    if options.check:
        print("\n".join([f"Run {old.run_id} can be reproduced, {_expectation(differ)}.", *map(_note, notes)]))
        return 0
    new = _run(old, store, cfg, inputs)
    return _report(old, new, store, Store(cfg.out_dir), [*differ, *later_conditions(old, new)], notes, options)


def _parser() -> OptionParser:
    words = "Runs a recorded run again, from its config, draw and seeds, and compares old with new."
    parser = OptionParser("reproduce", words, _EPILOG, json=False)
    parser.add_argument("run_id", metavar="RUN_ID", help="as `peftbench leaderboard` shows it, or its beginning")
    parser.add_argument("--devices", type=whole(), metavar="N", help="processes; default: as the run had")
    parser.add_argument("--tolerance", type=_POINTS, metavar="POINTS", help="of scores where rounding differs")
    parser.add_argument("--check", action="store_true", help="only say whether it could be reproduced; runs nothing")
    parser.add_argument("--force", action="store_true", help="run although version, data, draw or model have changed")
    parser.add_argument("--json", action="store_true", help="the comparison as JSON")
    return parser


def _find(store: Store, given: str) -> Record:
    """The finished run whose id begins so."""
    record = find_run(store, given, "reproduce")
    if record.status in ("failed", "interrupted"):
        raise UsageError(
            f"reproduce {record.run_id}: the run {record.status} ({record.reason}), so there is no result to compare "
            f"with. To run it for the first time: {_command(record)}"
        )
    return record


def _command(record: Record) -> str:
    from peftbench.config.command import command, overrides_of

    return command(overrides_of(record.config, always=["method"]))


def _refuse(old: Record, store: Store, cfg: RunConfig, inputs: InputCache, force: bool) -> None:
    """Say what has changed, all at once; with `force` as a warning, unless no run is possible."""
    found = refusals(old, replace(cfg, out_dir=str(store.out_dir)), inputs)  # where what it started from lies
    changed = [*found, *missing(store, old)]
    if not changed:
        return
    told = "; ".join(refusal.what for refusal in changed)
    if not all(refusal.can_force for refusal in changed):
        raise UsageError(f"Run {old.run_id} cannot be reproduced: {told}.")
    if not force:
        raise UsageError(
            f"Run {old.run_id} cannot be reproduced: {told}. --force runs it all the same, and then the numbers need "
            "not agree."
        )
    print(f"warning: {told}", flush=True)


def _note(text: str) -> str:
    return f"note: {text}"


def _expectation(differ: Sequence[str]) -> str:
    if not differ:
        return "and on the CPU every prediction has to be the same"
    return "up to rounding, since these differ: " + "; ".join(differ)


def _run(old: Record, store: Store, cfg: RunConfig, inputs: InputCache) -> Record:
    from peftbench.runner import run

    lend(store, Store(cfg.out_dir), old)
    record, _ = run(cfg, inputs)
    if record is None:
        raise UsageError("reproduce: start it by hand, not as one of several processes.")
    return record


def _report(
    old: Record,
    new: Record,
    store: Store,
    new_store: Store,
    differ: list[str],
    notes: list[str],
    options: argparse.Namespace,
) -> int:
    """Print old, new and the tolerance; 0 if all is within."""
    from peftbench.reproduce.outcome import as_dicts, is_within, lines, print_lines, tolerance_points

    level = ROUNDING if differ else EXACT
    points, source = tolerance_points(store, old)
    if options.tolerance is not None:
        points, source = options.tolerance, "--tolerance"
    compared = lines(old, new, store, new_store, level, points)
    within = is_within(compared)
    if options.json:
        facts = {"run_id": old.run_id, "new_run_id": new.run_id, "level": level, "differ": differ, "points": points}
        print(json.dumps({**facts, "notes": notes, "within": within, "lines": as_dicts(compared)}, indent=1))
        return 0 if within else 1
    print_lines(compared)
    if level == EXACT:
        print("tolerance: none. Same machine and packages, on the CPU: everything has to be equal.")
    else:
        print(f"tolerance: {points:.2g} points of a score, {source}. Rounding differs, because:")
        for reason in differ:
            print(f"  {reason}")
    for note in notes:
        print(_note(note))
    print("reproduced" if within else "NOT reproduced", f"(new run: {new_store.path(new.run_id)})")
    return 0 if within else 1
