"""`generate`: the answer is written as text."""

from __future__ import annotations

from peftbench.formulations.declared import Declared

FORMULATION = Declared(
    "peftbench.formulations.generate.formulation:GenerateFormulation",
    frozenset({"seq2seq", "causal"}),
    uses=("task.label_words",),
    results_version=2,  # the longest field gives way; answers are read through the tokenizer
    can_answer_untrained=True,
)
