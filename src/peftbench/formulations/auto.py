"""`auto`: the usual formulation for the backbone's family."""

from __future__ import annotations

from peftbench.formulations.declared import Declared

USUAL = {"encoder": "head", "seq2seq": "generate", "causal": "generate"}


def usual(family: str, shots: int | str, problem: str) -> str:
    """A head for encoders, else an answer in words: untrained, the likeliest label."""
    untrained = shots == 0 and USUAL[family] == "generate" and problem == "classification"
    return "score" if untrained else USUAL[family]


FORMULATION = Declared(families=frozenset(USUAL), uses=("task.label_words",), stands_for=usual)
