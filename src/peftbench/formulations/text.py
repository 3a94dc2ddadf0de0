"""Token-level helpers that formulations share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from peftbench.tasks.base import Row, TaskData


def text_to_text_input(row: Row, task: TaskData, prefix: str = "") -> str:
    """Field names followed by the texts: "sentence1: ... sentence2: ..." (the ATTEMPT / DePT convention)."""
    first, second = task.fields
    text = f"{prefix}{first}: {row.text}"
    return text if row.pair is None else f"{text} {second}: {row.pair}"


def answer_text(target: str | float, task: TaskData) -> str:
    """The string that a text-to-text model should write for a target; scores are rounded to steps of 0.2."""
    if task.problem == "regression":
        return format_score(float(target))
    return task.label_words.get(str(target), str(target))


def format_score(value: float) -> str:
    """A score as one of the strings 0.0, 0.2, 0.4 ..., as T5 and DePT write STS-B's."""
    return f"{round(value * 5) / 5:.1f}"


def pad(sequences: Sequence[Sequence[int]], value: int, side: str) -> Tensor:
    """(batch, longest) int64 tensor."""
    longest = max(1, *(len(s) for s in sequences)) if sequences else 1
    rows = [
        [*s, *([value] * (longest - len(s)))] if side == "right" else [*([value] * (longest - len(s))), *s]
        for s in sequences
    ]
    return torch.tensor(rows, dtype=torch.long)


def pad_inputs(sequences: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, side: str) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, both (batch, longest)."""
    pad_id = tokenizer.pad_token_id
    return {
        "input_ids": pad(sequences, int(pad_id or 0), side),
        "attention_mask": pad([[1] * len(s) for s in sequences], 0, side),
    }


def was_cut(encodings: BatchEncoding, index: int) -> bool | None:
    """Whether truncation took tokens from a text; None from a tokenizer in pure Python, which does not say."""
    return bool(encodings.encodings[index].overflowing) if encodings.encodings else None


def truncated_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, tail: str, max_length: int
) -> tuple[list[int], bool | None]:
    """Ids of `text` cut so that `text + tail` takes at most `max_length` tokens, and whether it had to be cut; the
    tail is never cut.

    Special tokens are those that the tokenizer itself adds in front (a BOS token, if it has one).
    """
    tail_ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    encoding = tokenizer(text, truncation=True, max_length=max_length)
    head_ids = encoding["input_ids"]
    eos = tokenizer.eos_token_id
    if head_ids and eos is not None and head_ids[-1] == eos:
        head_ids = head_ids[:-1]
    room = max(1, max_length - len(tail_ids))
    return [*head_ids[:room], *tail_ids], len(head_ids) > room or was_cut(encoding, 0)
