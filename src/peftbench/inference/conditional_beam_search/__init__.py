"""The inference `conditional_beam_search`: answers that are likely and have an attribute. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from peftbench.config.schema import InferenceConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.inference.base import TEXT, Declared

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

COMPLETE, VALID, LENGTH = "complete", "valid", "length"


@packaged("method/inference/conditional_beam_search")
@dataclass
class BeamConfig(InferenceConfig):
    """`conf/method/inference/conditional_beam_search.yaml`."""

    beams: int = number(ge=1)
    weight: float = number(ge=0)
    attribute: str = one_of(COMPLETE, VALID, LENGTH)
    length: int | None = number(MISSING, ge=1)
    candidates: int = number(ge=1)
    samples: int = number(ge=1)
    temperature: float = number(gt=0)
    seed: int = number(ge=0)


def fits(cfg: BeamConfig, run: RunConfig) -> None:
    """Raises UsageError if there is nothing to learn the attribute from, or the formulation chooses tokens itself."""
    formulation = run.method.formulation
    if getattr(formulation, "sample", False) or getattr(formulation, "constrain", "none") != "none":
        raise UsageError(
            "method/inference=conditional_beam_search: chooses the tokens. Set method.formulation.sample=false and "
            "constrain=none."
        )
    if (cfg.attribute == LENGTH) != (cfg.length is not None):
        raise UsageError(
            f"method.inference.attribute={cfg.attribute}, method.inference.length={cfg.length}: a number of tokens "
            f"belongs to attribute={LENGTH}, and to no other."
        )
    if cfg.attribute != LENGTH and cfg.weight and run.labelled == 0:
        raise UsageError(
            "method/inference=conditional_beam_search: the attribute is learned from what the model writes for the "
            "drawn rows, and shots=0 draws none. Give some shots, or method.inference.weight=0 (plain beam search)."
        )


INFERENCE = Declared(
    "peftbench.inference.conditional_beam_search.search:ConditionalBeamSearch",
    options=BeamConfig,
    neutral=lambda cfg: cfg.beams == 1 and cfg.weight == 0 and cfg.attribute != LENGTH,
    draws=(TEXT,),
    families=frozenset({"causal"}),
    fits=fits,
)
