"""`wordings`: a row is asked in several wordings of one instruction; each is a prompt whose labels are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import PROMPT_TEXT, Batch, Encoded, Formulation, Prediction, Way
from peftbench.formulations.by_task import SET_BY_LEARNER
from peftbench.formulations.in_words import IGNORE
from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.prompted.formulation import PromptedScore
from peftbench.formulations.prompts import PromptSet, Writer
from peftbench.formulations.snippets import Network
from peftbench.formulations.wordings import WordingsConfig
from peftbench.formulations.wordings.templates import Wording, collect, written_out
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

WAYS, TAUGHT, TEACHER = "ways", "taught", "teacher"
"""In an item's `data`: the item in each wording that is trained on, the reference first; in a batch: the batch in the
wording of the step. In both: what a teacher says (`peftbench.stages.tricks.alignment`)."""
REFERENCE = 0


class WordingsFormulation(Formulation):
    """Predicts by the first wording, the reference. A training step asks in one of the trained wordings, drawn anew in
    every step (the same for all rows of a batch). An item's loss is the mean over its answer's tokens, so that
    wordings with longer answers count no more than others.

    Train rows are those that the learner was given as its shots; others are encoded in the reference alone.
    """

    purpose = "lm"

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        assert isinstance(cfg, WordingsConfig)
        super().__init__(backbone, task, max_length, cfg)
        self.cfg = cfg
        found = collect(cfg, task)
        self.wordings = found.wordings
        own = {name: getattr(cfg, name) for name in ("answers", "prompt", "likelihood")}
        cfgs = (
            PromptedConfig(**own, name="prompted", prompts=_set_of(one).written_out(), k=0) for one in found.wordings
        )
        self.forms = nn.ModuleList(PromptedScore(backbone, task, max_length, own) for own in cfgs)
        self.trained = cfg.observed if cfg.train_on == "observed" else 1
        self.notes.append(found.note())

    @classmethod
    def check(cls, task: TaskData, cfg: FormulationConfig) -> None:
        assert isinstance(cfg, WordingsConfig)
        for one in collect(cfg, task).wordings:
            writer = Writer(_set_of(one), 0, task)
            for row in (*task.train[:1], *task.test[:1]):
                writer.fields_of(row)

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        raise UsageError("answers in several wordings are peftbench's to ask. `peftbench predict` answers.")

    def portable(self, cfg: FormulationConfig) -> tuple[FormulationConfig, TaskData]:
        """Templates written out."""
        found, task = super().portable(cfg)
        assert isinstance(found, WordingsConfig)
        told = written_out(self.wordings)
        return replace(found, templates=told, templates_sha256=None, part=None, order_seed=None), task

    def form(self, number: int) -> PromptedScore:
        """How a row is asked in that wording, with what the learner has said."""
        found = self.forms[number]
        assert isinstance(found, PromptedScore)
        for name in (*SET_BY_LEARNER, "shots"):
            setattr(found, name, getattr(self, name))
        return found

    def ways(self) -> list[Way]:
        return [
            Way(one.name, number < self.cfg.observed, self.form(number)) for number, one in enumerate(self.wordings)
        ]

    def label_tokens(self) -> dict[str, list[str]]:
        return self.form(REFERENCE).label_tokens()

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        shots = {row.id for row in self.shots}
        taught = [row for row in rows if row.id in shots and row.target is not None]
        ways = [self.form(number).encode(taught) for number in range(1, self.trained)]
        others = {row.id: own for row, *own in zip(taught, *ways, strict=True)} if ways else {}
        references = self.form(REFERENCE).encode(rows)
        return [self._item(row, item, others.get(row.id, ())) for row, item in zip(rows, references, strict=True)]

    def _item(self, row: Row, reference: Encoded, others: Sequence[Encoded]) -> Encoded:
        """Its length is that of its longest wording."""
        every = [reference, *others]
        gold = None if row.target is None else self.task.labels.index(str(row.target))
        cut = max((item.cut for item in every if item.cut is not None), default=None)
        data = {WAYS: every, "gold": gold, PROMPT_TEXT: reference.data[PROMPT_TEXT]}
        return Encoded(row.id, max(item.length for item in every), 1.0, data, cut)

    def way_of_step(self) -> int:
        """The trained wording of the present step."""
        if self.trained == 1:
            return REFERENCE
        return int(np.random.RandomState([self.seed % 2**32, self.step, len(WAYS)]).randint(self.trained))

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """The batch in the reference's words; of items to train on also `taught`, in those of the step (`way`), and
        `gold`, (batch,) places of the labels; `teacher` where the items have one."""
        batch = self.form(REFERENCE).collate([item.data[WAYS][REFERENCE] for item in items])
        if not items or any(item.data["gold"] is None for item in items):
            return batch
        way = self.way_of_step() if all(len(item.data[WAYS]) == self.trained for item in items) else REFERENCE
        batch["way"] = way
        batch[TAUGHT] = self.form(way).collate([item.data[WAYS][way] for item in items])
        batch["gold"] = torch.tensor([item.data["gold"] for item in items])
        if all(TEACHER in item.data for item in items):
            batch[TEACHER] = [item.data[TEACHER] for item in items]
        return batch

    def words_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.form(batch["way"]).words_of(batch[TAUGHT])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = self.form(batch["way"]).token_losses(model, batch[TAUGHT])
        return (losses.sum(1) / token_counts(batch[TAUGHT])).sum()

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        return self.form(REFERENCE).predict(model, batch)


def token_counts(batch: Batch) -> Tensor:
    """(batch,) tokens of the answers that are trained on."""
    return (batch["labels"] != IGNORE).sum(1)


def _set_of(wording: Wording) -> PromptSet:
    return PromptSet(wording.name, (wording.prompt,), wording.words)
