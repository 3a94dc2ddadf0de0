"""Instructions with answers, and plain texts, as what a language model is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.errors import UsageError
from peftbench.formulations.base import Encoded, Prediction
from peftbench.formulations.in_words import TextFormulation
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData


class PairsFormulation(TextFormulation):
    """Each row is an instruction (`text`) with an answer (target). A causal model reads both in one sequence;
    `everything` counts the instruction's tokens in the loss, too (but for the first, which nothing stands before). A
    row without an instruction is a plain text, read token by token.

    What does not fit into `max_length` tokens loses the end of its answer, as a plain text does.
    """

    def __init__(
        self, backbone: Backbone, task: TaskData, max_length: int, like: TextFormulation, everything: bool
    ) -> None:
        super().__init__(backbone, task, max_length, like.options)
        self.everything = everything and not self.encoder_decoder

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        return [item for row in rows if (item := self._item(row)).weight]

    def _item(self, row: Row) -> Encoded:
        start = self._start(row.text)[: self.max_length - 1]
        prompt = start[:1] if self.everything or not row.text else start
        answer = [*start[len(prompt) :], *self.answer_ids(str(row.target))][: self.max_length - len(prompt)]
        if not prompt and not self.encoder_decoder:  # nothing stands before the first token, so it is not asked for
            prompt, answer = answer[:1], answer[1:]
        data = {"prompt": prompt, "answer": answer, "domain": None, "text": row.text}
        return Encoded(row.id, len(prompt) + len(answer), float(len(answer)), data)

    def _start(self, instruction: str) -> list[int]:
        if self.encoder_decoder:
            ids: list[int] = self.tokenizer(instruction, verbose=False)["input_ids"]
            return ids
        return self.start_ids(instruction)

    def predict(self, model: object, batch: object) -> list[Prediction]:
        raise UsageError("pairs of instructions and answers are for training; nothing is predicted of them.")
