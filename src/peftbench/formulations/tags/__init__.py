"""`tags`: a linear classifier on the first sub-word of each word."""

from __future__ import annotations

from peftbench.formulations.declared import Declared

FORMULATION = Declared(
    "peftbench.formulations.tags.formulation:TagsFormulation",
    frozenset({"encoder"}),
    problems=frozenset({"tags"}),
)
