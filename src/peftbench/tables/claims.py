"""Sentences of papers with a number in them: "6 % better than prompt-based tuning", "14 % less time"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftbench.errors import UsageError
from peftbench.tables.cells import Key, TableCell
from peftbench.tables.estimates import Estimates, to_sample_mean
from peftbench.tables.obstacles import obstacles
from peftbench.tables.references import Reference
from peftbench.tables.spec import ClaimConfig, TableConfig, one_reference
from peftbench.tables.verdict import Verdict, judge

UNITS = {"value": "", "best": "", "difference": "points", "relative": "%", "saving": "%"}


@dataclass
class Claim:
    """A claim, and what our cells make of it; `summary` is empty and `problem` says why as long as they lack runs."""

    config: ClaimConfig
    paper: Reference | None
    summary: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    verdict: Verdict | None = None

    @property
    def unit(self) -> str:
        """Of its numbers."""
        return UNITS[self.config.kind]


def evaluate(name: str, config: TableConfig, cells: Mapping[Key, TableCell], estimates: Estimates) -> list[Claim]:
    """Every claim of a table."""
    return [_evaluate(name, config, claim, cells, estimates) for claim in config.claims]


def _evaluate(
    name: str, config: TableConfig, claim: ClaimConfig, cells: Mapping[Key, TableCell], estimates: Estimates
) -> Claim:
    keys = {**(config.reference or {}), **(claim.reference or {})}
    paper = one_reference(f"{name}, {claim.label}", keys) if claim.reference is not None else None
    found = Claim(claim, paper, problem=claim.missing)
    if claim.missing:
        return found
    ours = _best_row(claim, cells) if claim.kind == "best" else _cells(claim, claim.row, cells)
    others = _cells(claim, claim.of, cells) if claim.of else []
    empty = [c for c in (*ours, *others) if c.value is None]
    if empty or not ours:
        found.problem = empty[0].problem if empty else "no row is complete"
        return found
    try:
        found.summary = _KINDS[claim.kind](ours, others, estimates)
    except (UsageError, ValueError) as error:  # ValueError: tested on different items
        found.problem = str(error)
        return found
    if paper is not None:
        runs = max(len(g.runs) for c in (*ours, *others) for g in c.groups)
        reasons = [r for c in (*ours, *others) for r in obstacles(c, paper, config.backbones, estimates.data_notes)]
        reasons += [claim.caveat] if claim.caveat else []
        margin = claim.margin or config.margin or "1.0"
        found.verdict = judge(
            to_sample_mean(found.summary, runs), paper, margin, reasons, config.paper_runs, claim.at_least
        )
    return found


def _cells(claim: ClaimConfig, row: str, cells: Mapping[Key, TableCell]) -> list[TableCell]:
    return [cells[claim.panel, row, column] for column in claim.columns]


def _best_row(claim: ClaimConfig, cells: Mapping[Key, TableCell]) -> list[TableCell]:
    """The cells of the row with the greatest mean, among rows that are complete."""
    rows = {row for panel, row, _ in cells if panel == claim.panel}
    found = [_cells(claim, row, cells) for row in sorted(rows)]
    complete = [row for row in found if all(c.value is not None for c in row)]
    return max(complete, key=lambda row: sum(c.value or 0.0 for c in row), default=[])


def _value(ours: Sequence[TableCell], others: Sequence[TableCell], estimates: Estimates) -> dict[str, Any]:
    return estimates.mean([g for c in ours for g in c.groups])


def _difference(ours: Sequence[TableCell], others: Sequence[TableCell], estimates: Estimates) -> dict[str, Any]:
    return estimates.difference([g for c in ours for g in c.groups], [g for c in others for g in c.groups])


def _relative(ours: Sequence[TableCell], others: Sequence[TableCell], estimates: Estimates) -> dict[str, Any]:
    """Percent by which ours is above the other. For scores the other's mean is taken as fixed beside the difference."""
    if ours[0].groups[0].is_cost:
        return _ratio(ours, others, estimates, lambda ratio: 100 * (ratio - 1))
    base = sum(c.value or 0.0 for c in others) / len(others)
    if base == 0:
        raise UsageError("the other score is 0, so there is no ratio")
    return _scaled(_difference(ours, others, estimates), 100 / base)


def _saving(ours: Sequence[TableCell], others: Sequence[TableCell], estimates: Estimates) -> dict[str, Any]:
    """Percent by which ours costs less than the other."""
    return _ratio(ours, others, estimates, lambda ratio: 100 * (1 - ratio))


def _ratio(
    ours: Sequence[TableCell], others: Sequence[TableCell], estimates: Estimates, percent: Callable[[float], float]
) -> dict[str, Any]:
    """From the logarithm of a ratio of costs; its spread is carried over to first order."""
    if any(not c.value for c in (*ours, *others)):
        raise UsageError("a cost is 0, so there is no ratio")
    found = estimates.log_ratio([g for c in ours for g in c.groups], [g for c in others for g in c.groups])
    ratio = math.exp(found["mean"])
    ends = sorted(percent(math.exp(found[k])) for k in ("low", "high") if found[k] is not None)
    low, high = ends or (None, None)
    spread = {k: None if found[k] is None else 100 * ratio * found[k] for k in ("se", "sd")}
    return {**found, **spread, "mean": percent(ratio), "low": low, "high": high}


def _scaled(summary: Mapping[str, Any], factor: float) -> dict[str, Any]:
    keys = ("mean", "se", "sd", "low", "high")
    return {**summary, **{k: None if summary[k] is None else summary[k] * factor for k in keys}}


_KINDS = {"value": _value, "best": _value, "difference": _difference, "relative": _relative, "saving": _saving}
