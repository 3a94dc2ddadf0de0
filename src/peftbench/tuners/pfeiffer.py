"""Adapters behind the feed-forward only (Pfeiffer et al., EACL 2021, arXiv 2005.00247).

They read the feed-forward's output itself. The `adapters` library feeds its class of this name with that output after
the residual sum and the block's LayerNorm; there the place differs, not the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import number, one_of, packaged
from peftbench.tuners.adapter_options import BottleneckOptions
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/pfeiffer")
@dataclass
class PfeifferOptions(BottleneckOptions):
    """Adapters behind the feed-forward."""

    activation: str = one_of("relu", "gelu", "silu")
    dropout: float = number(ge=0, le=0.9)

    def adapter(self, width: int) -> dict[str, Any]:
        return {"bottleneck": self.bottleneck_at(width), "activation": self.activation, "dropout": self.dropout}


TUNER = TunerDeclaration(
    "peftbench.tuners.adapter_tuner:AdapterTuner", options=PfeifferOptions, side_by_side=lambda o: not o.dropout
)
