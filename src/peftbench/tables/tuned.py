"""Cells whose settings a search has chosen: the search first, on a draw of its own, then the cell's runs.

All budgets of a row are prefixes of the same trials: the sampler proposes the same settings whatever `search.trials` is
(up to 16, see `search.study.RANDOM_LEAST`), and trials are shared by content. So a score as a function of the budget
costs the runs of what was chosen, not more trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peftbench.tables.cells import TableCell, own_cell
from peftbench.tables.commands import EXPERIMENT, value
from peftbench.tables.estimates import TUNING, Estimates
from peftbench.tables.runs import RunFinder
from peftbench.tables.spec import SEEDS, CellSpec

_OPEN = ("method.tuner.options.",)
"""Sections whose keys a command may have to add."""


def a_cell(spec: CellSpec, finder: RunFinder, estimates: Estimates) -> TableCell:
    """A cell of runs of its own, with the settings as given or, where `spec.tune` says so, with those of a search."""
    if not spec.tune or spec.missing:
        return own_cell(spec, finder, estimates)
    search = own_cell(search_of(spec), finder, estimates)
    if spec.metric in TUNING:
        return replace(search, spec=spec)
    if not search.done:
        asked = len(finder.wanted(spec).seeds)
        return TableCell(spec, asked=asked, problem=f"not tuned yet ({search.problem})", fill=search.fill)
    tuning = estimates.record(search.groups[0].runs[0]).tuning
    cell = own_cell(replace(spec, run={**spec.run, **overrides(tuning["values"])}), finder, estimates)
    seeds = {key: tuple(map(str, values)) for key, values in spec.repeat.items()}
    fill = {EXPERIMENT: (value(tuning["experiment"]),), **seeds}
    return replace(cell, spec=spec, tuning=tuning, fill=fill)


def search_of(spec: CellSpec) -> CellSpec:
    """The search of a tuned cell as a cell: one run, which does the trials and is not among the cell's own."""
    seeds = {key: [seed] for key, seed in spec.tune.items() if key in SEEDS}
    settings = {key: given for key, given in spec.tune.items() if key not in SEEDS}
    metric = spec.metric if spec.metric in TUNING else "tuning_trials"
    return replace(spec, run={**spec.run, **settings}, repeat=seeds or {"seed": [1]}, metric=metric, tune={})


def overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Chosen values as overrides of a command."""
    return {f"++{key}" if key.startswith(_OPEN) else key: chosen for key, chosen in values.items()}
