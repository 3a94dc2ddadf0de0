"""Log-likelihoods of many answers to each prompt of a batch, at the price of little more than one.

The prompt is read once and kept in the key/value cache; the answers, as a trie, are read behind it in one more pass:

- `packed`: the nodes of the trie as one sequence, each of which sees the prompt and its own ancestors (a 4-D attention
  mask) and has the position of its depth. For the causal networks in `PACKED`, whose attention and positions are what
  they are told.
- `rows`: one row an answer, the cache repeated. For all that count positions or look back in their own way (relative
  or ALiBi positions, windows) and for encoder-decoders, whose decoder reads the answers behind one pass of the encoder.

Both give what the network gives for prompt and answer in one pass, up to rounding: see `scripts/bench_scoring.py`.
Where answers are packed, tokens that all prompts begin with are read once for all of them (`shared_prefix`).
Source of the tree attention mask: SpecInfer (Miao et al., ASPLOS 2024, arXiv 2305.09781, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from peftbench.formulations.shared_prefix import SharedPrefix, read_shared
from peftbench.formulations.text import pad
from peftbench.formulations.trie import ROOT, Trie
from peftbench.models.architecture import accepts

PACKED = ("gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2", "qwen3")
"""Architectures that take a 4-D attention mask and position ids as they are given."""
MASKS = ("sdpa", "eager")
"""Attention implementations that do."""
REPEATED = 4
"""Repeated prompts may fill so many times the places of the batch; more answers are read in several parts."""

PLACES = 2048
"""Places of answers whose logits over the vocabulary are held at a time."""
CHANGED = 1024
"""Places of prompts that a `Change` is told of at a time."""


MARKS = "marks"
"""Of a batch, (batch, n): what of the prompts a `Change` is to look at."""
Change = Callable[["Read", Mapping[str, Tensor]], None]
"""What is done to prompts that were read, in place, before answers are read behind them; it is told their part of the
batch."""


def log_likelihoods(
    model: nn.Module,
    prompts: Mapping[str, Tensor],
    trie: Trie,
    decoder_start: int | None = None,
    change: Change | None = None,
    share: bool = True,
) -> Tensor | None:
    """(batch, sequences): the sum of the tokens' log-probabilities of each sequence of `trie` behind each prompt, fp32.

    Args:
        model: a tuned causal model or encoder-decoder, in eval mode.
        prompts: `input_ids` and `attention_mask`, (batch, n); left-padded for a causal model.
        decoder_start: the first token of the decoder; None for a causal model.
        change: what is done to prompts that were read, each of them whole.
        share: whether what all prompts begin with may be read once for all; not for a tuner that reads an answer in
            another way than a prompt (`Tuner.needs_answer_starts`).

    Returns:
        None if the network keeps no key/value cache.
    """
    network, found = network_of(model), []
    packed = decoder_start is None and can_pack(network, prompts["input_ids"].shape[1] + trie.height)
    shared = read_shared(model, network, prompts) if packed and share and change is None else None
    for part in _parts(prompts, trie, packed, None if change is None else CHANGED, shared):
        read = read_prompts(model, network, part, decoder_start, shared)
        if read is None:
            return None
        if change is not None:
            change(read, part)
        behind = (read.packed if packed else read.rows)(trie) if trie.tokens else None
        found.append(_sum_edges(trie, read.first, behind))
    return torch.cat(found)


def network_of(model: nn.Module) -> PreTrainedModel:
    """The network that the tuner has wrapped, with its language-model head."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def can_pack(network: PreTrainedModel, longest: int) -> bool:
    """Whether answers that end `longest` tokens behind the beginning of their prompt can be read as one sequence."""
    config = network.config
    window = getattr(config, "sliding_window", None)
    return (
        config.model_type in PACKED
        and config._attn_implementation in MASKS
        and (window is None or longest <= window or not getattr(config, "use_sliding_window", True))
    )


def _parts(
    prompts: Mapping[str, Tensor], trie: Trie, packed: bool, most: int | None, shared: SharedPrefix | None
) -> Iterator[dict[str, Tensor]]:
    """The batch, or what it has behind a shared beginning, in parts: their answers take about the memory of its
    prompts, and at most `PLACES` rows of logits. The prompts of a part have at most `most` places, or it is one."""
    count, length = prompts["input_ids"].shape
    paths = len(trie.paths())
    needed = len(trie.tokens) if packed else paths * (length + trie.height) / REPEATED
    places = len(trie.tokens) if packed else paths * trie.height
    rows = max(1, min(int(count * length // max(needed, length)), PLACES // max(places, 1)))
    rows = rows if most is None else max(1, min(rows, most // length))
    prompts = prompts if shared is None else shared.rest
    names = [name for name in ("input_ids", "attention_mask", MARKS) if name in prompts]
    for start in range(0, count, rows):
        part = {name: prompts[name][start : start + rows] for name in names}
        kept = part["attention_mask"].any(0).nonzero()  # of a part of shorter prompts the padding goes
        columns = slice(int(kept[0]), int(kept[-1]) + 1) if len(kept) else slice(None)
        yield {name: tensor[:, columns] for name, tensor in part.items()}


def read_prompts(
    model: nn.Module,
    network: PreTrainedModel,
    prompts: Mapping[str, Tensor],
    decoder_start: int | None,
    shared: SharedPrefix | None = None,
) -> Read | None:
    """One pass over the prompts, or over what they have behind a shared beginning; an encoder-decoder's decoder reads
    its first token."""
    mask = prompts["attention_mask"]
    prompts = {"input_ids": prompts["input_ids"], "attention_mask": mask}
    if decoder_start is None:
        only_last = {"logits_to_keep": 1} if accepts(network, "logits_to_keep") else {}
        inputs: dict[str, Any] = {**prompts, "use_cache": True} if shared is None else shared.inputs(prompts)
        mask = inputs["attention_mask"]
        out = model(**inputs, **only_last)
    else:
        first = torch.full_like(prompts["input_ids"][:, :1], decoder_start)
        out = model(**prompts, decoder_input_ids=first, use_cache=True)
    if out.past_key_values is None:
        return None
    return Read(model, network, mask, out.logits[:, -1:], out.past_key_values, out.get("encoder_last_hidden_state"))


@dataclass
class Read:
    """Prompts that were read.

    Attributes:
        mask: (batch, n) of their real tokens.
        first: (batch, 1, vocabulary) logits of what stands first in an answer.
        cache: what the network keeps of them.
        encoded: (batch, n or more, d) what an encoder made of them, a soft prompt in front.
    """

    model: nn.Module
    network: PreTrainedModel
    mask: Tensor
    first: Tensor
    cache: Any
    encoded: Tensor | None

    def packed(self, trie: Trie) -> tuple[Tensor, list[int]]:
        """Logits (batch, places, vocabulary) behind the nodes of a trie, and the place of each node."""
        mask, nodes = self.mask, len(trie.tokens)
        seen = torch.zeros(nodes, nodes, dtype=torch.bool)
        for node in range(nodes):
            seen[node, trie.lineage(node)] = True
        prompt = mask.bool()[:, None, None].expand(-1, 1, nodes, -1)
        allowed = torch.cat([prompt, seen.to(mask.device).expand(len(mask), 1, -1, -1)], dim=-1)
        return self._go_on(
            input_ids=torch.tensor(trie.tokens, device=mask.device).expand(len(mask), -1),
            attention_mask=_attention_mask(allowed, self.network),
            position_ids=mask.long().sum(1, keepdim=True) + torch.tensor(trie.depths, device=mask.device),
        ), list(range(nodes))

    def rows(self, trie: Trie) -> tuple[Tensor, list[int]]:
        """The same, from the trie's paths as rows of their own; the cache is repeated in place."""
        paths = trie.paths()
        ids, mask = (t.to(self.mask.device) for t in _padded([[trie.tokens[n] for n in path] for path in paths]))
        count, width = ids.shape
        self.cache.batch_repeat_interleave(count)
        prompt, ids = self.mask.repeat_interleave(count, 0), ids.repeat(len(self.mask), 1)
        if self.encoded is None:
            inputs: dict[str, Any] = {
                "input_ids": ids,
                "attention_mask": torch.cat([prompt, mask.repeat(len(self.mask), 1).to(prompt.dtype)], dim=1),
            }
            if accepts(self.network, "position_ids"):
                inputs["position_ids"] = prompt.long().sum(1, keepdim=True) + torch.arange(width, device=ids.device)
        else:
            in_front = prompt.new_ones(len(prompt), self.encoded.shape[1] - prompt.shape[1])
            inputs = {
                "encoder_outputs": BaseModelOutput(self.encoded.repeat_interleave(count, 0)),
                "attention_mask": torch.cat([in_front, prompt], dim=1),
                "decoder_input_ids": ids,
            }
        place = {node: row * width + column for row, path in enumerate(paths) for column, node in enumerate(path)}
        logits = self._go_on(**inputs)
        return logits.reshape(len(self.mask), -1, logits.shape[-1]), [place[n] for n in range(len(trie.tokens))]

    def _go_on(self, **inputs: Any) -> Tensor:
        return self.model(**inputs, past_key_values=self.cache, use_cache=True).logits


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (sequences, longest), padded on the right."""
    return pad(sequences, 0, "right"), pad([[1] * len(s) for s in sequences], 0, "right")


def _attention_mask(allowed: Tensor, network: PreTrainedModel) -> Tensor:
    """What the attention takes: true / false for sdpa, 0 / lowest number for eager."""
    if network.config._attn_implementation == "sdpa":
        return allowed
    lowest = torch.finfo(network.dtype).min
    return torch.zeros(allowed.shape, dtype=network.dtype, device=allowed.device).masked_fill(~allowed, lowest)


def _sum_edges(trie: Trie, first: Tensor, behind: tuple[Tensor, list[int]] | None) -> Tensor:
    """(batch, sequences): sums of the log-probabilities of the edges.

    Args:
        first: (batch, 1, vocabulary) logits at the root.
        behind: logits (batch, places, vocabulary) and the place of each node; None if there is no node.
    """
    total = torch.zeros(len(first), len(trie.sequences), device=first.device)
    known = [(first, [0], [edge for edge in trie.edges if edge.node == ROOT])]
    if behind is not None:
        known.append((*behind, [edge for edge in trie.edges if edge.node != ROOT]))
    for logits, places, edges in known:
        where = torch.tensor([places[max(edge.node, 0)] for edge in edges], device=first.device)
        tokens = torch.tensor([edge.token for edge in edges], device=first.device)
        owners = torch.tensor([edge.sequence for edge in edges], device=first.device)
        norms = logits.float().logsumexp(-1)
        total.index_add_(1, owners, logits[:, where, tokens].float() - norms[:, where])
    return total
