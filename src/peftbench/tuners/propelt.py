"""ProPELT's adapter (Zeng, Zhang and Lu, ACL 2023, arXiv 2305.17682): one adapter that all layers share, behind the
feed-forward, and a binary mask of it for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import number, one_of, packaged
from peftbench.tuners.adapter_options import BottleneckOptions
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/propelt")
@dataclass
class ProPeltOptions(BottleneckOptions):
    """One adapter for all layers, and a mask for each."""

    activation: str = one_of("relu", "gelu", "silu")
    keep: float = number(gt=0, le=1)

    @property
    def identity_at_start(self) -> None:
        """Both matrices are small, not zero, at the start."""

    def adapter(self, width: int) -> dict[str, Any]:
        return {
            "block": "masked",
            "bottleneck": self.bottleneck_at(width),
            "activation": self.activation,
            "keep": self.keep,
        }


TUNER = TunerDeclaration("peftbench.tuners.adapter_tuner:AdapterTuner", options=ProPeltOptions)
