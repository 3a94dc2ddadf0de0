"""Cloze with demonstrations (LM-BFF: Gao, Fisch and Chen 2021, arXiv 2012.15723, section 6).

Behind the row in its pattern stands, for each class in label order, a drawn training row of that class in the same
pattern, with its label word in the place of the mask; a separator stands behind the row and behind each of them. In
training a set of demonstrations is drawn anew for each row in each step; a prediction is the mean of the class scores
over several sets. A row never demonstrates itself. With `demonstrations_nearest` a row sees only those of each class
that are nearest to it (section 6.2), by the cosine of the texts' vectors from a sentence encoder.

Our reading: the demonstrations together take at most half of the input, each an equal share of it; the released code
has limits by data set.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Formulation
from peftbench.formulations.bi_encoder import bi_encoder
from peftbench.formulations.cloze import ClozeConfig
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.formulations.patterns import single_mask
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

HELD_OUT_STEP = 2**32 - 1
"""Stands for the step outside training, where a row's demonstrations are always the same."""


class DemonstratedCloze(ClozeFormulation):
    """`method.formulation.demonstrations` is the number of sets behind a prediction; training takes one."""

    title = "cloze"
    snippet = Formulation.snippet  # refuses
    _candidates: dict[str, list[tuple[str, str]]] | None = None

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: ClozeConfig) -> None:
        if cfg.soft_pattern:
            raise UsageError(
                f"method.formulation.demonstrations={cfg.demonstrations}: examples are written in the words that "
                "soft_pattern=true takes away. Set one of the two."
            )
        super().__init__(backbone, task, max_length, cfg)
        self._near: dict[str, frozenset[str]] = {}
        """Row id -> the training rows that it may be shown, where not every other may."""

    def shown_rows(self) -> Sequence[Row]:
        return self.shots

    @property
    def sets(self) -> int:
        """Sets of demonstrations that an item gets now."""
        return 1 if self.training else self.cfg.demonstrations

    def candidates(self) -> dict[str, list[tuple[str, str]]]:
        """Label -> (row id, demonstration) of each drawn training row; scores belong to the nearer end.

        Raises:
            UsageError: there are no training rows (shots=0).
        """
        if self._candidates is None:
            if not self.shots:
                raise UsageError(
                    "method.formulation.demonstrations: shots=0 leaves no labelled row to show. Set it to 0, or give "
                    "some shots."
                )
            room = self.max_length // 2 // len(self.answer.labels)
            self._candidates = {label: [] for label in self.answer.labels}
            for row in self.shots:
                shown = self.encoder.fill(row, self.first_word(row.target), room)
                self._candidates[self.answer.label_of(row.target)].append((row.id, shown))
        return self._candidates

    def tail(self, row_id: str, number: int) -> str:
        """The demonstrations of set `number` behind a row. A class without another row has none."""
        step = (self.seed % 2**32, self.step) if self.training else (0, HELD_OUT_STEP)
        random = np.random.RandomState([*step, zlib.crc32(row_id.encode()), number])
        shown = []
        for own in self.candidates().values():
            if others := [text for id_, text in own if id_ != row_id and id_ in self._near.get(row_id, {id_})]:
                shown.append(others[random.randint(len(others))])
        return "".join(f"{self.tokenizer.sep_token}{text}" for text in shown)

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        if self.cfg.demonstrations_nearest < 1 and self.shots and rows:
            self._near |= self._nearest(rows)
        return super().encode(rows)

    def _nearest(self, rows: Sequence[Row]) -> dict[str, frozenset[str]]:
        """Row id -> ids of the nearest training rows, of each class the share that the config says, rounded up."""
        similar = bi_encoder(self.cfg.demonstrations_encoder, self.device())
        shots = similar([row.whole for row in self.shots])
        labels = np.array([self.answer.label_of(row.target) for row in self.shots])
        ids, found = np.array([row.id for row in self.shots]), {}
        for row, cosines in zip(rows, similar([row.whole for row in rows]) @ shots.T, strict=True):
            kept: list[str] = []
            for label in self.answer.labels:
                own = np.flatnonzero((labels == label) & (ids != row.id))
                count = math.ceil(self.cfg.demonstrations_nearest * len(own))
                kept += ids[own[np.argsort(-cosines[own], kind="stable")[:count]]].tolist()
            found[row.id] = frozenset(kept)
        return found

    def device(self) -> torch.device:
        """Where the learner is."""
        return next(buffer.device for buffer in self.buffers())

    def encode_one(self, row: Row) -> Encoded:
        """One row. Its length is that with one set of demonstrations; it differs a little from set to set."""
        ids, cut = self.encoder.encode(row, self.tail(row.id, 0))
        return Encoded(row.id, len(ids), 1.0, {"row": row, "target": self.answer.encode(row.target)}, cut)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Every item with its first set of demonstrations, then every item with its second ..."""
        shown = [self._shown(item, number) for number in range(self.sets) for item in items]
        batch = super().collate(shown)
        batch["ids"] = [item.id for item in items]
        if "targets" in batch:
            batch["targets"] = batch["targets"][: len(items)]
        return batch

    def _shown(self, item: Encoded, number: int) -> Encoded:
        ids, cut = self.encoder.encode(item.data["row"], self.tail(item.id, number))
        data = {
            "input_ids": ids,
            "mask": single_mask(ids, self.encoder.mask_id, item.id),
            "target": item.data["target"],
        }
        return Encoded(item.id, len(ids), item.weight, data, cut)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, classes): the mean over the sets."""
        every = super().logits(model, batch)
        return every.view(-1, len(batch["ids"]), every.shape[-1]).mean(0)
