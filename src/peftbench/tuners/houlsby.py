"""Adapters behind attention and behind the feed-forward (Houlsby et al., ICML 2019, arXiv 1902.00751):
y + W_up act(W_down y + b) + b', before the residual sum. W_up = 0 at the start is our choice; the released code has
both matrices from N(0, 0.001^2), GELU in its tanh form and trained norms: `method=houlsby_paper`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from peftbench.config.schema import number, one_of, packaged
from peftbench.tuners.adapter_options import BOTH, BottleneckOptions
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/houlsby")
@dataclass
class HoulsbyOptions(BottleneckOptions):
    """Adapters behind attention and feed-forward."""

    activation: str = one_of("relu", "gelu", "gelu_new", "silu")
    dropout: float = number(ge=0, le=0.9)
    init_std: float = number(ge=0)

    @property
    def identity_at_start(self) -> Literal["base"] | None:
        """With a spread, near the base model and not equal to it."""
        return None if self.init_std else "base"

    def adapter(self, width: int) -> dict[str, Any]:
        return {
            "bottleneck": self.bottleneck_at(width),
            "activation": self.activation,
            "dropout": self.dropout,
            "init_std": self.init_std,
            "places": [*BOTH],
        }


TUNER = TunerDeclaration(
    "peftbench.tuners.adapter_tuner:AdapterTuner", options=HoulsbyOptions, side_by_side=lambda o: not o.dropout
)
