"""What of many cases `make test` has time for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_slow(cases: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """All cases; those that are not among the `fast` ones, each of which stands for its kind, are left to
    `make slow-test`.

    Raises:
        ValueError: a fast one is no case (any more).
    """
    cases = list(cases)
    if unknown := [case for case in fast if case not in cases]:
        raise ValueError(f"no cases: {unknown}")
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=() if case in fast else pytest.mark.slow))
    return marked
