"""Soft-prompt alignment (Sun, Shaib and Wallace, ICLR 2024, arXiv 2306.11270): the KL between wordings as a loss.

The training code was not released. The mixing of the two losses, its weight and the direction of the KL are our
reading; so is what the teacher is, and that the reference is among the wordings of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded
from peftbench.formulations.in_words import IGNORE, TextFormulation
from peftbench.formulations.wordings.formulation import REFERENCE, TAUGHT, TEACHER, WordingsFormulation, token_counts
from peftbench.stages.base import StageReport
from peftbench.stages.soft_losses import divergences
from peftbench.stages.tricks.alignment import KEY, AlignmentOptions
from peftbench.stages.tricks.passes import Passes
from peftbench.training.batching import evaluation_batches
from peftbench.training.precision import autocast
from peftbench.training.predict import to_device
from peftbench.tuners.none import NoneOptions

if TYPE_CHECKING:
    from peftbench.stages.base import Context
    from peftbench.stages.tricks.training import Training

MOST = 2**31
"""Bytes that the teacher's distributions over the vocabulary may take."""


def with_teacher(training: Training, items: Sequence[Encoded], options: AlignmentOptions) -> Sequence[Encoded]:
    """Items with what the bare backbone, without the tuner, says of them in the reference's words. A tuned teacher is
    asked in each step instead.

    Raises:
        UsageError: the distributions over the vocabulary would not fit into memory.
    """
    if options.teacher == "tuned":
        return items
    context, report = training.context, StageReport("teacher", teachers=1)
    with context.part(report.name), context.clock("train"), context.meter.phase("train"):
        found = _said_by_bare(context, items, options.form)
        report.tokens = 0  # of training; what the teacher read is told apart
        report.facts["read_tokens"] = float(sum(item.length for item in items))
    training.report.add_part(report)
    return [replace(item, data={**item.data, TEACHER: said}) for item, said in zip(items, found, strict=True)]


def _said_by_bare(context: Context, items: Sequence[Encoded], form: str) -> list[Tensor]:
    """Of each item the logits over the labels, (labels,), or over the vocabulary, (answer tokens, vocabulary)."""
    method = replace(
        context.cfg.method, tuner=NoneOptions(name="none"), stages=["none"], trick={}, init_from=None, budget=None
    )
    assert context.new_learner is not None
    learner = context.new_learner(context, replace(context.cfg, method=method)).eval()
    wordings, found = learner.formulation, dict[int, Tensor]()
    assert isinstance(wordings, WordingsFormulation)
    device, trainer = context.processes().device, context.cfg.trainer
    for places in evaluation_batches([item.length for item in items], trainer.eval_batch_tokens):
        batch = to_device(learner.collate([items[place] for place in places]), device)
        with torch.no_grad(), autocast(context.precision, device):
            said = said_of(wordings, learner.model, batch, form)
        found |= dict(zip(places, (one.float().cpu().clone() for one in said), strict=True))
        if (taken := sum(one.numel() * 4 for one in found.values())) > MOST:
            raise UsageError(
                f"{KEY}.form=vocabulary: the teacher's distributions take more than {MOST >> 30} GiB "
                f"({len(found)} of {len(items)} rows: {taken >> 20} MiB). Use form=labels, or teacher=tuned, which "
                "keeps none."
            )
    return [found[place] for place in range(len(items))]


def said_of(wordings: WordingsFormulation, model: nn.Module, batch: Batch, form: str) -> Sequence[Tensor]:
    """Of each item of a batch what a model says in the reference's words; see `_said_by_bare`."""
    reference = wordings.form(REFERENCE)
    if form == "labels":
        return reference.label_scores(model, batch).unbind()
    logits, _ = at_answers(reference, model, batch)
    return logits.split(token_counts(batch).tolist())


def at_answers(asked: TextFormulation, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (answer tokens of all items, vocabulary) where answers stand, item after item, and these tokens."""
    logits, labels = asked.answer_logits(model, batch)
    return logits[labels != IGNORE].float(), labels[labels != IGNORE]


def aligned(passes: Passes, options: AlignmentOptions, loss: Callable[[], Tensor]) -> Tensor:
    """(1 - weight) CE(y | i_j, x) + weight KL(p_0 || p_j), summed over the batch's items.

    i_j is the wording of the step and p_j what the tuned model says in it; p_0 is what the teacher says in the
    reference's words, without gradient. CE is the mean over the answer's tokens. `labels`: one KL over the labels'
    likelihoods, normalised again; `vocabulary`: the mean of the KL at each token of the answer. `reverse` is
    KL(p_j || p_0), `both` the mean of the two. `loss` is not asked for: its pass is part of this one.
    """
    wordings, batch, model = passes.formulation, passes.batch, passes.model
    asked, taught = wordings.form(batch["way"]), batch[TAUGHT]
    said = batch.get(TEACHER)
    if said is None:
        with torch.no_grad():
            said = said_of(wordings, model, batch, options.form)
    counts = token_counts(taught)
    if options.form == "labels":
        sums = asked.likelihoods(model, taught)
        entropy = -sums.gather(1, batch["gold"][:, None]).squeeze(1) / counts
        apart = divergence(torch.stack(list(said)).to(sums), sums / asked.sizes, options.direction)
    else:
        logits, answers = at_answers(asked, model, taught)
        owners = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        entropy = mean_of(F.cross_entropy(logits, answers, reduction="none"), owners, counts)
        apart = mean_of(divergence(torch.cat(list(said)).to(logits), logits, options.direction), owners, counts)
    return (passes.weights * ((1 - options.weight) * entropy + options.weight * apart)).sum()


def divergence(teacher: Tensor, student: Tensor, direction: str) -> Tensor:
    """(n,) divergences of distributions given by logits, both (n, choices)."""
    if direction == "forward":
        return divergences(teacher, student)
    if direction == "reverse":
        return divergences(student, teacher)
    return (divergences(teacher, student) + divergences(student, teacher)) / 2


def mean_of(values: Tensor, owners: Tensor, counts: Tensor) -> Tensor:
    """(items,) means of the values (n,) of each item; `owners` (n,) says whose they are, `counts` how many it has."""
    return values.new_zeros(len(counts)).index_add(0, owners, values) / counts
