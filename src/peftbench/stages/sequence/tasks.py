"""One task after the other, by one model, and what it answers to all of them in between.

After every task the model answers the test rows of all tasks. Their targets are looked at once, when the last task is
learned (`TaskSequence.finish`): until then there is nothing that a choice could be made by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.formulations.by_task import ByTask
from peftbench.records import manifest as manifests
from peftbench.stages import get_stage
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor
from peftbench.stages.sequence.knowledge import Knowledge, Losses, facts
from peftbench.stages.sequence.measures import backward_transfer, forward_transfer, learned
from peftbench.tasks.metrics import score_tasks
from peftbench.training import checkpoint

if TYPE_CHECKING:
    from peftbench.learner import Learner
    from peftbench.records.record import Record
    from peftbench.tasks.base import Row

NAME, ANSWERS = "sequence", "answers"
"""The stage; what the model answered after a task, in the folder of that task, for a resumed run."""


@dataclass
class Answers:
    """What the model answers after `after` tasks (0: before the first): row id -> its prediction's label; and its
    losses on the neutral texts, if there are any."""

    after: int
    labels: Mapping[str, Any]
    losses: Losses | None = None


class TaskSequence(LearnerPredictor):
    """The learner that has gone through the tasks, with what it answered on the way."""

    def __init__(self, learner: Learner, context: Context) -> None:
        super().__init__(learner, context)
        self.on_the_way: list[Answers] = []
        self.knowledge = Knowledge(context, learner) if context.data.knowledge else None

    @property
    def posed(self) -> ByTask:
        """How the tasks are posed."""
        assert isinstance(self.learner.formulation, ByTask)
        return self.learner.formulation

    def ask(self, after: int, folder: str) -> None:
        """Answer the test rows of all tasks, of tasks with heads those that were learned; after the last task nobody
        asks here, for that is the end of the run. Kept in the folder of a part, so that an attempt that goes on from
        there need not ask again."""
        context, dist = self.context, self.context.processes()
        path = context.stage_folder(folder) / ANSWERS
        if dist.broadcast(checkpoint.sound(path) if dist.main else None):
            _, kept = checkpoint.load(path)
            context.attempt.resume(kept["attempt"])
            losses = None if kept["losses"] is None else Losses(*kept["losses"])
            self.on_the_way.append(Answers(after, kept["labels"], losses))
            return
        rows = self._rows(after)
        with context.clock("eval"), context.meter.phase("eval"):
            labels = {p.id: p.label for p in (self.predict(rows) if rows else ())}
            losses = self._losses(after)
        self.on_the_way.append(Answers(after, labels, losses))
        if dist.main:
            with context.clock("save"):
                kept = {"labels": labels, "losses": losses, "attempt": context.attempt.account()}
                checkpoint.write(path, {}, kept, context.attempt.check)
        dist.barrier()

    def _losses(self, after: int) -> Losses | None:
        """On the neutral texts: at first those of the bare model."""
        if self.knowledge is None:
            return None
        return self.knowledge.now() if after else self.knowledge.of_the_bare_model()

    def _rows(self, after: int) -> list[Row]:
        """What is asked after so many tasks, without targets; a trial, which never sees a test score, asks nothing."""
        if self.context.cfg.evaluate == "dev":
            return []
        names = list(self.context.data.tasks)
        asked = set(names[:after] if self.posed.has_heads() else names) if after < len(names) else set()
        return [replace(row, target=None) for row in self.context.draw.test if row.domain in asked]

    def finish(self, record: Record) -> None:
        """The accuracy matrix, of the tasks' main metrics, and what follows from it."""
        tasks = self.context.data.tasks
        last = [record.scores[f"{task.main_metric}_{name}"] for name, task in tasks.items()]
        matrix = [self._scores(answers) for answers in self.on_the_way[: len(tasks)]] + [last]
        record.sequence |= {
            "tasks": list(tasks),
            "metrics": [task.main_metric for task in tasks.values()],
            "heads": "shared" if self.context.data.shared_head else "own" if self.posed.has_heads() else "none",
            "matrix": matrix,
        }
        found = {"bwt": backward_transfer(matrix), "fwt": forward_transfer(matrix), "learned": learned(matrix)}
        record.scores |= {name: value for name, value in found.items() if value is not None}
        if asked := [answers.losses for answers in self.on_the_way if answers.losses is not None]:
            record.sequence["knowledge"] = facts(asked)
            record.scores["knowledge"] = 100 * math.expm1(record.sequence["knowledge"]["change"][-1])

    def manifest(self, record: Record) -> dict[str, Any] | None:
        """With the `parts` of it that are another for each task: `records.manifest.of_task` puts them in place."""
        found, learner = super().manifest(record), self.learner
        if found is None or learner.config is None:
            return None
        rows = (*self.context.draw.train, *self.context.draw.test)
        parts = {}
        for name in self.context.data.tasks:
            part = self.posed.part(name)
            options, task = part.portable(replace(learner.config.method.formulation, name=part.recorded_name()))
            pairs = any(row.pair is not None for row in rows if row.domain == name)
            head = self.posed.saved_names(learner.model, name)
            parts[name] = manifests.part(options, task, pairs=pairs, head=head, shown=part.shown_rows())
        return {**found, "parts": parts}

    def _scores(self, answers: Answers) -> list[float | None]:
        data, rows = self.context.data, [row for row in self.context.draw.test if row.id in answers.labels]
        found = score_tasks(data, rows, [_as_target(answers.labels[row.id]) for row in rows])
        return [found[name][task.main_metric] if name in found else None for name, task in data.tasks.items()]


def _as_target(label: Any) -> Any:
    """A label as predictions have it: JSON, in which it was kept, has lists for tuples."""
    return tuple(map(_as_target, label)) if isinstance(label, list) else label


def sequence(context: Context, incoming: Predictor | None) -> Predictor:
    """Learn one task after the other, as far as none diverges.

    Args:
        incoming: None: this stage is the only one of its run.
    """
    assert context.new_learner is not None, "a stage that trains needs a backbone"
    model = TaskSequence(context.new_learner(context, None), context)
    report, names = StageReport(NAME), list(context.data.tasks)
    with context.part("0-start"):
        model.ask(0, "0-start")
    for number, name in enumerate(names):
        part = f"{number + 1}-{name}"
        with context.part(part):
            report.add_part(learn(context, model, number, part, report.steps))
            if report.status == "done" and (number + 1 < len(names) or model.knowledge):
                model.ask(number + 1, part)
        report.notes += [f"{name}: {note}" for note in report.parts[-1].notes]
        add_curves(report)
        if report.status == "diverged":
            break
    model.posed.learn(names)  # what was trained is all of them
    context.reports.append(report)
    return model


def learn(context: Context, model: TaskSequence, number: int, part: str, steps: int) -> StageReport:
    """Have the method's stage done for the 0-based task; `steps` were made before it."""
    name = list(context.data.tasks)[number]
    learner = model.learner
    if number:
        learner.tuner.on_round(learner.model, number)
    model.posed.learn([name])
    own = replace(
        context,
        cfg=replace(context.cfg, seed=seed_of(context.cfg.seed, number)),
        data=context.data.tasks[name],
        draw=context.draw.tasks[name],
        stage=f"{context.stage}/{part}",
        last_stage=False,
        reports=[],
        log=further(context.log, steps),
        earlier={other: context.draw.tasks[other].train for other in list(context.data.tasks)[:number]},
    )
    context.attempt.progress.show("train", stage=part, step=0)
    (stage,) = context.cfg.method.stages
    get_stage(stage)(own, LearnerPredictor(learner, own))
    (report,) = own.reports
    report.name = part
    return report


def seed_of(seed: int, number: int) -> int:
    """The seed of the 0-based task, which decides its batches and dropout: of the first task the run's own, as if it
    were the only one."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def further(log: Callable[[dict[str, float]], None] | None, steps: int) -> Callable[[dict[str, float]], None] | None:
    """A log whose steps go on after `steps`: the tracker counts through."""
    return None if log is None else lambda values: log({**values, "step": values["step"] + steps})


def add_curves(report: StageReport) -> None:
    """The curves and rates of the newest part behind those of the parts before it."""
    newest = report.parts[-1]
    before, report.lr = report.steps - newest.steps, newest.lr
    for name, values in newest.curves.items():
        moved: Sequence[Any] = [value + before for value in values] if name.endswith("step") else values
        report.curves[name] = [*report.curves.get(name, ()), *moved]
