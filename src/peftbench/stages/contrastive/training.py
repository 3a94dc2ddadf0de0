"""The `contrastive` stage: an encoder trained on pairs of texts.

Rows with a class are paired by it. Rows of two texts with a score are the pairs; a ranking loss takes those with the
highest score, and the other pairs of the batch are its negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.errors import UsageError
from peftbench.formulations.embed import check_embeds, losses
from peftbench.formulations.embed.formulation import EmbedFormulation, Pair, single_texts, text_id
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.contrastive.pairs import MOST_ROWS, labelled_pairs
from peftbench.stages.learning import LearnerPredictor, fresh, train_on, untrained
from peftbench.stages.ledger import once
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

NAME = "contrastive"


def check(context: Context) -> None:
    """Whether the draw has pairs for the loss.

    Raises:
        UsageError: the formulation has no vectors, the rows have one class or are too many to be paired, or the loss
            cannot be cut into parts.
    """
    check_embeds(context.cfg.method, NAME)
    cfg, rows = context.cfg.method.options(NAME), context.draw.train
    classes = {row.target for row in rows}
    if rows and context.data.problem == "classification":
        if cfg.loss == "cosine" and len(classes) < 2:
            raise UsageError(f"method={context.cfg.method.name}: train has one class, so no pair has two. More shots.")
        if cfg.pairs != "drawn" and len(rows) > MOST_ROWS:
            raise UsageError(
                f"method.contrastive.pairs={cfg.pairs}: {len(rows)} rows have too many pairs to be written down "
                f"(at most {MOST_ROWS} rows). Use pairs=drawn, or fewer shots."
            )
    if cfg.loss != "cosine" and (cfg.micro_batch is not None or context.processes().world > 1):
        raise UsageError(
            f"method.contrastive.loss={cfg.loss}: a pair's negatives are the whole batch, which cannot be cut. Set "
            "method.contrastive.micro_batch=null and trainer.devices=1."
        )


def contrastive(context: Context, incoming: Predictor | None) -> Predictor:
    """Train on pairs of the draw's rows; the last state is kept. With no labelled row (shots=0) nothing is trained.

    Raises:
        UsageError: there is no pair for the loss.
    """
    if not context.draw.train:
        return untrained(context, incoming)
    predictor = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    embed = predictor.learner.formulation
    assert isinstance(embed, EmbedFormulation)
    cfg = context.cfg.method.options(NAME)
    embed.pair_loss, embed.share_texts = losses.of(cfg.loss, cfg.scale), context.cfg.trainer.dropout == 0
    report = StageReport(NAME)

    def work(folder: Path) -> StageReport:
        with context.clock("data"):
            texts, pairs = training_pairs(context)
            items = embed.pair_items(texts, pairs)
        report.notes.append(f"{len(pairs)} pairs of {len(texts)} texts")
        return train_on(context, predictor.learner, items, folder, report, cfg=stage_config(context.cfg))

    context.reports.append(once(context, predictor.learner, work))
    return predictor


def stage_config(cfg: RunConfig) -> RunConfig:
    """The run's config, its trainer with the stage's own length and batch."""
    own: Any = cfg.method.options(NAME)
    names = ("steps", "epochs", "batch_size", "micro_batch", "warmup")
    return replace(cfg, trainer=replace(cfg.trainer, **{name: getattr(own, name) for name in names}))


def training_pairs(context: Context) -> tuple[list[Row], list[Pair]]:
    """One row a text, and the pairs of them.

    Raises:
        UsageError: there is no pair for the loss.
    """
    cfg, rows = context.cfg.method.options(NAME), context.draw.train
    random = np.random.RandomState(context.cfg.seed % 2**32)
    texts, pairs = _labelled(cfg, rows, random) if context.data.problem == "classification" else _scored(context, rows)
    if not pairs:
        raise UsageError(f"method.contrastive.loss={cfg.loss}: the drawn rows have no pair that is alike. More shots.")
    if cfg.max_pairs is not None and len(pairs) > cfg.max_pairs:
        pairs = [pairs[i] for i in sorted(random.choice(len(pairs), size=cfg.max_pairs, replace=False))]
    return texts, pairs


def _labelled(cfg: Any, rows: Sequence[Row], random: np.random.RandomState) -> tuple[list[Row], list[Pair]]:
    """Pairs by class; a ranking loss takes the positive ones, without those of a row and itself."""
    positive, negative = labelled_pairs([str(row.target) for row in rows], cfg.pairs, cfg.iterations, random)
    if cfg.loss != "cosine":
        positive, negative = [pair for pair in positive if pair[0] != pair[1]], []
    pairs = [Pair(*places, 1.0) for places in positive] + [Pair(*places, 0.0) for places in negative]
    return [replace(row, target=None) for row in rows], pairs


def _scored(context: Context, rows: Sequence[Row]) -> tuple[list[Row], list[Pair]]:
    """The rows' own pairs, their scores scaled to 0 to 1; a ranking loss takes those with the highest."""
    low, high = context.data.score_range or (0.0, 1.0)
    texts, place = single_texts(rows)
    scored = [(row, (float(row.target) - low) / (high - low)) for row in rows]  # type: ignore[arg-type]
    pairs = [
        Pair(place[text_id(row.text, row.domain)], place[text_id(row.pair or "", row.domain)], target)
        for row, target in scored
    ]
    ranks = context.cfg.method.options(NAME).loss != "cosine"
    return texts, [pair for pair in pairs if not ranks or pair.target == 1.0]
