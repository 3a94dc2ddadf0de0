"""Transductive fine-tuning: one round on the labelled rows and on confident answers to unlabelled ones.

After Vega v1 (Zhong et al., 2023, arXiv 2302.09268), which describes it in words: threshold, weight, the cap by class,
half the rate and a third of the steps are our reading. No label of the unlabelled rows is there to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from peftbench.formulations.base import Encoded
from peftbench.formulations.soft_targets import with_soft_target
from peftbench.stages.base import Context, StageReport
from peftbench.stages.pseudo_labels import Matrix, softmax
from peftbench.stages.self_training.rounds import pseudo_labels, sample
from peftbench.stages.tricks.self_calibrated.folds import temperature
from peftbench.stages.tricks.training import Training
from peftbench.stages.tricks.transductive import TransductiveOptions
from peftbench.training.batching import total_steps

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.tasks.base import Row

NAME = "transductive"


def transductive(training: Training, items: Sequence[Encoded], options: TransductiveOptions) -> None:
    """Have the trained model label the pool, and train it on at the labelled and the confident rows."""
    context, rows = training.context, pool_of(training.context, options)
    part = StageReport(NAME, teachers=1, unlabeled_passes=len(rows))
    with context.part(NAME):
        scores, degree = answers(training, rows, options)
        places, classes = confident(softmax(scores, degree), options)
    what = "test rows" if options.mode == "transductive" else "unlabelled rows"
    part.notes.append(f"transductive: {len(places)} of {len(rows)} {what} are learned from (temperature {degree:.2f})")
    if not len(places):
        done = training.report
        training.add(replace(part, dev_score=done.dev_score, curves=done.curves))
        return
    eye, encoded = torch.eye(len(context.data.labels)), training.predictor.encode(rows)
    found = [with_soft_target(encoded[i], eye[c]) for i, c in zip(places, classes, strict=True)]
    both = side_by_side(training.classes_of(items), [replace(item, weight=options.weight) for item in found])
    training.train(both, part, second_config(context, options), unlabeled={row.id for row in rows})


def pool_of(context: Context, options: TransductiveOptions) -> list[Row]:
    """The unlabelled rows, the same for every training seed; those of test without their labels."""
    draw = context.draw
    rows = draw.unlabeled if options.mode == "semi" else [replace(row, target=None) for row in draw.test]
    return sample(rows, options.pool or len(rows), draw.data_seed)


def answers(training: Training, rows: Sequence[Row], options: TransductiveOptions) -> tuple[Matrix, float]:
    """(rows, classes) log-probabilities and the temperature at which to read them, kept for an attempt that goes on."""
    context = training.context
    dev = context.draw.dev if options.temperature is None else ()
    folder = context.stage_folder(NAME)
    found = pseudo_labels(context, training.predictor, [*rows, *dev], folder).double().clamp(min=1e-300).log().numpy()
    degree = temperature(context, options.temperature, lambda _: found[len(rows) :])
    return found[: len(rows)], degree


def confident(probabilities: Matrix, options: TransductiveOptions) -> tuple[list[int], list[int]]:
    """Places and classes of the rows that are sure enough; `balanced`, of no class more than an even share of them, the
    surest."""
    sure, classes = probabilities.max(1), probabilities.argmax(1)
    places = np.flatnonzero(sure >= options.threshold)
    if options.balanced:
        share = -(-len(places) // probabilities.shape[1])
        by_class = [places[classes[places] == c] for c in range(probabilities.shape[1])]
        kept = [own[np.argsort(-sure[own], kind="stable")[:share]] for own in by_class]
        places = np.sort(np.concatenate(kept))
    return places.tolist(), classes[places].tolist()


def side_by_side(labelled: Sequence[Encoded], found: Sequence[Encoded]) -> list[Encoded]:
    """As many of the one as of the other, the shorter list again and again: CE(labelled) + weight CE(found), each CE a
    mean over its rows."""
    longer, shorter = sorted((labelled, found), key=len, reverse=True)
    return [*longer, *islice(cycle(shorter), len(longer))]


def second_config(context: Context, options: TransductiveOptions) -> RunConfig:
    """The run's config with a share of its steps and of its rates."""
    cfg = context.cfg
    steps = max(1, round(options.length * total_steps(cfg.trainer, len(context.draw.train))))
    trainer = replace(cfg.trainer, steps=steps, epochs=None, probe=False)
    rates = {group: options.lr * rate for group, rate in cfg.method.lr.items()}
    return replace(cfg, trainer=trainer, method=replace(cfg.method, lr=rates))
