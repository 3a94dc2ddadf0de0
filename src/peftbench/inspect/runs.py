"""`peftbench ls runs`: every run there is, also those at work and those that a process died over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.config.schema import transfer_name
from peftbench.errors import UsageError, did_you_mean
from peftbench.measure.clock import duration
from peftbench.options import OptionParser, whole
from peftbench.records.find import existing_store, no_runs_yet
from peftbench.records.leaderboard import current_rows
from peftbench.records.naming import nearest
from peftbench.records.states import PROGRESS, STATES, RunState, age_seconds, at_work, read_json, run_states
from peftbench.records.store import Store
from peftbench.sweeps.sweep import Sweep
from peftbench.views.display import print_table, say

Entry = dict[str, Any]
SHOWN = 100
FACTS = ("model", "method", "task", "subset", "protocol", "shots", "data_seed", "seed")
COLUMNS = ("run_id", "status", *FACTS, "score", "age", "owner", "step", "note")
NUMBERS = {"shots", "data_seed", "seed", "score", "age"}


def ls_runs(argv: Sequence[str]) -> int:
    """`peftbench ls runs [COLUMN=VALUE,VALUE ...]`; returns the exit code."""
    parser = OptionParser(
        "ls runs",
        "The runs in out_dir, newest last. status is running or unfinished (a process died over it) as well.",
        "Example: peftbench ls runs status=failed,interrupted method=dept",
    )
    parser.add_argument("filters", nargs="*", metavar="COLUMN=VALUE,VALUE", help="only runs with one of these values")
    parser.add_argument("--limit", type=whole(), default=SHOWN, metavar="N", help=f"the newest N; default: {SHOWN}")
    options = parser.parse(argv)
    every = entries(existing_store(options.out_dir))
    chosen = select(every, options.filters)
    if options.json:
        print(json.dumps(chosen, indent=1))
    elif not chosen:
        say("No run matches all of these filters together." if every else no_runs_yet(options.out_dir))
    else:
        print_table(
            [">" + c if c in NUMBERS else c for c in COLUMNS],
            [[_cell(entry, column) for column in COLUMNS] for entry in chosen[-options.limit :]],
        )
        if len(chosen) > options.limit:
            say(f"{len(chosen) - options.limit:,} older ones; `--limit {len(chosen)}` shows all.")
    return 0


def entries(store: Store) -> list[Entry]:
    """One dictionary a run: the leaderboard's row and `age_seconds`, `owner`, `step`, `note`; oldest first."""
    rows = {r["run_id"]: r for r in current_rows(store)}
    states = run_states(store, at_work(store))
    known = facts(store, [run_id for run_id in states if run_id not in rows])
    found = [_entry(known.get(run_id, {}), state) for run_id, state in states.items()]
    found += [_entry({}, RunState(run_id, r["status"], r)) for run_id, r in rows.items() if run_id not in states]
    return sorted(found, key=lambda entry: -(entry["age_seconds"] or 0))


def _entry(known: Mapping[str, Any], state: RunState) -> Entry:
    since = state.holder.since if state.holder else (state.row or {}).get("created", "")
    owner = str(state.holder).partition(" since ")[0] if state.holder else ""
    return {
        **dict.fromkeys(FACTS),
        **known,
        **(state.row or {}),
        "run_id": state.run_id,
        "status": state.state,
        "age_seconds": age_seconds(since),
        "owner": owner if state.state == "running" or not owner else f"{owner} (dead)",
        "step": state.step(),
        "note": state.reason.splitlines()[0] if state.reason else "",
    }


def facts(store: Store, run_ids: Sequence[str]) -> dict[str, Entry]:
    """What is known of runs without a record: from the newest sweep that has them, their draw, and what they say."""
    missing, found = set(run_ids), {}
    for sweep in reversed(Sweep.all(store.out_dir)) if missing else ():
        for job in sweep.jobs:
            if job.run_id in missing:
                missing.discard(job.run_id)
                found[job.run_id] = of_overrides(job.overrides)
    for run_id in run_ids:
        for name in ("draw.json", PROGRESS):
            told = read_json(store.folder(run_id) / name) or {}
            found[run_id] = {**found.get(run_id, {}), **{fact: told[fact] for fact in FACTS if fact in told}}
    return found


def of_overrides(overrides: Sequence[str]) -> Entry:
    """The columns that overrides name outright.

    >>> of_overrides(["method=lora", "task.lang=hau", "trainer.steps=3"])
    {'method': 'lora', 'subset': 'hau'}
    >>> of_overrides(["task.source_lang=swa", "task.lang=hau"])
    {'subset': 'swa-to-hau'}
    """
    pairs = (override.partition("=") for override in overrides)
    named = {{"task.lang": "subset", "task.subset": "subset"}.get(key, key): value for key, _, value in pairs}
    if "subset" in named and "task.source_lang" in named:
        named["subset"] = transfer_name(named["task.source_lang"], named["subset"])
    return {name: value for name, value in named.items() if name in FACTS}


def select(every: Sequence[Entry], filters: Sequence[str]) -> list[Entry]:
    """The runs that have one of the wanted values in each filtered column.

    Raises:
        UsageError: a filter cannot be read, names no column, or asks for a value that no run has.
    """
    chosen = list(every)
    columns = {name for entry in every for name in entry}
    for text in filters:
        column, equals, given = text.partition("=")
        if not equals:
            raise UsageError(f"ls runs {text}: a filter is COLUMN=VALUE. {did_you_mean(column, columns or COLUMNS)}")
        if every and column not in columns:
            raise UsageError(f"ls runs {text}: no column `{column}`. {did_you_mean(column, columns)}")
        wanted, states = set(given.split(",")), STATES if column == "status" else ()
        present = {*states, *(str(entry.get(column)) for entry in every)}
        for value in sorted(wanted - present) if every else ():
            way_out = nearest(column, value, every, more=states)
            raise UsageError(f"ls runs {text}: no run has {column}=`{value}`. {way_out}")
        chosen = [entry for entry in chosen if str(entry.get(column)) in wanted]
    return chosen


def _cell(entry: Entry, column: str) -> str:
    if column == "age":
        return duration(entry["age_seconds"])
    value = entry.get(column)
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)
