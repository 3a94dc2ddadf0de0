"""`head`: a linear classifier or regressor on one pooled vector."""

from __future__ import annotations

from peftbench.formulations.declared import Declared

FORMULATION = Declared(
    "peftbench.formulations.head.formulation:HeadFormulation",
    frozenset({"encoder", "seq2seq", "causal"}),
    results_version={"regression": 2},  # scores are not clamped to the range
)
