"""The inference `hidden_state_optimisation`: gradient steps on what the network has cached of a prompt. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config.schema import InferenceConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.inference.base import SCORE, Declared

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

ALL, DEMO_LABELS = "all", "demo_labels"


@packaged("method/inference/hidden_state_optimisation")
@dataclass
class HiddenStateConfig(InferenceConfig):
    """`conf/method/inference/hidden_state_optimisation.yaml`."""

    steps: int = number(ge=0)
    rate: float = number(ge=0)
    loss_on: str = one_of(ALL, DEMO_LABELS)
    layers: str = one_of("all", "last_half")


def fits(cfg: HiddenStateConfig, run: RunConfig) -> None:
    """Raises UsageError if the loss is to be on demonstrations and there are none, or none that can be found."""
    formulation = run.method.formulation
    if cfg.loss_on != DEMO_LABELS:
        return
    if not getattr(formulation, "k", 0) or formulation.prompt == "chat":
        raise UsageError(
            f"method.inference.loss_on={DEMO_LABELS}: needs demonstrations in a plain prompt. Use method=icl with "
            f"method.k of 1 and more and method.formulation.prompt=plain, or loss_on={ALL}."
        )


INFERENCE = Declared(
    "peftbench.inference.hidden_state_optimisation.optimisation:HiddenStateOptimisation",
    options=HiddenStateConfig,
    neutral=lambda cfg: cfg.steps == 0 or cfg.rate == 0,
    draws=(SCORE,),
    families=frozenset({"causal"}),
    fits=fits,
)
