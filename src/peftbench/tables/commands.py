"""From cells to commands: what fills one cell, and the fewest sweeps that fill many."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.config.user_files import DEFAULT, VARIABLE
from peftbench.tables.spec import text

Overrides = Mapping[str, Any]
Sweep = dict[str, tuple[str, ...]]
"""Key -> the values it takes; a sweep runs every combination."""

EXPERIMENT = "+experiment"
"""The key of a sweep over settings that searches chose, which lie in `conf` of the results (docs/sweeps.md)."""
_PLAIN = re.compile(r"[\w./:+@%-]+|\[[\w.,-]*\]")


def cell_sweep(run: Overrides, seeds: Mapping[str, Sequence[int]]) -> Sweep:
    """The sweep of one cell: its overrides and its seeds."""
    return {key: (value(v),) for key, v in run.items()} | {k: tuple(map(str, v)) for k, v in seeds.items()}


def value(given: Any) -> str:
    """A value as Hydra's grammar takes it; text with other signs than those of names is quoted."""
    written = text(given)
    if not isinstance(given, str) or _PLAIN.fullmatch(written):
        return written
    if written[:1] in "[{'\"":  # already in Hydra's grammar
        return written
    return "'" + written.replace("\\", "\\\\").replace("'", "\\'") + "'"


def merge(sweeps: Iterable[Sweep]) -> list[Sweep]:
    """Few sweeps with exactly the same runs: two that differ in one key's values become one, again and again.

    No run is added: a merged sweep is the union of the two, since all their other keys agree.
    """
    rest = _unique(sweeps)
    keys = list(dict.fromkeys(key for sweep in rest for key in sweep))
    changed = True
    while changed:
        changed = False
        for key in reversed(keys):  # columns before rows: a row's sweep is what a reader expects to see
            merged = _merge_key(rest, key)
            changed |= len(merged) < len(rest)
            rest = merged
    return rest


def _merge_key(sweeps: Sequence[Sweep], key: str) -> list[Sweep]:
    groups: dict[tuple, Sweep] = {}
    for sweep in sweeps:
        if key not in sweep:
            groups[_frozen(sweep)] = sweep
            continue
        others = ("", key, *_frozen({k: v for k, v in sweep.items() if k != key}))
        earlier = groups.get(others)
        groups[others] = (
            sweep if earlier is None else {**earlier, key: (*earlier[key], *_new(earlier[key], sweep[key]))}
        )
    return list(groups.values())


def _new(known: Sequence[str], values: Sequence[str]) -> list[str]:
    return [v for v in values if v not in known]


def _frozen(sweep: Sweep) -> tuple:
    return tuple(sorted(sweep.items()))


def _unique(sweeps: Iterable[Sweep]) -> list[Sweep]:
    return list({_frozen(sweep): sweep for sweep in sweeps}.values())


def runs(sweep: Sweep) -> int:
    """How many runs a sweep has."""
    count = 1
    for values in sweep.values():
        count *= len(values)
    return count


def arguments(sweep: Sweep, extra: Sequence[str] = ()) -> list[str]:
    """What stands behind `peftbench`: with -m where there is more than one run."""
    words = [f"{key}={','.join(values)}" for key, values in sweep.items()]
    return [*(["-m"] if runs(sweep) > 1 else []), *words, *extra]


def command(sweep: Sweep, extra: Sequence[str] = ()) -> str:
    """The command as one types it in a shell."""
    folder = next((word.partition("=")[2] for word in extra if word.startswith("out_dir=")), "results")
    place = "".join(f"{k}={shlex.quote(v)} " for k, v in conf_of(folder).items()) if EXPERIMENT in sweep else ""
    return place + shlex.join(["peftbench", *arguments(sweep, extra)])


def conf_of(out_dir: str) -> dict[str, str]:
    """The variable that says where the files of searches lie, where it has to be set to find those of `out_dir`."""
    if os.environ.get(VARIABLE) or Path(out_dir, DEFAULT.name) == DEFAULT:
        return {}
    return {VARIABLE: str(Path(out_dir, DEFAULT.name))}
