"""`auto`: the usual formulation for the backbone's family."""

from __future__ import annotations

from peftbench.config import registry
from peftbench.formulations.declared import Declared, declaration

USUAL = {"encoder": "head", "seq2seq": "generate", "causal": "generate"}


def usual(family: str, shots: int | str, problem: str) -> str:
    """A head for encoders, else an answer in words (untrained, the likeliest label); for a kind of targets that this
    cannot give, the formulation that can."""
    untrained = shots == 0 and USUAL[family] == "generate" and problem == "classification"
    name = "score" if untrained else USUAL[family]
    if problem in declaration(name).problems:
        return name
    return next((other for other in sorted(registry.built_in("formulation")) if _fits(other, family, problem)), name)


def _fits(name: str, family: str, problem: str) -> bool:
    known = declaration(name)
    return known.implementation is not None and family in known.families and problem in known.problems


FORMULATION = Declared(families=frozenset(USUAL), uses=("task.label_words",), stands_for=usual)
