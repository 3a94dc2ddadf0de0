"""LiST's lightweight adapters (Wang et al., Findings of NAACL 2022, arXiv 2110.06274): y + W_2 W_1 y behind attention
and behind the feed-forward, linear, without bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import number, packaged
from peftbench.tuners.adapter_options import BOTH, AdapterOptions
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/lite")
@dataclass
class LiteOptions(AdapterOptions):
    """LiST's linear adapters behind attention and feed-forward."""

    bottleneck: int = number(ge=1)
    init_std: float = number(gt=0)

    @property
    def identity_at_start(self) -> None:
        """Near the base model at the start, not equal to it."""

    def adapter(self, width: int) -> dict[str, Any]:
        return {"block": "lite", "bottleneck": self.bottleneck, "init_std": self.init_std, "places": [*BOTH]}


TUNER = TunerDeclaration("peftbench.tuners.adapter_tuner:AdapterTuner", options=LiteOptions, results_version=2)
