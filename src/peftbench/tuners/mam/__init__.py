"""The tuner `mam` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import number, packaged
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.parallel import ParallelOptions
from peftbench.tuners.prefix_tuning import PrefixTuningOptions


@packaged("method/tuner/mam")
@dataclass
class MamOptions(ParallelOptions, PrefixTuningOptions):
    """A prefix in the attention and a scaled adapter beside the feed-forward: the knobs of both."""

    num_virtual_tokens: int = number(ge=1)


TUNER = TunerDeclaration("peftbench.tuners.mam.tuner:MamTuner", options=MamOptions)
