"""Kinds of targets: what a task asks for. Each declares itself in a module of its own (`base.Problem`)."""

from __future__ import annotations

from peftbench.config import registry
from peftbench.tasks.problems.base import Problem


def kind(name: str) -> Problem:
    """The kind of that name.

    Raises:
        UsageError: there is none.
    """
    found: Problem = registry.get("problem", name)
    return found


def kinds() -> dict[str, Problem]:
    """The built-in kinds by name."""
    return {name: kind(name) for name in sorted(registry.built_in("problem"))}


__all__ = ["Problem", "kind", "kinds"]
