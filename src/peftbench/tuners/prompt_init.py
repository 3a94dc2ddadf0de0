"""Where a soft prompt starts: token embeddings, rows made from the task's texts, or another run's prompt."""

from __future__ import annotations

import re
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.adapter_files import WEIGHTS
from peftbench.tuners.base import TunerContext

COMMON = 5000
"""`vocab` samples from this many tokens at the start of the vocabulary, where subword vocabularies keep the frequent
ones (Lester et al. 2021 sample from the 5,000 most frequent)."""

PLACEHOLDER = re.compile(r"\[unused\d+\]|<extra_id_\d+>|<unused\d+>|<\|?reserved.*")


def initial_token_ids(cfg: Any, backbone: Backbone, context: TunerContext) -> list[int] | None:
    """`num_virtual_tokens` token ids whose embeddings are the first prompt; None for one that is no tokens'.

    `vocab` samples distinct common tokens with the run's seed; `text` and `labels` repeat or cut the tokens of
    `init_text` or of the label words to the wanted number.

    Args:
        cfg: a tuner's config with `num_virtual_tokens`, `init` and `init_text`.

    Raises:
        UsageError: there is no text, or there are no label words, to start from.
    """
    wanted = cfg.num_virtual_tokens
    if cfg.init not in ("vocab", "text", "labels") or wanted == 0:
        return None
    if cfg.init == "vocab":
        return sampled_token_ids(backbone, wanted, context.seed)
    if cfg.init == "text":
        text, missing = cfg.init_text, "method.tuner.init=text needs method.tuner.init_text"
    else:
        text, missing = " ".join(context.label_words), "method.tuner.init=labels: this task has no label words"
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UsageError(f"{missing}. Give it a text, or use method.tuner.init=vocab.")
    return list(islice(cycle(ids), wanted))


def initial_rows(cfg: Any, backbone: Backbone, context: TunerContext) -> Tensor | None:
    """(num_virtual_tokens, d) rows that are no token's: `init=bayesprompt`, `bayesprompt_shots`, `cones`; else None.

    Raises:
        UsageError: there are no texts to look at.
    """
    if (
        context.restoring
        or cfg.num_virtual_tokens == 0
        or cfg.init not in ("bayesprompt", "bayesprompt_shots", "cones")
    ):
        return None
    if cfg.init == "cones":
        from peftbench.tuners.cones import concept_prompt

        return concept_prompt(backbone, context, cfg.num_virtual_tokens)
    from peftbench.tuners.bayesprompt.particles import domain_prompt

    return domain_prompt(backbone, context, cfg.num_virtual_tokens, whole_pool=cfg.init == "bayesprompt")


def sampled_token_ids(backbone: Backbone, wanted: int, seed: int) -> list[int]:
    """Ids of common tokens, special and placeholder tokens left out; distinct as far as there are enough."""
    tokenizer = backbone.tokenizer
    rows = len(backbone.model.get_input_embeddings().weight)  # type: ignore[arg-type]
    special = set(tokenizer.all_special_ids)
    tokens = sorted((id_, token) for token, id_ in tokenizer.get_vocab().items() if id_ < rows)
    common = [id_ for id_, token in tokens if id_ not in special and not PLACEHOLDER.fullmatch(token)][:COMMON]
    order = torch.randperm(len(common), generator=torch.Generator().manual_seed(seed)).tolist()
    return list(islice(cycle(common[i] for i in order), wanted))


def stored_prompt(folder: Path) -> Tensor | None:
    """(rows, d): the soft prompt in an adapter file, whatever tuner wrote it; None if it holds none."""
    path = folder / WEIGHTS
    tensors = load_file(path) if path.exists() else {}
    return next((t for name, t in tensors.items() if name == "prompt_embeddings" or name.endswith(".dept_P")), None)
