"""Token-level helpers that formulations share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from peftbench.formulations.fitting import Cut, Texts


def text_to_text_input(texts: Texts, prefix: str = "") -> str:
    """Field names followed by the texts: "sentence1: ... sentence2: ..." (the ATTEMPT / DePT convention)."""
    return prefix + " ".join(f"{name}: {text}" for name, text in texts.items())


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


def what_was_cut(encodings: BatchEncoding, index: int, texts: Sequence[str]) -> Cut | None:
    """What truncation did to the `texts` of one input; None from a tokenizer in pure Python, which does not say."""
    if not encodings.encodings:
        return None
    if not encodings.encodings[index].overflowing:
        return Cut.WHOLE
    left = set(encodings.sequence_ids(index))
    return Cut.EMPTIED if any(text.strip() and n not in left for n, text in enumerate(texts)) else Cut.SHORTENED


CHAT_DATE = "26 Jul 2024"
"""What templates that write a date are told (Llama 3's own default): a prompt is the same every day."""


def chat_start(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a conversation with one user's turn, up to where the assistant's begins; the template says what stands
    around it, a system's turn for one."""
    turn = [{"role": "user", "content": text}]
    framed = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, date_string=CHAT_DATE)
    ids: list[int] = tokenizer(str(framed), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def prompt_start(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that goes on: with what the tokenizer puts in front (a BOS token, if it has one), without the
    end-of-sequence token that it may put behind."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids[:-1] if ids and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id else ids
