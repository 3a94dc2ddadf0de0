"""Self-calibrated fine-tuning: targets between a label and what models say that have not seen it.

After Vega v1 (Zhong et al., 2023, arXiv 2302.09268), which describes it in words: the out-of-fold predictions, the two
shares and the threshold are our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from peftbench.formulations.base import Encoded
from peftbench.formulations.soft_targets import with_soft_target
from peftbench.stages.base import Context, StageReport
from peftbench.stages.ensemble.members import Answers, class_scores
from peftbench.stages.learning import fresh, train_on, uses_dev
from peftbench.stages.ledger import once
from peftbench.stages.pseudo_labels import Matrix, fitted_temperature, softmax
from peftbench.stages.tricks.self_calibrated import SelfCalibratedOptions
from peftbench.stages.tricks.training import Training

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.tasks.base import Row

FOLDS = 0x5CF7
"""In the seeds of folds and of the models that are trained on them."""


def calibrated(training: Training, items: Sequence[Encoded], options: SelfCalibratedOptions) -> Sequence[Encoded]:
    """Items with targets (1 - share) onehot(y) + share q, q being the held-out prediction: see `shares`."""
    context = training.context
    rows, labels = context.draw.train, list(context.data.labels)
    folds = stratified([str(row.target) for row in rows], options.folds, context.cfg.seed)
    q = torch.zeros(len(rows), len(labels))
    for number in range(options.folds):
        held_out = [i for i, fold in enumerate(folds) if fold == number]
        if not held_out:
            continue
        answers, name = Answers(len(held_out), len(labels)), f"fold-{number + 1}"
        rest = [i for i in range(len(rows)) if folds[i] != number]
        work = partial(judge, context, number, [rows[i] for i in rest], [rows[i] for i in held_out], options, answers)
        with context.part(name):
            training.add(once(context, answers, work, name))
        if training.report.status != "done":
            return items
        q[held_out] = torch.from_numpy(softmax(answers.logits.numpy()))
    given = torch.tensor([labels.index(str(row.target)) for row in rows])
    share = shares(q, given, options)
    training.report.notes += remarks(context, share, options)
    onehot = torch.eye(len(labels))[given]
    targets = (1 - share[:, None]) * onehot + share[:, None] * q
    return [with_soft_target(item, target) for item, target in zip(items, targets, strict=True)]


def shares(q: Tensor, given: Tensor, options: SelfCalibratedOptions) -> Tensor:
    """(rows,): `lambda_max` where q, (rows, classes), is at least `threshold` sure of another class than the given one,
    `lambda_min` elsewhere."""
    sure, found = q.max(-1)
    contradicted = (found != given) & (sure >= options.threshold)
    return torch.where(contradicted, options.lambda_max, options.lambda_min)


def stratified(labels: Sequence[str], folds: int, seed: int) -> list[int]:
    """The fold of each row, from 0: each class is dealt out at random, one row after the other."""
    random, found, dealt = np.random.RandomState([seed % 2**32, FOLDS]), [0] * len(labels), 0
    for label in sorted(set(labels)):
        own = [i for i, other in enumerate(labels) if other == label]
        for i in random.permutation(own):
            found[i], dealt = dealt % folds, dealt + 1
    return found


def fold_config(cfg: RunConfig, number: int) -> RunConfig:
    """The run's config with the seed of a fold's model, and without tricks. A step costs the same in every fold."""
    seed = int(np.random.SeedSequence([cfg.seed, FOLDS, number]).generate_state(1)[0])
    trainer = replace(cfg.trainer, probe=cfg.trainer.probe and number == 0)
    return replace(cfg, seed=seed, trainer=trainer, method=replace(cfg.method, trick={}))


def judge(
    context: Context,
    number: int,
    rest: Sequence[Row],
    held_out: Sequence[Row],
    options: SelfCalibratedOptions,
    answers: Answers,
    folder: Path,
) -> StageReport:
    """Train a model from the pre-trained weights on `rest`, and put what it says about `held_out`, its logits over the
    temperature, into `answers`."""
    cfg = fold_config(context.cfg, number)
    predictor, report = fresh(context, cfg), StageReport(f"fold-{number + 1}", teachers=1)
    train_on(
        context,
        predictor.learner,
        predictor.encode(rest),
        folder,
        report,
        cfg=cfg,
        select=context.draw.select,
        evaluate=(lambda: context.dev_score(predictor)) if uses_dev(context) else None,
    )
    if report.status == "done":
        degree = temperature(context, options.temperature, lambda rows: class_scores(context, predictor, rows))
        answers.logits = torch.from_numpy(class_scores(context, predictor, held_out) / np.float32(degree))
    return report


def temperature(context: Context, given: float | None, scores_of: Callable[[Sequence[Row]], Matrix]) -> float:
    """The temperature that was given, or the one that fits dev best; 1 where there is no dev."""
    dev = context.draw.dev
    if given is not None or not dev:
        return given or 1.0
    return fitted_temperature(scores_of(dev), [context.data.labels.index(str(row.target)) for row in dev])


def remarks(context: Context, share: Tensor, options: SelfCalibratedOptions) -> list[str]:
    """How many labels are contradicted, and how many of those that `protocol.noise` has made wrong."""
    moved = share == options.lambda_max if options.lambda_max != options.lambda_min else torch.zeros_like(share).bool()
    notes = [f"self-calibrated: {int(moved.sum())} of {len(moved)} labels are contradicted by held-out predictions"]
    if wrong := {row["id"] for row in context.draw.noise.get("rows", ())}:
        found = sum(bool(m) and row.id in wrong for m, row in zip(moved, context.draw.train, strict=True))
        notes[0] += f"; of the {len(wrong)} that noise has made wrong, {found}"
    if options.temperature is None and not context.draw.dev:
        notes.append("self-calibrated: no dev rows to fit a temperature on, it is 1")
    return notes
