"""A supervised training with tricks: what they work on, and the learner as the loop sees it then."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from peftbench.config.registry import imported
from peftbench.formulations.base import Batch, Encoded
from peftbench.formulations.soft_targets import SOFT_TARGETS, with_soft_target
from peftbench.stages.around import AroundLearner
from peftbench.stages.base import Context, StageReport
from peftbench.stages.learning import LearnerPredictor, train_on, uses_dev
from peftbench.stages.ledger import once
from peftbench.stages.soft_losses import collate_soft
from peftbench.stages.tricks import Chosen, chosen
from peftbench.stages.tricks.passes import WEIGHTS, Passes

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.learner import Learner


class Training:
    """The stage at work.

    Attributes:
        predictor: what is trained.
        report: the stage's, to which every training adds a part.
        last: whether the training that comes next ends the stage.
    """

    def __init__(self, context: Context, predictor: LearnerPredictor) -> None:
        self.context, self.predictor = context, predictor
        self.tricks: Chosen = chosen(context.cfg.method)
        self.report = StageReport("supervised")
        self.last = False

    def run(self) -> StageReport:
        """Targets, the training on them, and what comes afterwards, as far as nothing diverges."""
        items: Sequence[Encoded] = self.predictor.encode(self.context.draw.train)
        for trick, options in self.tricks:
            if trick.targets and self.report.status == "done":
                items = imported(trick.targets)(self, items, options)
        after = [(trick, options) for trick, options in self.tricks if trick.afterwards]
        self.last = not after
        if self.report.status == "done":
            self.train(items, StageReport("training"))
        for number, (trick, options) in enumerate(after, start=1):
            self.last = number == len(after)
            if self.report.status == "done":
                imported(trick.afterwards)(self, items, options)
        return self.report

    def train(
        self,
        items: Sequence[Encoded],
        part: StageReport,
        cfg: RunConfig | None = None,
        unlabeled: Container[str] = (),
    ) -> None:
        """Train on `items`, with the tricks that work on loss and steps.

        Args:
            part: an empty report with the part's name, or one that holds what was done for it before.
            cfg: whose trainer, learning rates and seed count; None takes the run's.
            unlabeled: ids of items whose rows have no label.
        """
        work = partial(self._fit, items, part, cfg or self.context.cfg, unlabeled)
        with self.context.part(part.name):
            self.add(once(self.context, self.predictor.learner, work, part.name, ends_stage=self.last))

    def add(self, part: StageReport) -> None:
        """Book a part that is done; of the first one the stage has rates, of the last one curves and dev score."""
        self.report.add_part(part)
        self.report.notes += part.notes
        self.report.lr = self.report.lr or part.lr
        self.report.curves, self.report.dev_score = part.curves, part.dev_score

    def classes_of(self, items: Sequence[Encoded]) -> list[Encoded]:
        """Items of a classification task, each with a soft target; where it has none, all on its label."""
        eye = torch.eye(len(self.context.data.labels))
        return [i if SOFT_TARGETS in i.data else with_soft_target(i, eye[i.data["target"]]) for i in items]

    def _fit(
        self, items: Sequence[Encoded], report: StageReport, cfg: RunConfig, unlabeled: Container[str], folder: Path
    ) -> StageReport:
        context, learner = self.context, Tricked(self.predictor.learner, self.tricks, cfg.seed)
        train_on(
            context,
            cast("Learner", learner),
            items,
            folder,
            report,
            cfg=cfg,
            select=context.draw.select,
            evaluate=(lambda: learner.dev_score(context, self.predictor)) if uses_dev(context) else None,
            on_log=None if unlabeled else context.log,  # the tracker counts steps once
            unlabeled=unlabeled,
        )
        if report.status == "done" and report.dev_score is None:  # else the loop has put the chosen state back
            learner.put_kept()
        report.notes += [note for hook in learner.hooks.values() for note in hook.notes]
        return report


class Hook:
    """What a trick does between the steps of one training; a subclass says what.

    Attributes:
        keeps: whether the state that is evaluated and kept is another than the one that is trained.
        notes: what a reader of the result must know.
    """

    keeps = False

    def __init__(self) -> None:
        self.notes: list[str] = []

    def before_training(self, gradients: Iterable[int]) -> None:
        """See `peftbench.tuners.base.Tuner.before_training`; only one can go through `gradients`."""

    def before_step(self, step: int, steps: int) -> None:
        """Between the gradients of a 0-based step and its clipping."""

    def after_step(self, step: int, steps: int) -> None:
        """After the optimiser's move."""

    def kept(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is evaluated and kept in place of `Learner.trainable_state()`, if `keeps`."""
        return state

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, on the CPU, with which a resumed training goes on."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""


class Tricked(AroundLearner):
    """A learner as the loop sees it, whose loss and steps are the tricks'."""

    def __init__(self, learner: Learner, tricks: Chosen, seed: int) -> None:
        super().__init__(learner)
        self.losses = [(imported(trick.loss), options) for trick, options in tricks if trick.loss]
        self.hooks: dict[str, Hook] = {
            options.name: imported(trick.steps)(learner, options, seed) for trick, options in tricks if trick.steps
        }

    def collate(self, items: Sequence[Encoded]) -> Batch:
        soft = bool(items) and SOFT_TARGETS in items[0].data
        batch = collate_soft(self.learner, items) if soft else self.learner.collate(items)
        return {**batch, WEIGHTS: torch.tensor([item.weight for item in items])}

    def forward(self, batch: Batch) -> Tensor:
        if not self.losses and SOFT_TARGETS not in batch:
            return self.learner(batch)
        passes = Passes(self.learner, batch)
        loss: Any = passes.loss
        for change, options in self.losses:
            loss = partial(change, passes, options, loss)
        return loss()

    def _at_work(self) -> list[Any]:
        """What is told of every step."""
        return [self.learner, *self.hooks.values()]

    def before_training(self, gradients: Iterable[int]) -> None:
        for one in self._at_work():
            one.before_training(gradients)

    def before_step(self, step: int, steps: int) -> None:
        for one in self._at_work():
            one.before_step(step, steps)

    def after_step(self, step: int, steps: int) -> None:
        for one in self._at_work():
            one.after_step(step, steps)

    def trainable_state(self) -> dict[str, Tensor]:
        """The state that is kept."""
        state = self.learner.trainable_state()
        for hook in self.hooks.values():
            state = hook.kept(state)
        return state

    def put_kept(self) -> None:
        """Have the learner hold the state that is kept."""
        if any(hook.keeps for hook in self.hooks.values()):
            self.learner.load_trainable_state(self.trainable_state())

    def dev_score(self, context: Context, predictor: LearnerPredictor) -> float:
        """The dev score of the state that is kept; the one that is trained stays as it is."""
        if not any(hook.keeps for hook in self.hooks.values()):
            return context.dev_score(predictor)
        trained = self.learner.trainable_state()
        self.put_kept()
        try:
            return context.dev_score(predictor)
        finally:
            self.learner.load_trainable_state(trained)

    def training_state(self) -> dict[str, Tensor]:
        kept = {_in_checkpoint(name, t): x for name, hook in self.hooks.items() for t, x in hook.state().items()}
        return {**self.learner.training_state(), **kept}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        rest = dict(state)
        for name, hook in self.hooks.items():
            prefix = _in_checkpoint(name, "")
            hook.load_state({t.removeprefix(prefix): rest.pop(t) for t in state if t.startswith(prefix)})
        self.learner.load_training_state(rest)


def _in_checkpoint(trick: str, tensor: str) -> str:
    return f"trick {trick}/{tensor}"
