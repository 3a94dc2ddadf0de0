"""The tuner `embed_head` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/embed_head")
@dataclass
class EmbedHeadOptions(TunerConfig):
    """Word embeddings and the language-model head are trained."""


TUNER = TunerDeclaration(
    "peftbench.tuners.embed_head.tuner:EmbedHeadTuner", options=EmbedHeadOptions, trains_weights=True
)
