"""The `supervised` stage: gradient steps on the drawn labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.formulations.base import Encoded
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh, train_on, untrained, uses_dev
from peftbench.stages.ledger import once

if TYPE_CHECKING:
    from peftbench.training.optim import Course


def supervised(context: Context, incoming: Predictor | None) -> Predictor:
    """Train on the draw's train rows; keep the best state on dev or the last one, as the protocol says. With tricks it
    is `peftbench.stages.tricks.training` that does so.

    With no labelled row (shots=0) nothing is trained.
    """
    if not context.draw.train:
        return untrained(context, incoming)
    predictor = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    predictor.encode(context.draw.train)
    if uses_dev(context):
        predictor.encode(context.draw.dev)
    if context.cfg.method.trick:
        from peftbench.stages.tricks.training import Training

        report = Training(context, predictor).run()
    else:
        report = once(context, predictor.learner, lambda folder: fit(context, predictor, folder))
    context.reports.append(report)
    return predictor


def fit(context: Context, predictor: LearnerPredictor, folder: Path, course: Course | None = None) -> StageReport:
    """Measure a step and train on the draw's train rows; checkpoints go to `folder`. `course`: see `train_on`."""
    return train_on(
        context,
        predictor.learner,
        mixed(context, predictor.encode(context.draw.train)),
        folder,
        StageReport("supervised"),
        select=context.draw.select,
        evaluate=(lambda: context.dev_score(predictor)) if uses_dev(context) else None,
        on_log=context.log,
        course=course,
    )


def mixed(context: Context, items: Sequence[Encoded]) -> Sequence[Encoded]:
    """The items of the draw's train rows, of a mixture as often as it says."""
    if context.data.mixture is None:
        return items
    shares = context.data.mixture.shares(context.draw.train)
    return [replace(item, share=share) for item, share in zip(items, shares, strict=True)]
