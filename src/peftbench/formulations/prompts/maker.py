"""Prompts for rows: demonstrations are chosen, what does not fit is left out and counted. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from peftbench.errors import UsageError
from peftbench.formulations.fitting import Cut, fit_texts
from peftbench.formulations.prompts import Writer
from peftbench.formulations.selection import Selector, Similar
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.formulations.prompted import PromptedConfig

LEFT_OUT = "demonstrations did not fit"


class Made(NamedTuple):
    """A prompt.

    Attributes:
        cut: what became of the row's texts.
        answers: (start, end) in the text of each demonstration's answer.
    """

    text: str
    cut: Cut
    answers: tuple[tuple[int, int], ...] = ()


class PromptMaker:
    """Makes the prompt of each row.

    Demonstrations that do not fit are left out whole, the farthest first; then the row's own longest text gives way.

    Args:
        cfg: how demonstrations are chosen and ordered.
        pool: labelled rows.
        answer_text: what stands for a target.
        room: tokens that a prompt may have.
        size_of: tokens of a text.
        tokenizer: says where tokens end, where the row's text has to be cut.
        similar: the sentence encoder that `cfg.second_model` names.

    Raises:
        UsageError: demonstrations are wanted and there are no labelled rows.
    """

    def __init__(
        self, writer: Writer, cfg: PromptedConfig, pool: Sequence[Row], answer_text: Callable[[Any], str], *, seed: int,
        room: int, size_of: Callable[[str], int], tokenizer: Any, similar: Similar | None,
    ) -> None:  # fmt: skip
        if cfg.k and not pool:
            raise UsageError(
                f"method.formulation.k={cfg.k}: shots=0 leaves no labelled row to show. Use method=zero_shot, or give "
                "some shots."
            )
        self.writer, self.answer_text, self.room, self.size_of = writer, answer_text, room, size_of
        self.budget, self.tokenizer = cfg.budget, tokenizer
        self.key = "method.formulation.max_length" if cfg.max_length else "trainer.max_length"
        count = None if cfg.k == "full" else cfg.k
        self.selector = Selector(pool, cfg.select, count, cfg.balance, cfg.order, seed, similar)
        self._sizes: dict[str, int] = {}
        self._counts: dict[str, list[int]] = {}

    def __call__(self, rows: Sequence[Row]) -> list[Made]:
        """The prompt of each row."""
        return [self._made(row, chosen) for row, chosen in zip(rows, self.selector(rows), strict=True)]

    def notes(self) -> list[str]:
        """What did not fit, by split."""
        return [
            f"{split}: {out} of {every} {LEFT_OUT} into {self.room} tokens and were left out, in "
            f"{prompts} of {rows} prompts (method.formulation.max_length)"
            for split, (out, every, prompts, rows) in self._counts.items()
            if out
        ]

    def _made(self, row: Row, chosen: Sequence[Row]) -> Made:
        kept = self._that_fit(row, chosen)
        while (fitted := self._fitted(row, self.selector.ordered(row, kept))) is None:
            kept.pop()
        counts, out = self._counts.setdefault(row.id.partition(":")[0], [0, 0, 0, 0]), len(chosen) - len(kept)
        for place, more in enumerate((out, len(chosen), bool(out), 1)):
            counts[place] += more
        return fitted

    def _that_fit(self, row: Row, chosen: Sequence[Row]) -> list[Row]:
        """The first of `chosen` that fit by their sizes alone beside the row's whole text."""
        asked = self.writer.example(self.writer.fields_of(row))
        left = self.room - self.size_of(self.writer.write([], asked))
        left = left if self.budget is None else min(left, self.budget)
        kept: list[Row] = []
        for demonstration in chosen:
            left -= self._size(demonstration)
            if left < 0:
                break
            kept.append(demonstration)
        return kept

    def _size(self, row: Row) -> int:
        """Tokens of a demonstration, the separator included."""
        if row.id not in self._sizes:
            shown = self._shown(row) + self.writer.prompt.separator
            self._sizes[row.id] = self.size_of(shown) - self.size_of("")
        return self._sizes[row.id]

    def _shown(self, row: Row) -> str:
        """A labelled row as it is shown."""
        return self.writer.example(self.writer.fields_of(row), self.answer_text(row.target))

    def _fitted(self, row: Row, shown: Sequence[Row]) -> Made | None:
        """The prompt, the row's text cut if nothing is shown that could give way; None if a demonstration has to."""
        demonstrations, fields = [self._shown(other) for other in shown], self.writer.fields_of(row)

        def text_with(texts: Mapping[str, str]) -> str:
            return self.writer.write(demonstrations, self.writer.example(texts))

        if self.size_of(whole := text_with(fields)) <= self.room:
            sizes = [len(self.answer_text(other.target)) for other in shown]
            return Made(whole, Cut.WHOLE, tuple(self.writer.ends(demonstrations, sizes)))
        if shown:
            return None
        texts, cut = fit_texts(
            fields, lambda t: range(self.size_of(text_with(t))), self.room, self.tokenizer, key=self.key
        )
        return Made(text_with(texts), cut)
