"""How a task is posed to a backbone. `choose` is the only place that reads the method's `formulation` section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.config import registry
from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError

if TYPE_CHECKING:
    from peftbench.formulations.base import Formulation

AUTO = {"encoder": "head", "seq2seq": "generate", "causal": "generate"}


def formulation_class(cfg: FormulationConfig, family: str, shots: int | str, problem: str) -> type[Formulation]:
    """The formulation that a method, a backbone family and a task agree on.

    Raises:
        UsageError: the pair makes no sense; the message names what would work.
    """
    from peftbench.formulations.cloze import ClozeFormulation
    from peftbench.formulations.demonstrations import DemonstratedCloze
    from peftbench.formulations.generate import GenerateFormulation
    from peftbench.formulations.head import HeadFormulation
    from peftbench.formulations.score import ScoreFormulation
    from peftbench.formulations.sentinel import SentinelCloze
    from peftbench.formulations.soft_pattern import SoftPatternCloze

    classes: dict[str, type[Formulation]] = {
        "head": HeadFormulation,
        "generate": GenerateFormulation,
        "score": ScoreFormulation,
        "cloze": ClozeFormulation,
    }
    name = cfg.name
    if name == "auto":
        name = AUTO[family]
        if shots == 0 and name == "generate" and problem == "classification":
            name = "score"
    if registry.is_plugin("formulation", name):
        classes[name] = registry.get("formulation", name)
    if name not in classes:
        raise UsageError(f"method/formulation={name}: needs no backbone and cannot be combined with a tuner.")
    if name == "cloze" and family == "seq2seq":
        classes[name] = SentinelCloze
    elif getattr(cfg, "demonstrations", 0):
        classes[name] = DemonstratedCloze
    elif getattr(cfg, "soft_pattern", False):
        classes[name] = SoftPatternCloze
    chosen = classes[name]
    if family not in chosen.families:
        works = ", ".join(n for n, c in classes.items() if family in c.families)
        raise UsageError(f"method/formulation={name} does not fit a {family} backbone. These do: {works}.")
    if shots == 0 and not chosen.can_answer_untrained:
        raise UsageError(
            f"shots=0: the `{name}` formulation has nothing to answer with before training. Use "
            "method/formulation=score with an encoder-decoder or causal model, method/formulation=cloze with a masked "
            "LM, or shots of 1 and more."
        )
    if problem == "regression" and name == "score":
        raise UsageError("method/formulation=score ranks labels and this task has scores. Use head, cloze or generate.")
    return chosen
