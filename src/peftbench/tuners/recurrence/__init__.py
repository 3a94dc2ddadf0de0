"""The tuner `recurrence` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/recurrence")
@dataclass
class RecurrenceOptions(TunerConfig):
    """A trained memory between the windows of a text longer than the encoder's positions."""

    window: int | None = number(ge=2)
    block: int | None = number(ge=0)
    horizon: int = number(ge=1)


TUNER = TunerDeclaration(
    "peftbench.tuners.recurrence.tuner:RecurrenceTuner",
    options=RecurrenceOptions,
    replaces_words=lambda options: True,
    stays_on=lambda options: True,
)
