"""What stages that train share: a learner that answers, and gradient steps on some items."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.base import PROMPT_TEXT, Batch, Encoded, Prediction
from peftbench.formulations.fitting import Cut
from peftbench.formulations.robustness import Asked
from peftbench.learner import HEAD, Learner
from peftbench.measure.probe import Probe, probe_step
from peftbench.records import manifest
from peftbench.stages import kept
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.tasks.base import Row
from peftbench.training.batching import plan_batches
from peftbench.training.checkpoint import disk_errors
from peftbench.training.loop import train
from peftbench.training.precision import autocast
from peftbench.training.predict import predict_all, to_device

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig, TrainerConfig
    from peftbench.records.record import Record
    from peftbench.training.optim import Course


DEFAULT_RATE = "default"
"""Key of `method.lr` for a method that is made for any tuner, whatever its parameter groups are called."""


class LearnerPredictor(Predictor):
    """A learner on the run's device and processes. Tokenised rows are kept, so dev is tokenised once."""

    def __init__(self, learner: Learner, context: Context) -> None:
        self.learner = learner
        self.context = context
        self._encoded: dict[tuple[str, ...], list[Encoded]] = {}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Tokenised items, the time booked as data preparation."""
        key = tuple(row.id for row in rows)
        if key not in self._encoded:
            with self.context.clock("data"):
                self._encoded[key] = kept.encoded(self.learner, rows)
        return self._encoded[key]

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        return self.ask_learner(rows)

    def ask_learner(
        self,
        rows: Sequence[Row],
        predict: Callable[[Batch], list[Prediction]] | None = None,
        learner: Learner | None = None,
    ) -> list[Prediction]:
        """One prediction a row, in order; see `peftbench.inference.base.Ask`."""
        items = self.encode(rows) if learner is None else learner.encode(rows)
        learner, context = learner or self.learner, self.context
        with learner.reusing():
            found = predict_all(
                learner,
                items,
                cfg=context.cfg.trainer,
                dist=context.processes(),
                precision=context.precision,
                predict=predict,
            )
        return learner.formulation.answers(rows, found)

    def in_every_way(self, rows: Sequence[Row], known: Sequence[Prediction]) -> list[Asked]:
        found: list[Asked] = []
        for way in self.learner.formulation.ways():
            posed = self.learner.with_formulation(way.form)
            found.append(Asked(way.name, way.observed, self.ask_learner(rows, learner=posed) if found else known))
        return found

    def counts(self) -> dict[str, int]:
        return self.learner.counts()

    def remarks(self) -> list[str]:
        frozen = self.learner.frozen
        own = [f"trainer.reuse_frozen: {frozen.off}"] if frozen and frozen.off else []
        together = self.learner.together
        own += [f"trainer.together: {together.why_alone}"] if together and together.why_alone else []
        return [*self.learner.tuner.notes, *self.learner.formulation.notes, *own]

    def tokenisation(self) -> dict[str, Any]:
        formulation, draw = self.learner.formulation, self.context.draw
        cut, emptied = {}, {}
        for split in ("train", "dev", "test"):
            items = self._encoded.get(tuple(row.id for row in getattr(draw, split)), [])
            if items and all(item.cut is not None for item in items):
                cut[split] = [sum(bool(item.cut) for item in items), len(items)]
                emptied[split] = [sum(item.cut is Cut.EMPTIED for item in items), len(items)]
        counts = {"cut": cut, "emptied": emptied}
        return {"max_length": formulation.max_length, **counts, "label_tokens": formulation.label_tokens()}

    def costs(self) -> Mapping[str, float]:
        return self.learner.frozen.facts() if self.learner.frozen else {}

    def answer_facts(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Mapping[str, float]:
        return self.learner.formulation.answer_facts(rows, predictions)

    def prompts(self) -> dict[str, str]:
        every = (item for items in self._encoded.values() for item in items)
        return {item.id: item.data[PROMPT_TEXT] for item in every if PROMPT_TEXT in item.data}

    def save(self, folder: Path) -> None:
        with disk_errors("write what was trained to", folder):
            self.learner.save(folder)

    def manifest(self, record: Record) -> dict[str, Any] | None:
        """The config with the formulation as files can carry it (`Formulation.portable`), the backbone's facts, and
        what the formulation shows of the training rows; None of a learner that was made without a config."""
        learner, backbone = self.learner, self.learner.backbone
        if learner.config is None:
            return None
        method = learner.config.method
        formulation, task = learner.formulation.portable(method.formulation)
        names = ("name", "family", "purpose", "revision", "pooling", "prefix", "hidden_size")
        return manifest.make(
            record,
            replace(learner.config, method=replace(method, formulation=formulation)),
            task,
            kind="learner",
            pairs=self.context.has_pairs(),
            backbone={name: getattr(backbone, name) for name in names},
            shown=learner.formulation.shown_rows(),
            start=learner.start,
        )


def untrained(context: Context, incoming: Predictor | None) -> Predictor:
    """The `none` stage: the learner as it is."""
    context.reports.append(StageReport("none"))
    return incoming or fresh(context)


def fresh(context: Context, cfg: RunConfig | None = None) -> LearnerPredictor:
    """A new learner on the run's device, of the run's config or of a variation of it."""
    assert context.new_learner is not None, "a stage that trains needs a backbone"
    return LearnerPredictor(context.new_learner(context, cfg), context)


def train_on(
    context: Context,
    learner: Learner,
    items: Sequence[Encoded],
    folder: Path,
    report: StageReport,
    *,
    cfg: RunConfig | None = None,
    select: str = "last",
    evaluate: Callable[[], float] | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
    unlabeled: Container[str] = (),
    course: Course | None = None,
    repeats: int = 1,
) -> StageReport:
    """Measure a step of `learner` on `items` and train it; `report` is filled with what was done.

    Args:
        cfg: whose trainer, learning rates and seed count; None takes the run's.
        select, evaluate, on_log, course, repeats: see `peftbench.training.loop.train`.
        unlabeled: ids of the items whose rows have no label; how often they are trained on is counted.
    """
    cfg = cfg or context.cfg
    report.lr = learning_rates(context, learner, cfg.method.lr)
    if cfg.trainer.probe:
        with context.clock("probe"):
            measure_step(context, learner, items, report, cfg.trainer)
    with context.clock("train"), context.meter.phase("train"):
        learner.before_training(gradients(context, learner, items, cfg))
        learner.zero_grad()  # of a tuner that did not look at all of them
        with learner.reusing(), learner.in_training():
            result = train(
                learner,
                items,
                cfg=cfg.trainer,
                lr=report.lr,
                weight_decay=cfg.method.weight_decay,
                constant=constant_groups(context, learner),
                seed=cfg.seed,
                select=select,
                evaluate=evaluate,
                clock=context.clock,
                dist=context.processes(),
                folder=folder,
                on_log=on_log,
                attempt=context.attempt,
                course=course,
                repeats=repeats,
            )
        learner.after_training()
    report.status, report.reason, report.seconds = result.status, result.reason, result.seconds
    report.steps, report.tokens, report.curves = result.steps, result.tokens, result.curves
    report.dev_score = result.dev_score
    report.unlabeled_passes += sum(count for id_, count in result.passes.items() if id_ in unlabeled)
    return report


def uses_dev(context: Context) -> bool:
    """Whether a dev set chooses the state that is kept."""
    return bool(context.draw.dev) and context.draw.select == "best"


def learning_rates(context: Context, learner: Learner, given: Mapping[str, float] | None = None) -> dict[str, float]:
    """The method's learning rates (or those `given`) by parameter group; `default` is that of the groups without one
    of their own.

    A head's rate is left out where the formulation has none.
    """
    groups, rates = learner.param_groups(), dict(context.cfg.method.lr if given is None else given)
    if HEAD not in groups:
        rates.pop(HEAD, None)
    if DEFAULT_RATE in rates:
        rates = {**dict.fromkeys(groups, rates.pop(DEFAULT_RATE)), **rates}
    return rates


def constant_groups(context: Context, learner: Learner) -> list[str]:
    """The parameter groups whose rate stays at its peak.

    Raises:
        UsageError: there is no such group. A head may be named where the formulation has none.
    """
    names, groups = context.cfg.method.constant_lr, learner.param_groups()
    for name in names:
        if name not in groups and name != HEAD:
            raise UsageError(f"method.constant_lr: no parameter group `{name}`. {did_you_mean(name, groups)}")
    return names


def gradients(context: Context, learner: Learner, items: Sequence[Encoded], cfg: RunConfig) -> Iterator[int]:
    """One pass over `items` in train mode, the same on every process; see `Tuner.before_training`."""
    count, device = math.ceil(len(items) / cfg.trainer.batch_size), context.processes().device
    learner.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(cfg.seed)
        for positions in plan_batches([i.length for i in items], cfg.trainer.batch_size, count, cfg.seed):
            chosen = [items[i] for i in positions]
            with autocast(context.precision, device):
                loss = learner(to_device(learner.collate(chosen), device)) / sum(item.weight for item in chosen)
            loss.backward()
            yield count
            learner.zero_grad()


def measure_step(
    context: Context,
    learner: Learner,
    items: Sequence[Encoded],
    report: StageReport,
    trainer: TrainerConfig | None = None,
) -> None:
    """FLOPs, and bytes saved for backward, of one step on the longest items: outside training and its clock."""
    cfg, device = trainer or context.cfg.trainer, context.processes().device
    longest = sorted(items, key=lambda item: -item.length)[: cfg.micro_batch or cfg.batch_size]
    batch = to_device(learner.collate(longest), device)

    def forward() -> Tensor:
        with autocast(context.precision, device):
            return learner(batch)

    def measure() -> Probe:
        learner.train()
        return probe_step(forward, exclude=[*learner.parameters(), *learner.buffers()])

    probe = kept.probed(learner, batch, (context.precision, cfg.gradient_checkpointing), measure)
    # With accumulation a step is several such passes, one after the other.
    report.step_flops = probe.step_flops * min(cfg.batch_size, len(items)) / len(longest)
    report.saved_bytes = probe.saved_bytes
