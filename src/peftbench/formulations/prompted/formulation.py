"""`prompted`: rows in written prompts, behind demonstrations or none; scored or generated answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import PROMPT_TEXT, SHOWN_ANSWERS, Batch, Prediction
from peftbench.formulations.bi_encoder import sentence_vectors
from peftbench.formulations.fitting import Cut
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.in_words import TextFormulation
from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.prompts import Writer, packaged_sets, prompt_set
from peftbench.formulations.prompts.maker import LEFT_OUT, PromptMaker
from peftbench.formulations.reading import SEVERAL, LabelReader
from peftbench.formulations.score.formulation import ScoreFormulation
from peftbench.formulations.snippets import Network
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

FREE_TOKENS = 8


class Prompted(TextFormulation):
    """Mixed into a formulation that answers in words: another prompt, with demonstrations of `shots`."""

    title = "prompted"
    options: PromptedConfig

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: PromptedConfig) -> None:
        self.writer = Writer(prompt_set(cfg.prompts), cfg.prompt_number, task)
        super().__init__(backbone, task, max_length, cfg)
        self._seed = torch.initial_seed()  # that of the run, which is set before a formulation is made

    def varied(self, backbone: Backbone, task: TaskData | None = None, **changes: Any) -> TextFormulation:
        """With the same demonstrations, also where chance chooses them."""
        made = super().varied(backbone, task, **changes)
        assert isinstance(made, Prompted)
        made._seed = self._seed
        return made

    @classmethod
    def check(cls, task: TaskData, cfg: FormulationConfig) -> None:
        assert isinstance(cfg, PromptedConfig)
        writer = Writer(prompt_set(cfg.prompts), cfg.prompt_number, task)
        for row in (*task.train[:1], *task.test[:1]):
            writer.fields_of(row)

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        raise UsageError("answers to written prompts are peftbench's to ask. `peftbench predict` answers for this run.")

    def portable(self, cfg: FormulationConfig) -> tuple[FormulationConfig, TaskData]:
        """A user's prompts written out."""
        found, task = super().portable(cfg)
        assert isinstance(found, PromptedConfig)
        if found.prompts in packaged_sets():
            return found, task
        return replace(found, prompts=self.writer.chosen.written_out(), prompts_sha256=None), task

    def answer_text(self, target: str | float, task: TaskData | None = None) -> str:
        word = self.writer.words.get(str(target)) if self.options.answers == "words" else None
        return super().answer_text(target, task) if word is None else word

    def shown_rows(self) -> Sequence[Row]:
        return self.shots if self.options.k else ()

    @cached_property
    def maker(self) -> PromptMaker:
        """Made when the first rows are encoded: then the pool is known."""
        encoder = self.options.second_model()
        return PromptMaker(
            self.writer,
            self.options,
            self.shots,
            self.answer_text,
            seed=self._seed,
            room=self.max_length - (0 if self.encoder_decoder else self.answer_length),
            size_of=lambda text: len(self._ids(text)),
            tokenizer=self.tokenizer,
            similar=sentence_vectors(encoder) if encoder else None,
        )

    def prompts_of(self, rows: Sequence[Row]) -> list[tuple[list[int], Cut, dict[str, Any]]]:
        made = [
            (self._ids(text), cut, {PROMPT_TEXT: text, SHOWN_ANSWERS: answers})
            for text, cut, answers in self.maker(rows)
        ]
        self.say(LEFT_OUT, *self.maker.notes())
        return made

    def say(self, about: str, *notes: str) -> None:
        """Notes in the place of earlier ones that have `about` in them."""
        self.notes = [note for note in self.notes if about not in note] + list(notes)

    def places(self, text: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Of each of a prompt's ids whether it is a part of the text at one of the (start, end) `spans`. Not of a chat,
        whose template moves places."""
        first = len(self.prefix)
        found = self.tokenizer(self.prefix + text, verbose=False, return_offsets_mapping=True)["offset_mapping"]
        marked = [any(a < end + first and b > start + first for start, end in spans) for a, b in found]
        return marked[: len(self._ids(text))]

    def _ids(self, text: str) -> list[int]:
        whole: list[int] = self.tokenizer(self.prefix + text, verbose=False)["input_ids"]
        return whole if self.encoder_decoder else self.start_ids(self.prefix + text)


class PromptedScore(Prompted, ScoreFormulation):
    """The likeliest label."""


class PromptedGenerate(Prompted, GenerateFormulation):
    """What the model writes, read as the first label named in it; in at least `FREE_TOKENS` tokens, for it may begin
    with something else."""

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: PromptedConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.answer_length = max(self.answer_length, FREE_TOKENS)
        self._reader = LabelReader(self.texts) if task.labels else None

    def read(self, text: str, task: TaskData) -> Any:
        return super().read(text, task) if self._reader is None else self._reader(text)

    def read_strictly(self, text: str, task: TaskData) -> Any:
        return super().read(text, task) if self._reader is None else self._reader.only(text)

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        found = super().predict(model, batch)
        if self._reader is not None:
            self.say(SEVERAL, *self._reader.remarks())
        return found
