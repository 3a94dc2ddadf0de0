"""Several tasks posed to one model, each in its own way: what a sequence of tasks is asked by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.models.architecture import Purpose
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

SHARED = "shared"
SET_BY_LEARNER = ("virtual_tokens", "pass_answer_starts", "takes_cache", "domain_tokens", "step", "seed")


class ByTask(Formulation):
    """One formulation a task, each with what it trains (a head); with `task.shared_head` one for all of them.

    The task of an item stands in its id, as `peftbench.tasks.sequence` writes them, and a batch may hold items of
    several tasks. The first task's head starts from the values that it has when it is the only task.

    Args:
        classes: task -> its formulation.
        shots: the drawn training rows of all tasks.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: TaskData,
        max_length: int,
        cfg: FormulationConfig,
        classes: Mapping[str, type[Formulation]],
        shots: Sequence[Row] = (),
    ) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.parts = nn.ModuleDict()
        for number, name in enumerate([SHARED] if task.shared_head else classes):
            own = next(iter(classes)) if task.shared_head else name
            with torch.random.fork_rng(devices=[]) if number else nullcontext():
                if number:
                    torch.manual_seed(torch.initial_seed() + number)
                data = task.tasks[own]
                if task.shared_head:
                    data = replace(data, labels=task.labels, label_words=task.label_words)
                part = classes[own](backbone, data, max_length, cfg)
            part.shots = [row for row in shots if task.shared_head or row.domain == name]
            self.parts[name] = part
            self.notes += [f"{name}: {note}" for note in part.notes]
        self._trains = {name: [p for p in part.parameters() if p.requires_grad] for name, part in self.parts.items()}

    def part(self, task: str) -> Formulation:
        """How a task is posed, with what the learner has said."""
        found = self.parts[SHARED if self.task.shared_head else task]
        assert isinstance(found, Formulation)
        for name in SET_BY_LEARNER:
            setattr(found, name, getattr(self, name))
        return found

    def learn(self, tasks: Iterable[str]) -> None:
        """From now on the heads of these tasks are trained, and no others."""
        chosen = {SHARED} if self.task.shared_head else set(tasks)
        for name, parameters in self._trains.items():
            for parameter in parameters:
                parameter.requires_grad_(name in chosen)

    def has_heads(self) -> bool:
        """Whether a task has parameters of its own, so that it has nothing to answer by before it was learned."""
        return not self.task.shared_head and any(self._trains.values())

    def attach(self, model: nn.Module) -> None:
        for name in self.task.tasks:
            self.part(name).attach(model)

    def saved_names(self, model: nn.Module, task: str) -> dict[str, str]:
        """What a task is answered with, as its own formulation calls it -> its name among all that is saved."""
        kept = {id(parameter): name for name, parameter in self.own_parameters(model).items()}
        part = self.part(task)
        found = {key: kept[id(parameter)] for key, parameter in part.own_parameters(model).items()}
        place = SHARED if self.task.shared_head else task
        return found | {key: f"parts.{place}.{key}" for key in part.kept_state()}

    def own_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for name, part in self.parts.items():
            assert isinstance(part, Formulation)
            for key, parameter in part.own_parameters(model).items():
                found.setdefault(id(parameter), (f"parts.{name}.{key}", parameter))
        return dict(found.values())

    def kept_state(self) -> dict[str, Tensor]:
        """Also the heads that are not trained at present."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {n: t.detach().to("cpu", copy=True) for n, t in self.state_dict().items() if n not in trained}

    def load_kept_state(self, state: Mapping[str, Tensor]) -> None:
        own = self.state_dict()
        for name, tensor in state.items():
            own[name].copy_(tensor)

    def label_tokens(self) -> dict[str, list[str]]:
        return {
            label: tokens for name in self.task.tasks for label, tokens in self.part(name).label_tokens().items()
        }  # fmt: skip

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        runs: list[tuple[str, list[Row]]] = []
        for row in rows:
            if not runs or runs[-1][0] != row.domain:
                runs.append((str(row.domain), []))
            runs[-1][1].append(row)
        return [item for name, own in runs for item in self.part(name).encode(own)]

    def answers(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[Prediction]:
        found: dict[str, Prediction] = {}
        for name in self.task.tasks:
            own = [row for row in rows if row.domain == name]
            made = [prediction for prediction in predictions if task_of(prediction.id) == name]
            found |= {prediction.id: prediction for prediction in (self.part(name).answers(own, made) if own else ())}
        return [found[row.id] for row in rows]

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """`tasks`: the batch of each task that has items."""
        own: dict[str, list[Encoded]] = {}
        for item in items:
            own.setdefault(task_of(item.id), []).append(item)
        batches = {name: self.part(name).collate(part) for name, part in own.items()}
        return {"ids": [item.id for item in items], "tasks": batches}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = [self.part(name).loss(model, own) for name, own in batch["tasks"].items()]
        return torch.stack(losses).sum()

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        found = {p.id: p for name, own in batch["tasks"].items() for p in self.part(name).predict(model, own)}
        return [found[id_] for id_ in batch["ids"]]


def task_of(item: str) -> str:
    """The task of an item's id, "<split>:<task>/<number>"."""
    return item.partition(":")[2].partition("/")[0]


def one_purpose(classes: Mapping[str, type[Formulation]], shared_head: bool) -> Purpose:
    """What the backbone is loaded for.

    Raises:
        UsageError: the tasks of a sequence need different networks, or a shared head is asked for where there is none.
    """
    purposes = {name: chosen.purpose for name, chosen in classes.items()}
    (first, purpose), *others = purposes.items()
    for name, other in others:
        if other != purpose:
            raise UsageError(
                f"task.of: {first} needs a backbone for {purpose} and {name} one for {other}, and one model learns "
                "both. Choose one way for all tasks with method/formulation."
            )
    if shared_head and purpose != "features":
        raise UsageError(
            "task.heads=shared: a model that answers in words has no head. Use task.heads=own, where nothing but the "
            "words tells the tasks apart, or method/formulation=head."
        )
    return purpose
