"""The `calibration` stage: how likely the label words are before any step of training, whatever the text.

A language model prefers common words. What it gives to each word on average is a prior, by which a knowledgeable
verbalizer divides (see `formulations.verbalizers`) and which tells the words that it hardly knows. Label scores are
divided by theirs (`formulations.score`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.formulations.base import Encoded
from peftbench.formulations.calibrated import Calibrated
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh
from peftbench.stages.ledger import once
from peftbench.tasks.base import Row
from peftbench.training.batching import evaluation_batches
from peftbench.training.precision import autocast
from peftbench.training.predict import to_device

if TYPE_CHECKING:
    from peftbench.learner import Learner

CONTENT_FREE = ("N/A", "", "[MASK]")
"""The inputs without content of contextual calibration (Zhao et al. 2021, arXiv 2102.09690, section 5)."""


def calibration(context: Context, incoming: Predictor | None) -> Predictor:
    """Measure the prior of the formulation's label words, with no gradient and no label.

    Raises:
        UsageError: the formulation has no calibration, or there are no texts.
    """
    predictor = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    formulation = predictor.learner.formulation
    if not isinstance(formulation, Calibrated) or formulation.cfg.calibration == "none":
        raise UsageError(
            "method.stages has `calibration`, and the formulation has nothing to calibrate. Set "
            "method.formulation.calibration=prior or contextual (method/formulation=cloze, score or prompted), or "
            "leave the stage out: "
            "'method.stages=[supervised]'."
        )
    rows = prior_rows(context, formulation)
    context.reports.append(once(context, OwnState(predictor.learner), lambda _: measure(context, predictor, rows)))
    return predictor


class OwnState:
    """What this stage changes of a learner, as a part that the ledger can keep: not the backbone."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def training_state(self) -> dict[str, Tensor]:
        """The formulation's parameters and what it keeps beside them, on the CPU."""
        formulation = self.learner.formulation
        return {name: t.detach().to("cpu", copy=True) for name, t in formulation.state_dict().items()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` gave."""
        self.learner.formulation.load_state_dict(state)


def prior_rows(context: Context, formulation: Calibrated) -> list[Row]:
    """The texts that the prior is the mean of, their labels taken away.

    `contextual`: inputs without content. `prior`: the train split as far as a run may look at it: drawn rows, rows that
    were not drawn, and dev rows that were drawn from it; `prior_rows` of them, the same for every training seed.
    """
    draw = context.draw
    if formulation.cfg.calibration == "contextual":
        like = next(iter((*draw.train, *draw.unlabeled, *draw.test)))
        return [without_content(like, text, number) for number, text in enumerate(CONTENT_FREE)]
    from_train = [row for row in draw.dev if row.id.startswith("train:")]
    rows = [replace(row, target=None) for row in (*draw.train, *from_train, *draw.unlabeled)]
    if not rows:
        raise UsageError(
            "method.formulation.calibration=prior: the task has no texts for it besides dev and test. Use "
            "calibration=contextual, or none."
        )
    limit = formulation.cfg.prior_rows
    if limit is None or limit >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(draw.data_seed)).tolist()
    return [rows[i] for i in order[:limit]]


def without_content(like: Row, text: str, number: int) -> Row:
    """A row of the shape of `like` whose every text is `text`."""
    parts = None if like.parts is None else dict.fromkeys(like.parts, text)
    pair = None if like.pair is None else text
    return Row(f"content-free:{number}", text, None, pair, parts=parts)


def measure(context: Context, predictor: LearnerPredictor, rows: Sequence[Row]) -> StageReport:
    """One pass over `rows`; the formulation then has its prior. Every process makes the whole pass."""
    learner = predictor.learner
    formulation = learner.formulation
    assert isinstance(formulation, Calibrated)
    items = predictor.encode(rows)
    report = StageReport("calibration", tokens=sum(item.length for item in items))
    with context.clock("train"), context.meter.phase("train"):
        began = time.perf_counter()
        contextual = formulation.cfg.calibration == "contextual"
        scores, report.unlabeled_passes = (all_scores if contextual else mean_scores)(context, learner, items)
        removed = formulation.calibrate(learner.model, scores)
        report.seconds = time.perf_counter() - began
    texts = "inputs without content" if contextual else "texts of the train split, their labels unseen"
    report.notes.append(
        f"calibration by {len(items)} {texts}; {removed} of "
        f"{formulation.answer_count()} label words removed as unlikely"
    )
    return report


def mean_scores(context: Context, learner: Learner, items: Sequence[Encoded]) -> tuple[Tensor, int]:
    """(1, vocabulary): the mean scores at the mask over `items`, summed in double precision; and how many passes they
    are the mean of (an item with several sets of demonstrations makes several)."""
    total, passes = torch.zeros(1, dtype=torch.float64, device=context.processes().device), 0
    for scores in _batches(context, learner, items):
        total = total + scores.double().sum(0)
        passes += len(scores)
    return (total / passes).float()[None], passes


def all_scores(context: Context, learner: Learner, items: Sequence[Encoded]) -> tuple[Tensor, int]:
    """(passes, vocabulary): the scores at the masks; and how many they are."""
    scores = torch.cat(list(_batches(context, learner, items)))
    return scores, len(scores)


def _batches(context: Context, learner: Learner, items: Sequence[Encoded]) -> Iterator[Tensor]:
    """(batch, vocabulary) scores at the masks, in eval mode, batch by batch; long items first."""
    formulation, device = learner.formulation, context.processes().device
    assert isinstance(formulation, Calibrated)
    was_training = learner.training
    learner.eval()
    try:
        for positions in evaluation_batches([item.length for item in items], context.cfg.trainer.eval_batch_tokens):
            batch = to_device(learner.collate([items[i] for i in positions]), device)
            with torch.no_grad(), autocast(context.precision, device):
                scores = formulation.word_scores(learner.model, batch)
            yield scores
    finally:
        learner.train(was_training)
