"""Adapters beside the feed-forward (He et al., ICLR 2022, arXiv 2110.04366): y + s block(x), with W_down drawn from
Kaiming's uniform distribution and W_up = 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import number, one_of, packaged
from peftbench.tuners.adapter_options import BottleneckOptions
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/parallel")
@dataclass
class ParallelOptions(BottleneckOptions):
    """Scaled adapters beside the feed-forward."""

    reduction_factor: float = number(ge=1)
    activation: str = one_of("relu", "gelu", "silu")
    dropout: float = number(ge=0, le=0.9)
    scale: float = number(gt=0)

    def adapter(self, width: int) -> dict[str, Any]:
        return {
            "bottleneck": self.bottleneck_at(width),
            "activation": self.activation,
            "dropout": self.dropout,
            "mode": "parallel",
            "residual": False,
            "scale": self.scale,
            "kaiming": True,
        }


TUNER = TunerDeclaration("peftbench.tuners.adapter_tuner:AdapterTuner", options=ParallelOptions)
