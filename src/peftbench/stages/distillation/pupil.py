"""The `distillation` stage: a classifier learns what an ensemble says about unlabelled rows, and nothing else.

Schick and Schuetze, EACL 2021, arXiv 2001.07676, section 3.3; the loss is Hinton et al.'s (2015, arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded
from peftbench.formulations.soft_targets import SOFT_TARGETS, soft_losses, with_soft_target
from peftbench.stages.around import AroundLearner
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.ensemble.members import Teachers, trainer_of
from peftbench.stages.learning import LearnerPredictor, fresh, train_on, uses_dev
from peftbench.stages.ledger import once
from peftbench.stages.pseudo_labels import softmax
from peftbench.stages.soft_losses import collate_soft

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.learner import Learner

NEEDS_ENSEMBLE = "method.stages: `distillation` needs `ensemble` right in front of it."


class Pupil(AroundLearner):
    """A learner as the loop sees it, with another loss: T^2 KL(softmax(S/T) || softmax(g/T)), summed over a batch.

    S are the teachers' logits, which come as probabilities at temperature T, and g the learner's. Everything else is
    the learner's own.
    """

    def __init__(self, learner: Learner, temperature: float) -> None:
        super().__init__(learner)
        self.temperature = temperature

    def collate(self, items: Sequence[Encoded]) -> Batch:
        return collate_soft(self.learner, items)

    def forward(self, batch: Batch) -> Tensor:
        formulation: Any = self.learner.formulation
        return distillation_loss(formulation.logits(self.learner.model, batch), batch[SOFT_TARGETS], self.temperature)


def distillation_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Scalar: the sum over a batch of T^2 KL(q || softmax(z/T)), z and q both (batch, classes).

    T^2 keeps the gradient as large as at T = 1.
    """
    return temperature**2 * soft_losses(logits / temperature, targets).sum()


def check_run(context: Context) -> None:
    """Raises UsageError unless an ensemble stands in front of every distillation."""
    stages = context.cfg.method.stages
    if any(
        name == "distillation" and before != "ensemble" for before, name in zip(["", *stages], stages, strict=False)
    ):
        raise UsageError(NEEDS_ENSEMBLE)


def distillation(context: Context, incoming: Predictor | None) -> Predictor:
    """Train a fresh classifier (the backbone's body and a classification head) on what the `Teachers` said.

    Raises:
        UsageError: no ensemble comes before it.
    """
    if not isinstance(incoming, Teachers):
        raise UsageError(NEEDS_ENSEMBLE)
    cfg = classifier_config(context.cfg, len(incoming.rows))
    predictor = fresh(context, cfg)
    if uses_dev(context):
        predictor.encode(context.draw.dev)
    context.reports.append(once(context, predictor.learner, lambda at: distil(context, predictor, incoming, cfg, at)))
    return predictor


def classifier_config(cfg: RunConfig, rows: int) -> RunConfig:
    """The run's config with a classification head and the classifier's length of training.

    `rows` unlabelled rows stand for the shots: it learns from them, also where no labelled row is given.
    """
    method = replace(cfg.method, formulation=FormulationConfig(name="head"))
    return replace(cfg, method=method, trainer=trainer_of(cfg, "classifier"), shots=rows)


def distil(
    context: Context, predictor: LearnerPredictor, teachers: Teachers, cfg: RunConfig, folder: Path
) -> StageReport:
    """Train on the teachers' rows; a dev set, if the protocol has one, chooses the state that is kept."""
    temperature = cfg.method.options("pet").temperature
    targets = torch.from_numpy(softmax(teachers.logits, temperature))
    items = [with_soft_target(i, q) for i, q in zip(predictor.encode(teachers.rows), targets, strict=True)]
    return train_on(
        context,
        cast("Learner", Pupil(predictor.learner, temperature)),
        items,
        folder,
        StageReport("distillation"),
        cfg=cfg,
        select=context.draw.select,
        evaluate=(lambda: context.dev_score(predictor)) if uses_dev(context) else None,
        on_log=context.log,
        unlabeled={item.id for item in items},
    )
