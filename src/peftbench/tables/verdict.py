"""Does our number agree with the paper's? The only place that decides; docs/tables.md has the rules in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.errors import UsageError
from peftbench.tables.references import Reference

REPRODUCED, WITHIN_NOISE, DIFFERS, NOT_COMPARABLE = "reproduced", "within noise", "differs", "not comparable"
VERDICTS = (REPRODUCED, WITHIN_NOISE, DIFFERS, NOT_COMPARABLE)
LEVEL = 0.95


@dataclass(frozen=True)
class SampleMean:
    """Our number.

    Attributes:
        value: mean over the runs.
        se, df: standard error and its degrees of freedom; None if nothing is known about the spread.
        sd: standard deviation over runs; None for a single run.
        runs: how many.
    """

    value: float
    se: float | None
    df: float | None
    sd: float | None
    runs: int


@dataclass(frozen=True)
class Verdict:
    """What we make of a paper's number beside ours.

    Attributes:
        kind: one of `VERDICTS`.
        reasons: why it is not comparable; empty for the other kinds.
        difference: ours minus the paper's.
        low, high: 95 % interval of the difference; None where it is not comparable or nothing is known of the spread.
    """

    kind: str
    reasons: tuple[str, ...]
    difference: float
    low: float | None = None
    high: float | None = None


def judge(
    ours: SampleMean,
    paper: Reference,
    margin: str,
    obstacles: Sequence[str] = (),
    paper_runs: int = 1,
    at_least: bool = False,
) -> Verdict:
    """The verdict on one number.

    Args:
        ours: mean, spread and number of our runs.
        paper: its number; its own sd is used if it prints one, else its runs are taken to vary as ours do.
        margin: a difference of no interest: points ("1.0") or percent of the paper's number ("5%").
        obstacles: why the two are not the same experiment; any of them makes them not comparable.
        paper_runs: runs behind the paper's number.
        at_least: the paper's number is a bound ("over 20 %"): being above it is no difference.

    The interval of the difference holds our standard error, the paper's (sd / sqrt(paper_runs)) and half a unit of the
    last digit printed. If it lies within the margin, the number is reproduced; else if it holds 0, the two agree within
    noise; else they differ.
    """
    difference = ours.value - paper.value
    if obstacles:
        return Verdict(NOT_COMPARABLE, tuple(dict.fromkeys(obstacles)), difference)
    if ours.se is None or ours.df is None:
        return Verdict(NOT_COMPARABLE, ("one run without predictions: its spread is not known",), difference)
    half = _half_width(ours, paper, paper_runs) + rounding(paper.printed)
    low, high = difference - half, difference + half
    allowed = margin_value(margin, paper.value)
    if -allowed <= low and (high <= allowed or at_least):
        kind = REPRODUCED
    else:
        kind = WITHIN_NOISE if (low <= 0 or at_least) and high >= 0 else DIFFERS
    return Verdict(kind, (), difference, low, high)


def _half_width(ours: SampleMean, paper: Reference, paper_runs: int) -> float:
    """Of the interval of the difference, from our variance and the paper's, which are independent."""
    from peftbench.statistics.intervals import Spread

    assert ours.se is not None
    assert ours.df is not None
    parts = [(ours.se**2, ours.df)]
    if paper.sd is not None:
        parts.append((paper.sd**2 / paper_runs, max(paper_runs - 1, 1)))
    elif ours.sd is not None:
        parts.append((ours.sd**2 / paper_runs, max(ours.runs - 1, 1)))
    spread = Spread(tuple(parts))
    return spread.limit(LEVEL) * spread.se


def rounding(printed: str) -> float:
    """Half a unit of the last digit: 0.05 for "79.1", 0.5 for "70"."""
    _, _, decimals = printed.partition(".")
    return 0.5 * 10.0 ** -len(decimals)


def margin_value(margin: str, paper: float) -> float:
    """A margin in the unit of the number. Raises UsageError if it is neither a number nor a percentage."""
    text = str(margin).strip()
    try:
        if text.endswith("%"):
            return abs(paper) * float(text[:-1]) / 100
        return float(text)
    except ValueError:
        raise UsageError(f"margin `{margin}`: give points, as 1.0, or percent of the paper's number, as 5%.") from None
