"""Answers to rows in another form, mapped back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.formulations.base import Prediction
from peftbench.formulations.in_words import TextFormulation
from peftbench.formulations.prompted.formulation import Prompted
from peftbench.formulations.prompts import PromptSet
from peftbench.inference.base import Ask, Inference
from peftbench.inference.conjugate import PARALLEL, RESCALE
from peftbench.inference.conjugate.transforms import CIPHERS, Parallel, Transform
from peftbench.inference.variants import variant
from peftbench.learner import Learner
from peftbench.tasks.base import Row, TaskData


class Conjugate(Inference):
    """`conjugate.yaml` explains the options. Field names and cues stay as they are, what a prompt says besides is put
    into the other form."""

    def __init__(self, cfg: Any, learner: Learner) -> None:
        super().__init__(cfg, learner)
        formulation = learner.formulation
        assert isinstance(formulation, TextFormulation)
        self.formulation, self.task = formulation, formulation.task
        self.needs_shots = bool(formulation.shown_rows())
        self.factor = cfg.factor if cfg.transform == RESCALE else 1.0
        self.transform: Transform | None = None
        if cfg.transform == PARALLEL:
            self.transform = Parallel(read_pairs(Path(cfg.file)), cfg.file)
        elif cfg.transform in CIPHERS:
            self.transform = CIPHERS[cfg.transform]()
        self._other: Learner | None = None

    def answer(self, rows: Sequence[Row], ask: Ask) -> list[Prediction]:
        if (self.transform is None and self.factor == 1) or not rows:
            return ask(rows)
        asked = [self.moved(row) for row in rows]
        if self._other is None:
            shots = [self.moved(row) for row in self.formulation.shown_rows()]
            task = self._task()
            self._other = variant(self.learner, ask, asked[0], task, shots, **self._prompts())
        return [self._back(found) for found in ask(asked, None, self._other)]

    def do(self, text: str) -> str:
        """A text in the other form."""
        return text if self.transform is None else self.transform.do(text)

    def moved(self, row: Row) -> Row:
        """A row in the other form; of classes the target, a name, is what it was."""
        parts = None if row.parts is None else {name: self.do(text) for name, text in row.parts.items()}
        pair, target = None if row.pair is None else self.do(row.pair), row.target
        if self.task.problem == "text" and isinstance(target, tuple):
            target = tuple(self.do(str(text)) for text in target)
        elif self.task.problem == "answers" and isinstance(target, tuple):
            target = tuple((count, tuple(map(self.do, answers))) for count, answers in target)
        elif isinstance(target, float):
            target = target * self.factor
        return replace(row, text=self.do(row.text), pair=pair, parts=parts, target=target)

    def _task(self) -> TaskData:
        """The task with label words and instruction in the other form, and with a wider range of numbers."""
        own = self.task
        words = {label: self.do(own.label_words.get(label, label)) for label in own.labels}
        wide = None if own.score_range is None else (own.score_range[0] * self.factor, own.score_range[1] * self.factor)
        return replace(own, label_words=words, instruction=self.do(own.instruction), score_range=wide)

    def _prompts(self) -> dict[str, Any]:
        """Options of written prompts: the given set, else theirs with words and instructions in the other form."""
        if not isinstance(self.formulation, Prompted):
            return {}
        if self.cfg.prompts is not None:
            return {"prompts": self.cfg.prompts, "prompts_sha256": None}
        chosen = self.formulation.writer.chosen
        if self.transform is None:
            return {}
        if self.cfg.transform == PARALLEL and chosen.words is None:
            return {}
        made: PromptSet = chosen
        if self.cfg.transform != PARALLEL:
            prompts = tuple(replace(p, instruction=in_places(p.instruction, self.do)) for p in chosen.prompts)
            made = replace(made, prompts=prompts)
        if chosen.words is not None:
            made = replace(made, words={label: self.do(word) for label, word in chosen.words.items()})
        return {"prompts": made.written_out(), "prompts_sha256": None}

    def _back(self, found: Prediction) -> Prediction:
        """The answer in the form of the row."""
        self.sums["rows"] += 1
        label: Any = found.label
        if isinstance(label, float) and self.cfg.transform == RESCALE:
            label = label / self.factor
        elif self.task.problem == "text" and isinstance(label, str) and self.transform is not None:
            self.sums["outside"] += not self.transform.is_image(label)
            label = self.transform.undo(label)
        elif self.task.problem == "answers" and label is not None and self.transform is not None:
            self.sums["outside"] += not all(map(self.transform.is_image, label))
            label = tuple(map(self.transform.undo, label))
        return replace(found, label=label)

    def facts(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`outside`: the share of written answers that are no other form of any text, and are undone as far as can
        be."""
        return {"outside": sums.get("outside", 0) / max(sums.get("rows", 0), 1)}

    def remarks(self) -> list[str]:
        return [
            f"rows were asked in another form (method.inference.transform={self.cfg.transform}), answers mapped back"
        ]


def in_places(form: str, do: Any) -> str:
    """A prompt's form with what stands between its places, `{labels}`, put into another form."""
    import re

    return "".join(part if part.startswith("{") else do(part) for part in re.split(r"(\{\w+\})", form))


def read_pairs(path: Path) -> dict[str, str]:
    """Text -> the other one, of a file of JSON lines.

    Raises:
        UsageError: a line is no such pair.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            found[str(pair["text"])] = str(pair["other"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f'{path}, line {number}: a JSON object {{"text": ..., "other": ...}} is expected.'
            ) from None
    return found
