"""The `continued_pretraining` stage: masked-LM training on the task's unlabelled texts, before they are asked about.

Task-adaptive pre-training (TAPT; Gururangan et al. 2020, arXiv 2004.10964) reads the plain texts. PCP (Shi and Lipani
2023, arXiv 2305.01711) reads each text in the task's pattern, with the label word of a *pseudo label* in the place of
the mask: the class that the model of the stage before, tuned on the few labelled rows, gives it. Training starts from
the pre-trained weights again, on all texts alike; no gold label is looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.formulations.base import Prediction
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.formulations.mlm import MlmFormulation
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh, learning_rates, measure_step
from peftbench.stages.ledger import once
from peftbench.tasks.base import Row
from peftbench.training.batching import total_steps
from peftbench.training.loop import TrainResult, train
from peftbench.training.optim import Course, build_optimizer

if TYPE_CHECKING:
    from peftbench.config.schema import TrainerConfig
    from peftbench.learner import Learner
    from peftbench.stages.continued_pretraining import ContinuedPretrainingOptions

NAME = "continued_pretraining"
CORPUS, LABELS = "corpus.txt", "pseudo_labels.json"
"""The texts as they are read, a line each, in the run's folder; and text id -> pseudo label, in the stage's folder
while the run lasts."""


def continued_pretraining(context: Context, incoming: Predictor | None) -> Predictor:
    """Train a fresh learner's masked LM on the corpus and hand on that learner.

    Args:
        incoming: the model that gives the pseudo labels; not needed for plain texts and random labels.

    Raises:
        UsageError: the backbone has no masked-LM head, there is no text, or nobody gives pseudo labels.
    """
    cfg = context.cfg.method.options("continued_pretraining")
    predictor = fresh(context)
    learner = predictor.learner
    if learner.backbone.purpose != "mlm" or learner.backbone.family != "encoder":
        raise UsageError(
            f"method={context.cfg.method.name}: the stage {NAME} trains the masked LM of an encoder. Use "
            "method/formulation=cloze and a model with such a head, e.g. model=minilm-mlm or model=roberta-large."
        )
    cloze = learner.formulation
    assert isinstance(cloze, ClozeFormulation)
    templated, length = cfg.corpus == "templated", longest_line(context, learner)
    encoder = cloze.encoder.of_length(length)
    mlm = MlmFormulation(
        learner.backbone,
        context.data,
        length,
        context.cfg.method.formulation,
        share=cfg.mask_share,
        ids=(lambda row: encoder.encode_word(row, cloze.first_word(row.target))) if templated else None,
        always=cfg.always_mask_word,
        train_head=cloze.cfg.train_head,
    )
    masked_lm = learner.with_formulation(mlm)

    def work(folder: Path) -> StageReport:
        report = StageReport(NAME)
        rows = texts(context)
        if templated:
            rows = with_pseudo_labels(context, incoming, rows, report)
        if context.processes().main:
            lines = (line(row, cloze if templated else None) for row in rows)
            write_atomic(context.folder / CORPUS, "".join(f"{text}\n" for text in lines).encode("utf-8"))
        return fit(context, masked_lm, rows, folder, report)

    context.reports.append(once(context, masked_lm, work))
    cloze.attach(learner.model)  # what starts from the model's vectors starts from those that it has now
    return predictor


def longest_line(context: Context, learner: Learner) -> int:
    """Tokens kept of a line of the corpus.

    Raises:
        UsageError: the backbone has fewer positions, or the tuner was made for shorter texts.
    """
    wanted, limit = context.cfg.method.options("continued_pretraining").max_length, learner.backbone.max_positions
    if wanted is None:
        return context.cfg.trainer.max_length
    room = None if limit is None else limit - learner.tuner.virtual_tokens
    if room is not None and wanted > room:
        raise UsageError(
            f"method.continued_pretraining.max_length={wanted}: model={learner.backbone.name} has {room} positions for "
            f"a text. Use {room} or less, or null for trainer.max_length."
        )
    bound = learner.tuner.longest_text
    if bound is not None and wanted > bound:
        raise UsageError(
            f"method.continued_pretraining.max_length={wanted}: the tuner {context.cfg.method.tuner.name} was made for "
            f"texts of trainer.max_length={bound} tokens. Use {bound} or less, or null for trainer.max_length."
        )
    return wanted


def texts(context: Context) -> list[Row]:
    """The corpus' rows, without targets: the unlabelled ones and the texts of the drawn training rows, as in PCP, whose
    pool is the whole train file; at most `texts` of them, drawn with the data seed. Dev rows stay out.

    Raises:
        UsageError: there are less than two.
    """
    cfg = context.cfg.method.options("continued_pretraining")
    pool = [replace(row, target=None) for row in (*context.draw.unlabeled, *context.draw.train)]
    pool = [row for row in pool if row.text.strip()]
    if len(pool) < 2:
        raise UsageError(
            f"task {context.data.name} has no unlabelled texts under protocol={context.cfg.protocol.name}."
        )
    if cfg.texts is None or len(pool) <= cfg.texts:
        return pool
    chosen = np.random.RandomState(context.draw.data_seed).choice(len(pool), size=cfg.texts, replace=False)
    return [pool[i] for i in sorted(chosen)]


def with_pseudo_labels(
    context: Context, incoming: Predictor | None, rows: Sequence[Row], report: StageReport
) -> list[Row]:
    """The rows with a pseudo label as their target, without those below the threshold.

    The labels are written down, so that an attempt that goes on from here need not predict them again.
    """
    cfg, dist, path = (
        context.cfg.method.options("continued_pretraining"),
        context.processes(),
        context.stage_folder() / LABELS,
    )
    labels = dist.broadcast(json.loads(path.read_text("utf-8")) if dist.main and path.exists() else None)
    if labels is None:
        labels = _pseudo_labels(context, incoming, rows)
        if dist.main:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(labels).encode("utf-8"))
    if cfg.pseudo_labels == "predicted":
        report.unlabeled_passes, report.teachers = len(rows), 1
    kept = [replace(row, target=labels[row.id]) for row in rows if row.id in labels]
    if len(kept) < 2:
        raise UsageError(
            f"method.continued_pretraining.threshold={cfg.threshold}: {len(kept)} of {len(rows)} texts reach it. "
            "Lower it."
        )
    if len(kept) < len(rows):
        report.notes.append(f"{len(rows) - len(kept)} of {len(rows)} texts are below the threshold of {cfg.threshold}")
    return kept


def _pseudo_labels(context: Context, incoming: Predictor | None, rows: Sequence[Row]) -> dict[str, Any]:
    cfg, data = context.cfg.method.options("continued_pretraining"), context.data
    if cfg.pseudo_labels == "random":
        choices = np.array(data.labels or data.score_range)
        drawn = np.random.RandomState(context.cfg.seed).choice(choices, size=len(rows))
        return {row.id: label for row, label in zip(rows, drawn.tolist(), strict=True)}
    if incoming is None:
        raise UsageError(
            "method.continued_pretraining.corpus=templated needs a model that gives pseudo labels: put `supervised` in "
            "front of it in method.stages, or use pseudo_labels=random or corpus=plain."
        )
    with context.clock("train"), context.meter.phase("train"):
        predictions = incoming.predict(rows)
    return {p.id: p.label for p in predictions if p.label is not None and confidence(p) >= cfg.threshold}


def confidence(prediction: Prediction) -> float:
    """The softmax probability of the predicted class."""
    top = max(prediction.scores.values())
    return 1 / sum(math.exp(score - top) for score in prediction.scores.values())


def line(row: Row, cloze: ClozeFormulation | None) -> str:
    """A text as the corpus has it, whole: in the pattern with its label word, or (None) as it is."""
    if cloze is None:
        text = row.whole
    else:
        pattern = cloze.encoder.pattern
        text = pattern.fill(pattern.texts(row), cloze.first_word(row.target))
    return " ".join(text.split())


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, at least one if `share` is not 0; both in the order of `rows`."""
    count = min(len(rows) - 1, math.ceil(share * len(rows)))
    held = set(np.random.RandomState(seed).permutation(len(rows))[:count].tolist())
    return [r for i, r in enumerate(rows) if i not in held], [r for i, r in enumerate(rows) if i in held]


def mean_loss(predictions: Sequence[Prediction]) -> float:
    """Mean cross-entropy a predicted token, from `MlmFormulation.predict`."""
    return sum(p.scores["loss"] for p in predictions) / sum(p.scores["tokens"] for p in predictions)


def trainer_of(run: TrainerConfig, cfg: ContinuedPretrainingOptions) -> TrainerConfig:
    """The run's trainer with the stage's own length, batch, evaluations and warm-up."""
    return replace(
        run,
        steps=cfg.steps,
        epochs=cfg.epochs,
        batch_size=cfg.batch_size,
        micro_batch=cfg.micro_batch,
        eval_every=cfg.eval_every,
        warmup=cfg.warmup,
        patience=None,
    )


def fit(context: Context, learner: Learner, rows: Sequence[Row], folder: Path, report: StageReport) -> StageReport:
    """Train on the corpus; of the states looked at, that with the lowest loss on the held-out texts is kept."""
    cfg = context.cfg.method.options("continued_pretraining")
    trainer, predictor = trainer_of(context.cfg.trainer, cfg), LearnerPredictor(learner, context)
    train_rows, held_out = split(rows, cfg.held_out, context.draw.data_seed)
    items = [item for item in predictor.encode(train_rows) if item.weight]
    report.lr = learning_rates(context, learner, cfg.lr)
    decay = context.cfg.method.weight_decay
    optimizer = build_optimizer(learner.param_groups(), report.lr, decay, beta2=cfg.beta2, epsilon=cfg.epsilon)
    if trainer.probe:
        with context.clock("probe"):
            measure_step(context, learner, items, report, trainer)

    def evaluate() -> float:
        with context.clock("eval"), context.meter.phase("eval"):
            return -mean_loss(predictor.predict(held_out))

    with context.clock("train"), context.meter.phase("train"):
        result = train(
            learner,
            items,
            cfg=trainer,
            lr=report.lr,
            weight_decay=decay,
            seed=context.cfg.seed,
            select="best",
            evaluate=evaluate if held_out else None,
            clock=context.clock,
            dist=context.processes(),
            folder=folder,
            on_log=None,  # its steps are not the supervised stage's, which the tracker shows
            attempt=context.attempt,
            course=Course(optimizer, total_steps(trainer, len(items))),
        )
    report.unlabeled_passes += round(result.steps * len(items) / math.ceil(len(items) / trainer.batch_size))
    _tell(report, result, len(held_out))
    return report


def _tell(report: StageReport, result: TrainResult, held_out: int) -> None:
    """What came of the training, with dev scores as what they are here: losses of held-out texts."""
    report.status, report.reason, report.seconds = result.status, result.reason, result.seconds
    report.steps, report.tokens, report.curves = result.steps, result.tokens, result.curves
    steps, losses = report.curves.pop("dev_step"), report.curves.pop("dev")
    report.curves |= {"held_out_step": steps, "held_out_loss": [-score for score in losses]}
    if losses:
        best, step = min((-score, step) for step, score in zip(steps, losses, strict=True))
        first = "" if len(losses) == 1 else f"{-losses[0]:.3f} after {steps[0]} steps, "
        report.notes.append(f"masked-LM loss on {held_out} held-out texts: {first}{best:.3f} after {step} steps (kept)")
