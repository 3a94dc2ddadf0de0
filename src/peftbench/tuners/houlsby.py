"""Adapters behind attention and behind the feed-forward (Houlsby et al., ICML 2019, arXiv 1902.00751):
y + W_up act(W_down y + b) + b', before the residual sum. W_up = 0 at the start is our choice; the paper has small
values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import number, one_of, packaged
from peftbench.tuners.adapter_options import BOTH, BottleneckOptions
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/houlsby")
@dataclass
class HoulsbyOptions(BottleneckOptions):
    """Adapters behind attention and feed-forward."""

    activation: str = one_of("relu", "gelu", "silu")
    dropout: float = number(ge=0, le=0.9)

    def adapter(self, width: int) -> dict[str, Any]:
        return {
            "bottleneck": self.bottleneck_at(width),
            "activation": self.activation,
            "dropout": self.dropout,
            "places": [*BOTH],
        }


TUNER = TunerDeclaration("peftbench.tuners.adapter_tuner:AdapterTuner", options=HoulsbyOptions)
