"""The `logistic_head` stage: a logistic regression on the vectors of the drawn rows, which then answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from peftbench.errors import UsageError
from peftbench.formulations.embed import check_embeds
from peftbench.formulations.embed.formulation import EmbedFormulation
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh, untrained


class HeadedPredictor(LearnerPredictor):
    """A learner that answers by a head which no gradient trained."""

    def counts(self) -> dict[str, int]:
        embed = self.learner.formulation
        own = sum(buffer.numel() for name, buffer in embed.named_buffers() if name in ("weight", "bias"))
        counts = super().counts()
        return {**counts, "head": counts["head"] + own, "total": counts["total"] + own}


def logistic_head(context: Context, incoming: Predictor | None) -> Predictor:
    """Fit scikit-learn's logistic regression to all drawn rows, no sub-sample. Without any nothing is fitted."""
    if not context.draw.train:
        return untrained(context, incoming)
    before = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    predictor, embed = HeadedPredictor(before.learner, context), before.learner.formulation
    assert isinstance(embed, EmbedFormulation)
    report, started = StageReport("logistic_head"), context.clock.wall["train"]
    with context.clock("train"), context.meter.phase("train"):
        found = predictor.predict(context.draw.train)
        model = _fitted(context, np.stack([p.vector for p in found if p.vector is not None]))
        embed.put_head(model.classes_.tolist(), torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))
    report.seconds = context.clock.wall["train"] - started
    if context.draw.dev:
        report.dev_score = context.dev_score(predictor)
    context.reports.append(report)
    return predictor


def _fitted(context: Context, vectors: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    cfg = context.cfg.method.options("logistic_head")
    model = LogisticRegression(C=cfg.c, max_iter=cfg.max_iter)
    return model.fit(vectors, [str(row.target) for row in context.draw.train])


def check(context: Context) -> None:
    """Whether there is something to fit.

    Raises:
        UsageError: the formulation has no vectors, the task no classes, or the draw one class alone.
    """
    name, rows = context.cfg.method.name, context.draw.train
    check_embeds(context.cfg.method, "logistic_head")
    if context.data.problem != "classification":
        raise UsageError(f"method={name}: the stage logistic_head knows classes; the task has scores. Leave it out.")
    if rows and len({row.target for row in rows}) < 2:
        raise UsageError(f"method={name}: train has one class, so there is nothing to tell apart. Use more shots.")
