"""`score`: every label string is ranked by its log-likelihood given the input."""

from __future__ import annotations

from peftbench.formulations.declared import Declared

FORMULATION = Declared(
    "peftbench.formulations.score.formulation:ScoreFormulation",
    frozenset({"seq2seq", "causal"}),
    uses=("task.label_words",),
    results_version=2,  # the longest field gives way
    problems=frozenset({"classification"}),
    can_answer_untrained=True,
)
