"""`head`: a linear classifier or regressor on one pooled vector."""

from __future__ import annotations

from peftbench.formulations.declared import Declared


def of_the_targets(family: str, shots: int | str, problem: str) -> str:
    """Where each word has a target, a head is one on words."""
    return "tags" if problem == "tags" else "head"


FORMULATION = Declared(
    "peftbench.formulations.head.formulation:HeadFormulation",
    frozenset({"encoder", "seq2seq", "causal"}),
    results_version={"regression": 2},  # scores are not clamped to the range
    class_scores=True,
    stands_for=of_the_targets,
)
