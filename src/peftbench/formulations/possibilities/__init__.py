"""`possibilities`: several answers to a row, each to a number in the prompt (Possibility Exploration Fine-Tuning)."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import number, packaged
from peftbench.errors import UsageError
from peftbench.formulations.declared import Declared
from peftbench.formulations.generate import GenerateConfig

PLACE = "{number}"


@packaged("method/formulation/possibilities")
@dataclass
class PossibilitiesConfig(GenerateConfig):
    """`conf/method/formulation/possibilities.yaml`."""

    numbers: int = number(ge=0)
    ask_numbered: str = MISSING
    ask: str = MISSING
    answers_a_row: int = number(ge=1)
    answer_words: int = number(ge=1)
    negatives: int = number(ge=0)
    unlikelihood: float = number(ge=0)
    responses: int = number(ge=1)


def settle(cfg: PossibilitiesConfig) -> None:
    """Raises UsageError if there are too few numbers, or the prompt has no place for one."""
    if cfg.numbers and cfg.ask_numbered.count(PLACE) != 1:
        raise UsageError(f"method.formulation.ask_numbered: has to have the place {PLACE} once.")
    for key in ("answers_a_row", "responses"):
        if 0 < cfg.numbers < (wanted := getattr(cfg, key)):
            raise UsageError(
                f"method.formulation.numbers={cfg.numbers}: each of {wanted} answers takes a number of its own "
                f"(method.formulation.{key}={wanted}). Give more numbers, or 0 for prompts without one."
            )
    if cfg.samples > 1:
        raise UsageError(f"method.formulation.samples={cfg.samples}: here method.formulation.responses says how many.")


FORMULATION = Declared(
    "peftbench.formulations.possibilities.formulation:PossibilitiesFormulation",
    frozenset({"causal"}),
    options=PossibilitiesConfig,
    problems=frozenset({"answers"}),
    can_answer_untrained=True,
    settle=settle,
)
