"""Lengths and ranks from a number of trainable parameters, so that methods are compared at the same size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.tuners.ranks import excess

if TYPE_CHECKING:
    from peftbench.models.base import Backbone
    from peftbench.tuners.base import Tuner, TunerContext

TOLERANCE = 0.05
"""A method that misses the budget by more is not of that size."""


def fit_budget(tuner: Tuner, budget: int, backbone: Backbone, context: TunerContext) -> None:
    """Set the tuner's `budget_knob` to the value with which it has nearest to `budget` trainable parameters, the
    formulation's head not counted. Called before `build`, on the untouched backbone.

    Raises:
        UsageError: the tuner has no such knob, or no value of it comes within 5 %.
    """
    tuner.cfg, value, reached = knob_for_budget(tuner, budget, backbone, context)
    tuner.notes.append(
        f"method.budget={budget}: {tuner.budget_knob}={value}, which trains {reached} parameters "
        f"({reached / budget - 1:+.1%})"
    )


def knob_for_budget(tuner: Tuner, budget: int, backbone: Backbone, context: TunerContext) -> tuple[Any, int, int]:
    """The tuner's config with its `budget_knob` set for `budget`, that value, and the number of parameters.

    Raises:
        UsageError: the tuner has no knob or no formula for it, the nearest value misses by more than 5 %, or it is a
            rank that nothing of that shape can have.
    """
    knob, before = tuner.budget_knob, tuner.cfg
    if knob is None:
        raise UsageError(
            f"method.budget={budget}: the size of method.tuner.name={before.name} cannot be derived from a budget. "
            "Drop method.budget and set the tuner's own keys."
        )

    def count(value: int) -> int:
        tuner.cfg = tuner.with_knob(before, value)
        number = tuner.expected_parameters(backbone, context)
        assert number is not None, f"{before.name} has a budget knob but no formula"
        return number

    try:
        least = next((f.metadata.get("ge") for f in fields(before) if f.name == knob), None)
        value = nearest(count, budget, max(1, int(least or 0)))
        reached = count(value)
    finally:
        tuner.cfg = before
    if abs(reached - budget) > TOLERANCE * budget:
        raise UsageError(
            f"method.budget={budget}: the nearest that method.tuner.name={before.name} can do is {reached} parameters "
            f"({reached / budget - 1:+.1%}), with method.tuner.{knob}={value}. More than 5 % off is refused: use "
            f"method.budget={reached}, or change the tuner's other keys."
        )
    refuse_ranks(tuner, budget, backbone, context, value)
    return tuner.with_knob(before, value), value, reached


def refuse_ranks(tuner: Tuner, budget: int, backbone: Backbone, context: TunerContext, value: int) -> None:
    """Raises UsageError if the budget takes a rank above what its product can have."""
    before, knob = tuner.cfg, tuner.budget_knob
    tuner.cfg = tuner.with_knob(before, value)
    try:
        found = excess(tuner.ranks(backbone, context))
        if found is not None and found.key == knob:
            tuner.cfg = tuner.with_knob(before, found.limit)
            raise UsageError(
                f"method.budget={budget}: it takes method.tuner.{knob}={value}, but on model={backbone.name}, "
                f"{found.product} has a rank of at most {found.limit}. Use method.budget="
                f"{tuner.expected_parameters(backbone, context)} or less, or change the tuner's other keys."
            )
    finally:
        tuner.cfg = before


def nearest(count: Callable[[int], int], budget: int, least: int) -> int:
    """The whole number from `least` on whose count is nearest to `budget`; `count` must not fall."""
    low, step = least, 1
    if count(low) >= budget:
        return low
    while count(low + step) < budget:
        if count(low + step) == count(low):
            raise ValueError(f"the count stays at {count(low)} from {low} to {low + step}: it does not grow")
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < budget else (low, middle)
    return low if budget - count(low) <= count(high) - budget else high
