"""A stage: the shorter half of the labelled rows is learned before all of them (a curriculum by length)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from peftbench.config.components import TRAINING
from peftbench.config.schema import number
from peftbench.stages.base import Context, Predictor, Stage, StageReport

if TYPE_CHECKING:
    from pathlib import Path

    from peftbench.stages.learning import LearnerPredictor


@dataclass
class ShorterFirstOptions:
    """`method.shorter_first`: the share of the rows that comes first, and for how long."""

    share: float = number(0.5, gt=0, le=1)
    steps: int = number(40, ge=1)


def shorter_first(context: Context, incoming: Predictor | None) -> Predictor:
    """Train the learner that came in, or a fresh one, on the shortest rows; the next stage goes on with it."""
    from peftbench.stages.learning import LearnerPredictor, fresh
    from peftbench.stages.ledger import once

    predictor = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    context.reports.append(once(context, predictor.learner, lambda folder: fit(context, predictor, folder)))
    return predictor


def fit(context: Context, predictor: LearnerPredictor, folder: Path) -> StageReport:
    """What the ledger does once, however often the run is cut off."""
    from peftbench.stages.learning import train_on

    own: ShorterFirstOptions = context.cfg.method.options("shorter_first")
    items = sorted(predictor.encode(context.draw.train), key=lambda item: item.length)
    items = items[: max(1, round(own.share * len(items)))]
    cfg = replace(context.cfg, trainer=replace(context.cfg.trainer, steps=own.steps))
    return train_on(context, predictor.learner, items, folder, StageReport("shorter_first"), cfg=cfg)


STAGE = Stage(
    shorter_first,
    options=ShorterFirstOptions,
    section="shorter_first",
    uses=TRAINING,
    steps_key="method.shorter_first.steps",
)
