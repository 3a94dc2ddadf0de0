"""`prompted`: rows in written prompts, behind demonstrations or none; scored or generated answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from peftbench.errors import UsageError
from peftbench.formulations.base import PROMPT_TEXT
from peftbench.formulations.bi_encoder import sentence_vectors
from peftbench.formulations.fitting import Cut, fit_texts
from peftbench.formulations.generate.formulation import GenerateFormulation, TextFormulation
from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.prompts import Writer, prompt_set
from peftbench.formulations.score.formulation import ScoreFormulation
from peftbench.formulations.selection import Selector
from peftbench.formulations.snippets import Network
from peftbench.formulations.text import text_fields
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData


class Prompted(TextFormulation):
    """Mixed into a formulation that answers in words: another prompt, with demonstrations of `shots`.

    Demonstrations that do not fit are left out whole, the farthest first; then the row's own longest text gives way.
    """

    title = "prompted"
    options: PromptedConfig

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: PromptedConfig) -> None:
        self.writer = Writer(prompt_set(cfg.prompts), cfg.prompt_number, task, lambda row: text_fields(row, task))
        super().__init__(backbone, task, max_length, cfg)
        self._seed = torch.initial_seed()  # that of the run, which is set before a formulation is made
        self._selector: Selector | None = None
        self._lengths: dict[str, int] = {}
        self._left_out: dict[str, list[int]] = {}

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        raise UsageError("answers to written prompts are peftbench's to ask. `peftbench predict` answers for this run.")

    def answer_text(self, target: str | float) -> str:
        word = self.writer.words.get(str(target)) if self.options.answers == "words" else None
        return super().answer_text(target) if word is None else word

    def shown_rows(self) -> Sequence[Row]:
        return self.shots if self.options.k else ()

    def selector(self) -> Selector:
        """Made when the first rows are encoded: then the pool is known.

        Raises:
            UsageError: demonstrations are wanted and there are no labelled rows.
        """
        cfg = self.options
        if cfg.k and not self.shots:
            raise UsageError(
                f"method.formulation.k={cfg.k}: shots=0 leaves no labelled row to show. Use method=zero_shot, or give "
                "some shots."
            )
        if self._selector is None:
            encoder = cfg.second_model()
            self._selector = Selector(
                self.shots, cfg.select, None if cfg.k == "full" else cfg.k, balance=cfg.balance, order=cfg.order,
                seed=self._seed, similar=sentence_vectors(encoder) if encoder else None,
            )  # fmt: skip
        return self._selector

    def prompts_of(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], Cut, dict[str, Any]]]:
        selector = self.selector()
        for row, chosen in zip(rows, selector(rows), strict=True):
            kept = self._that_fit(row, chosen)
            while (fitted := self._fitted(row, selector.ordered(row, kept))) is None:
                kept.pop()
            self._count(row, len(chosen) - len(kept), len(chosen))
            ids, cut, text = fitted
            yield ids, cut, {PROMPT_TEXT: text}

    def room(self) -> int:
        """Tokens that a prompt may have; of a causal model the answer stands behind it."""
        return self.max_length - (0 if self.encoder_decoder else self.answer_length)

    def demonstration(self, row: Row) -> str:
        """A labelled row as it is shown."""
        return self.writer.example(self.writer.fields_of(row), self.answer_text(row.target))  # type: ignore[arg-type]

    def _that_fit(self, row: Row, chosen: Sequence[Row]) -> list[Row]:
        """The first of `chosen` that fit by their lengths alone beside the row's whole text."""
        asked = self.writer.example(self.writer.fields_of(row))
        left = self.room() - len(self._ids(self.writer.write([], asked)))
        left = left if self.options.budget is None else min(left, self.options.budget)
        kept: list[Row] = []
        for demonstration in chosen:
            left -= self._length(demonstration)
            if left < 0:
                break
            kept.append(demonstration)
        return kept

    def _length(self, row: Row) -> int:
        if row.id not in self._lengths:
            self._lengths[row.id] = len(self.ids_of(self.demonstration(row) + self.writer.prompt.separator))
        return self._lengths[row.id]

    def _fitted(self, row: Row, shown: Sequence[Row]) -> tuple[list[int], Cut, str] | None:
        """Ids and text of the prompt, the row's text cut if nothing is shown that could give way; None if a
        demonstration has to."""
        demonstrations, fields = [self.demonstration(other) for other in shown], self.writer.fields_of(row)

        def text_with(texts: Mapping[str, str]) -> str:
            return self.writer.write(demonstrations, self.writer.example(texts))

        whole = text_with(fields)
        ids = self._ids(whole)
        if len(ids) <= self.room():
            return ids, Cut.WHOLE, whole
        if shown:
            return None
        texts, cut = fit_texts(fields, lambda texts: self._ids(text_with(texts)), self.room(), self.tokenizer)
        return self._ids(text_with(texts)), cut, text_with(texts)

    def _ids(self, text: str) -> list[int]:
        whole: list[int] = self.tokenizer(self.prefix + text, verbose=False)["input_ids"]
        return whole if self.encoder_decoder else self.start_ids(self.prefix + text)

    def _count(self, row: Row, left_out: int, chosen: int) -> None:
        """Remember, and say in the notes, what did not fit."""
        counts = self._left_out.setdefault(row.id.partition(":")[0], [0, 0, 0, 0])
        for place, more in enumerate((left_out, chosen, bool(left_out), 1)):
            counts[place] += more
        mark = "demonstrations did not fit"
        self.notes = [note for note in self.notes if mark not in note] + [
            f"{split}: {out} of {every} {mark} into {self.max_length} tokens and were left out, in {prompts} of {rows} "
            "prompts (method.formulation.max_length)"
            for split, (out, every, prompts, rows) in self._left_out.items()
            if out
        ]


class PromptedScore(Prompted, ScoreFormulation):
    """The likeliest label."""

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: PromptedConfig) -> None:
        if not task.labels:
            raise UsageError(
                f"method.formulation.by=score: task {task.name} has no labels to score. Use "
                "method.formulation.by=generate."
            )
        super().__init__(backbone, task, max_length, cfg)


class PromptedGenerate(Prompted, GenerateFormulation):
    """What the model writes."""
