"""How a task is posed to a backbone. Each formulation declares itself in a module of its name (`declared.Declared`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.config import registry
from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError, a_or_an
from peftbench.formulations.declared import Declared, declaration
from peftbench.tasks.problems import kind

if TYPE_CHECKING:
    from peftbench.formulations.base import Formulation


def formulation_class(cfg: FormulationConfig, family: str, shots: int | str, problem: str) -> type[Formulation]:
    """The class of `declared_for`; imports torch."""
    return declared_for(cfg, family, shots, problem).formulation(cfg, family, problem)


def declared_for(cfg: FormulationConfig, family: str, shots: int | str, problem: str) -> Declared:
    """The formulation that a method, a backbone family and a task agree on.

    Raises:
        UsageError: the pair makes no sense; the message names what would work.
    """
    name = cfg.name
    if (meant := declaration(name).stands_for) is not None:
        name = meant(family, shots, problem)
    chosen = declaration(name)
    if chosen.implementation is None:
        raise UsageError(f"method/formulation={name}: needs no backbone and cannot be combined with a tuner.")
    if family not in chosen.families:
        raise UsageError(
            f"method/formulation={name} does not fit {a_or_an(family)} backbone. These do: "
            f"{_those_for(family, problem)}."
        )
    if shots == 0 and not chosen.can_answer_untrained:
        raise UsageError(
            f"shots=0: the `{name}` formulation has nothing to answer with before training. Use "
            "method/formulation=score with an encoder-decoder or causal model, method/formulation=cloze with a masked "
            "LM, or shots of 1 and more."
        )
    if problem not in chosen.problems:
        raise UsageError(
            f"method/formulation={name} does not fit a task with {problem} targets. These do: "
            f"{_those_for(family, problem)}."
        )
    check_style(cfg, problem)
    return chosen


def check_style(cfg: FormulationConfig, problem: str) -> None:
    """Raises UsageError if targets of that kind are not written as `method.formulation.answers` says."""
    if cfg.answers not in (styles := kind(problem).styles):
        raise UsageError(
            f"method.formulation.answers={cfg.answers}: {problem} targets are not written so. Use one of "
            f"{', '.join(styles)}."
        )


def _those_for(family: str, problem: str) -> str:
    """The built-in formulations that fit a family of backbones and a kind of targets."""
    known = {name: declaration(name) for name in sorted(registry.built_in("formulation"))}
    able = {n: d for n, d in known.items() if d.implementation and problem in d.problems}
    if fits := [name for name, declared in able.items() if family in declared.families]:
        return ", ".join(fits)
    others = {other for declared in able.values() for other in declared.families}
    return f"none of the built-in ones; with a model of the family {' or '.join(sorted(others))}: {', '.join(able)}"
