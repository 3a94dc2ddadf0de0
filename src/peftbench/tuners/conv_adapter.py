"""The adapters that Cappellazzo et al. (MLSP 2024, arXiv 2312.03694) compare for audio, over the tokens of a text.

Of an encoder-decoder only the encoder gets them, when they are convolutions. Where the published code differs from what
the paper describes (a LayerNorm and a convolution without effect, a bottleneck whose two matrices are zero), the
described one is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from omegaconf import MISSING

from peftbench.config.schema import number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.tuners.adapter_options import BottleneckOptions, places_of
from peftbench.tuners.base import TunerDeclaration

LEAST_CHANNELS = 4
"""Of a conformer whose size is not given: a LayerNorm over 1 channel is a constant, over 2 it leaves only a sign."""


@packaged("method/tuner/conv_adapter")
@dataclass
class ConvAdapterOptions(BottleneckOptions):
    """Convolution adapters and their placement grid."""

    reduction_factor: float = number(ge=1)
    block: str = one_of("bottleneck", "conformer", "convpass")
    place: str = one_of("houlsby", "pfeiffer")
    mode: str = one_of("parallel", "sequential")
    residual: bool | None = MISSING
    kernel: int = number(ge=1)
    dropout: float = number(ge=0, le=0.9)

    families: ClassVar[frozenset[str]] = frozenset({"encoder", "seq2seq"})
    why_families: ClassVar[str] = (
        "a convolution sees the tokens to come, and a key/value cache does not hold what it needs of those before"
    )

    @property
    def adds_what_it_reads(self) -> bool:
        """`residual` as configured; by default what leaves the backbone unchanged by a block that gives 0."""
        return self.mode == "sequential" if self.residual is None else self.residual

    @property
    def identity_at_start(self) -> Literal["base"] | None:
        """Of the base model where a block that gives 0 changes nothing."""
        return "base" if self.adds_what_it_reads == (self.mode == "sequential") else None

    def bottleneck_at(self, width: int) -> int:
        """b, from the factor never so few channels that the conformer's norm over them loses what they say."""
        b = super().bottleneck_at(width)
        return max(LEAST_CHANNELS, b) if self.block == "conformer" and self.bottleneck is None else b

    def adapter(self, width: int) -> dict[str, Any]:
        if self.kernel % 2 == 0:
            raise UsageError(
                f"method.tuner.kernel={self.kernel}: use an odd number, {self.kernel + 1} for example, so that the "
                "convolution has a middle token."
            )
        return {
            "block": self.block,
            "bottleneck": self.bottleneck_at(width),
            "activation": "gelu",
            "places": places_of(self.place),
            "mode": self.mode,
            "residual": self.adds_what_it_reads,
            "kernel": self.kernel,
            "dropout": self.dropout,
        }

    def check(self) -> None:
        if self.block == "conformer" and self.bottleneck == 1:
            raise UsageError(
                "method.tuner.bottleneck=1: with method.tuner.block=conformer a norm over one channel is a constant, "
                f"so the adapter could not see the text. Use {LEAST_CHANNELS} or more, or block=convpass."
            )


TUNER = TunerDeclaration("peftbench.tuners.adapter_tuner:AdapterTuner", options=ConvAdapterOptions)
