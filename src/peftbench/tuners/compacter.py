"""Compacter (place=houlsby) and Compacter++ (place=pfeiffer; Karimi Mahabadi et al., NeurIPS 2021, arXiv 2106.04647):
adapters whose matrices are sums of Kronecker products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from peftbench.config.schema import number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.tuners.adapter_options import BottleneckOptions, places_of
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/compacter")
@dataclass
class CompacterOptions(BottleneckOptions):
    """Adapters of Kronecker products with shared factors."""

    train_norms: bool = MISSING
    reduction_factor: float = number(ge=1)
    place: str = one_of("houlsby", "pfeiffer")
    activation: str = one_of("relu", "gelu", "gelu_new", "silu")
    phm_dim: int = number(ge=1)
    phm_rank: int = number(ge=1)

    budget_knob: ClassVar[str] = "phm_rank"

    @property
    def identity_at_start(self) -> None:
        """Near the base model at the start, not equal to it: the A_i are small, not zero."""

    def adapter(self, width: int) -> dict[str, Any]:
        b, n = self.bottleneck_at(width), self.phm_dim
        if self.bottleneck is None:
            b = max(n, n * round(b / n))
        if width % n or b % n:
            raise UsageError(
                f"method.tuner.phm_dim={n} must divide the backbone's width {width} and method.tuner.bottleneck={b}. "
                "Choose a multiple of it as the bottleneck, or another method.tuner.phm_dim."
            )
        return {
            "block": "compacter",
            "bottleneck": b,
            "activation": self.activation,
            "places": places_of(self.place),
            "phm_dim": n,
            "phm_rank": self.phm_rank,
        }


TUNER = TunerDeclaration("peftbench.tuners.adapter_tuner:AdapterTuner", options=CompacterOptions, results_version=2)
