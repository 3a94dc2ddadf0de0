"""`edit_spans`: answers are written and read as places in the row's text (`peftbench.tasks.edit_spans`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from peftbench.config.schema import FormulationConfig, with_options
from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.edit_spans import EditSpansConfig
from peftbench.formulations.fitting import Cut
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.edit_spans import numbered

HINT = "Name words by their places: 0 2 are the first two."


class EditSpansFormulation(GenerateFormulation):
    """Generation whose answers say where they change or pick words of the row's text, and so are read beside it."""

    title = "edit_spans"

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.numbered = with_options(cfg, EditSpansConfig).numbered

    def prefix_for(self, task: TaskData) -> str:
        return f"{super().prefix_for(task)}{HINT}\n"

    def row_answer(self, row: Row) -> str:
        write = self.task.kind.write_spans
        assert write is not None, f"{self.task.problem} is a kind of targets without places"
        return write(row.text, row.target, self.task)

    def prompts_of(self, rows: Sequence[Row]) -> Iterable[tuple[list[int], Cut, dict[str, Any]]]:
        return super().prompts_of([replace(row, text=numbered(row.text)) for row in rows] if self.numbered else rows)

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        written = zip(super().predict(model, batch), batch["texts"], strict=True)
        return [replace(p, label=self.read_of(text, p.answer)[0]) for p, text in written]

    def read(self, text: str, task: TaskData) -> Any:
        """Nothing without the row's text; see `read_of`."""
        return None

    def read_of(self, source: str, text: str | None) -> tuple[Any, int]:
        """What a text says of the row's, None if nothing, and how much of it cannot be meant."""
        read = self.task.kind.read_spans
        assert read is not None, f"{self.task.problem} is a kind of targets without places"
        return read(source, text or "", self.task)

    def answer_facts(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> dict[str, float]:
        left_out = [self.read_of(row.text, p.answer)[1] for row, p in zip(rows, predictions, strict=True)]
        return {**super().answer_facts(rows, predictions), "left_out_spans": sum(left_out)}
