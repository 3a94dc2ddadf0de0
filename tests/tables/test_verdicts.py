"""The rules of docs/tables.md: reproduced, within noise, differs, not comparable."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from peftbench.errors import UsageError
from peftbench.tables.references import Reference
from peftbench.tables.verdict import (
    DIFFERS,
    NOT_COMPARABLE,
    REPRODUCED,
    WITHIN_NOISE,
    SampleMean,
    judge,
    margin_value,
    rounding,
)


def paper(printed: str = "80.0", sd: float | None = None) -> Reference:
    return Reference("x", 2, "p", "table 1", "m", "b", "t", "full", "f1", printed, float(printed), sd)


def ours(value: float, se: float | None = 0.2, df: float = 30, sd: float | None = None, runs: int = 3) -> SampleMean:
    return SampleMean(value, se, df, sd, runs)


@pytest.mark.parametrize(
    ("estimate", "kind"),
    [
        (ours(80.1), REPRODUCED),  # 0.1 +- 0.46: within one point
        (ours(80.5, se=0.05), REPRODUCED),  # a real difference, but of no interest
        (ours(80.5, se=0.6), WITHIN_NOISE),  # holds 0, reaches beyond one point
        (ours(83.0, se=0.6), DIFFERS),
        (ours(77.0, se=0.6), DIFFERS),
        (ours(81.2, se=0.2), DIFFERS),  # beyond the margin and not 0
        (ours(80.0, se=0.0), REPRODUCED),
    ],
)
def test_three_verdicts(estimate, kind):
    found = judge(estimate, paper(), "1.0")
    assert found.kind == kind
    assert found.low < found.difference < found.high or estimate.se == 0


def test_an_obstacle_or_an_unknown_spread_is_not_comparable():
    found = judge(ours(80.0), paper(), "1.0", ["different backbone", "different backbone", "fewer draws"])
    assert (found.kind, found.reasons) == (NOT_COMPARABLE, ("different backbone", "fewer draws"))
    assert found.difference == 0
    assert judge(ours(80.0, se=None), paper(), "1.0").reasons == (
        "one run without predictions: its spread is not known",
    )


def test_the_interval_is_students_when_only_ours_varies():
    found = judge(ours(82.0, se=0.5, df=4), paper(), "1.0")
    low, high = stats.t.interval(0.95, 4, loc=2.0, scale=0.5)
    assert (found.low, found.high) == pytest.approx((low - 0.05, high + 0.05))


def test_a_papers_own_spread_counts_and_else_its_runs_vary_as_ours():
    alone = judge(ours(82.0, sd=None), paper(), "1.0")
    as_ours = judge(ours(82.0, sd=2.0), paper(), "1.0", paper_runs=1)
    mean_of_five = judge(ours(82.0, sd=2.0), paper(), "1.0", paper_runs=5)
    printed = judge(ours(82.0, sd=2.0), paper(sd=0.1), "1.0", paper_runs=5)
    width = [v.high - v.low for v in (alone, printed, mean_of_five, as_ours)]
    assert width == sorted(width)
    assert len(set(width)) == 4


def test_over_twenty_percent_is_agreed_with_by_thirty():
    assert judge(ours(30.0), paper("20"), "1.0", at_least=True).kind == REPRODUCED
    assert judge(ours(30.0), paper("20"), "1.0").kind == DIFFERS
    assert judge(ours(10.0), paper("20"), "1.0", at_least=True).kind == DIFFERS
    assert judge(ours(20.0, se=5.0), paper("20"), "1.0", at_least=True).kind == WITHIN_NOISE


def test_margin_and_rounding():
    assert margin_value("1.5", 80.0) == 1.5
    assert margin_value("5%", -80.0) == 4.0
    assert [rounding(t) for t in ("79.1", "70", "0.861")] == [0.05, 0.5, pytest.approx(0.0005)]
    with pytest.raises(UsageError, match="margin `small`"):
        margin_value("small", 1.0)


@given(st.floats(-50, 50), st.floats(0, 20), st.floats(1, 100), st.floats(0.1, 10))
def test_a_verdict_says_what_its_interval_says(shift, se, df, margin):
    found = judge(ours(80 + shift, se=se, df=df), paper(), str(margin))
    inside = -margin <= found.low and found.high <= margin
    assert (found.kind == REPRODUCED) == inside
    if found.kind == DIFFERS:
        assert found.low > 0 or found.high < 0
    if found.kind == WITHIN_NOISE:
        assert found.low <= 0 <= found.high
    assert math.isclose((found.low + found.high) / 2, found.difference, abs_tol=1e-9)


@pytest.mark.parametrize("paper_runs", [1, 5])
def test_a_true_reproduction_seldom_differs(paper_runs):
    """Paper and ours drawn from the same distribution: at most 5 % `differs` (rounding makes it fewer)."""
    rng = np.random.default_rng(7)
    runs, repetitions, differs = 5, 1500, 0
    for _ in range(repetitions):
        mine, theirs = rng.normal(80, 2, runs), rng.normal(80, 2, paper_runs)
        sd = float(mine.std(ddof=1))
        found = judge(
            SampleMean(float(mine.mean()), sd / runs**0.5, runs - 1, sd, runs),
            paper(f"{theirs.mean():.1f}"),
            "0.5",
            paper_runs=paper_runs,
        )
        differs += found.kind == DIFFERS
    assert differs / repetitions < 0.06
