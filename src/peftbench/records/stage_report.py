"""What a stage of a run did, for the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class StageReport:
    """What a stage did, for the record.

    Attributes:
        name: the stage's.
        status: "done", "diverged" or, in the record of a run that failed or was interrupted, "unfinished".
        reason: why it diverged.
        steps, tokens: optimiser steps and input tokens (padding not counted) of training.
        seconds: wall seconds of pure training.
        dev_score: main metric on dev of the model that was kept, in percent.
        curves: lists by name: step, loss, and dev scores with their steps.
        lr: peak learning rate by parameter group.
        step_flops, saved_bytes: cost of one training step, see `peftbench.measure.probe`.
        notes: remarks for the reader of the result.
        unlabeled_passes: forward passes of unlabelled rows that were made to label them or to learn from them,
            one a row and model, or a row and pass in training.
        teachers: models that labelled unlabelled rows.
        parts: reports of the stage's parts (a pattern, a round), in order. `steps`, `tokens`, `seconds` and counts of
            the stage include theirs; see `add_part`.
        facts: what else is told of it, by name: numbers, or words such as the hash of what it read. What a part took
            that was made by an earlier run stands here, for `seconds` are those of this run.
        section: where the costs of the stage are booked; set by `Context.in_stage`.
    """

    name: str
    status: str = "done"
    reason: str = ""
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    dev_score: float | None = None
    curves: dict[str, list[Any]] = field(default_factory=dict)
    lr: dict[str, float] = field(default_factory=dict)
    step_flops: float | None = None
    saved_bytes: float | None = None
    notes: list[str] = field(default_factory=list)
    unlabeled_passes: int = 0
    teachers: int = 0
    parts: list[StageReport] = field(default_factory=list)
    facts: dict[str, float | str | None] = field(default_factory=dict)
    section: str = ""

    def add_part(self, part: StageReport) -> None:
        """Append a part's report; what it did counts for the stage, and a diverged part is a diverged stage."""
        self.parts.append(part)
        for name in ("steps", "tokens", "seconds", "unlabeled_passes", "teachers"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        for name in ("step_flops", "saved_bytes"):
            costs = [cost for cost in (getattr(self, name), getattr(part, name)) if cost is not None]
            setattr(self, name, max(costs, default=None))
        if part.status == "diverged" and self.status == "done":
            self.status, self.reason = part.status, f"{part.name}: {part.reason}"

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> StageReport:
        """The report that `dataclasses.asdict` took apart."""
        return cls(**{**plain, "parts": [cls.from_dict(part) for part in plain.get("parts", ())]})
