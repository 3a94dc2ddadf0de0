"""What the options of all bottleneck adapters have in common, and how they lead to a peft adapter. Free of torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number
from peftbench.tuners.layerwise import layer_range

BOTH = ("attention", "ffn")
"""The sub-layers of a block."""


@dataclass
class AdapterOptions(TunerConfig, ABC):
    """What all bottleneck adapters have: small networks at the sub-layers of the frozen backbone.

    Attributes:
        budget_knob: see `peftbench.tuners.base.Tuner`.
        families, why_families: the same.
    """

    train_norms: bool = MISSING
    layers: str = layer_range()

    budget_knob: ClassVar[str] = "bottleneck"
    families: ClassVar[frozenset[str]] = frozenset({"encoder", "seq2seq", "causal"})
    why_families: ClassVar[str] = ""

    @property
    def identity_at_start(self) -> Literal["base"] | None:
        """See `peftbench.tuners.base.Tuner`."""
        return "base"

    @abstractmethod
    def adapter(self, width: int) -> dict[str, Any]:
        """Keys and values of the adapter's `AdapterConfig` at a backbone's `width`, without what is read off the
        backbone's modules.

        Raises:
            UsageError: the knobs do not fit each other or the width.
        """

    def check(self) -> None:
        """Asked before an adapter is built. Raises UsageError if it could be built and would not learn."""


@dataclass
class BottleneckOptions(AdapterOptions):
    """Adapters whose width is given, or derived from the backbone's."""

    bottleneck: int | None = number(ge=1)
    reduction_factor: float = number(ge=1)

    def bottleneck_at(self, width: int) -> int:
        """b: as configured, or width / reduction_factor, rounded; at least 1."""
        return self.bottleneck or max(1, round(width / self.reduction_factor))


def places_of(paper: str) -> list[str]:
    """`houlsby`: both sub-layers; `pfeiffer`: the feed-forward only."""
    return [*BOTH] if paper == "houlsby" else ["ffn"]
