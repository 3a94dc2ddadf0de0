"""What answers cost, the same on every machine: sequences and tokens that the network has read, and operations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from peftbench.formulations.scoring import network_of
from peftbench.measure.probe import count_flops

if TYPE_CHECKING:
    from peftbench.tasks.base import Row

PROBED = 2
"""Rows that are answered once more, plainly and as the method says, to compare what an answer costs."""
CALLS, TOKENS, SECONDS = "calls", "tokens", "seconds"


@contextmanager
def counted(model: nn.Module, into: Counter[str]) -> Iterator[None]:
    """Add up what the network in `model` reads in the block: `calls`, sequences in its forward passes; `tokens`, those
    that these passes are given, without padding (what stands in the cache is not given again); wall `seconds`."""

    def count(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        inputs = _inputs(args, given)
        into[CALLS] += len(inputs[0]) if inputs else 0
        into[TOKENS] += sum(_real(ids, given.get("attention_mask")) for ids in inputs)

    hook = network_of(model).register_forward_pre_hook(count, with_kwargs=True)
    began = time.perf_counter()
    try:
        yield
    finally:
        into[SECONDS] += time.perf_counter() - began  # type: ignore[assignment]
        hook.remove()


def _inputs(args: tuple[Any, ...], given: dict[str, Any]) -> list[Tensor]:
    """(batch, n) ids or (batch, n, d) vectors that a pass reads; of an encoder-decoder the decoder's stand first."""
    names = ["decoder_input_ids", "input_ids", "inputs_embeds"]
    if given.get("encoder_outputs") is not None:  # the encoder has read its ids before
        names = names[:1]
    return [given[name] for name in names if given.get(name) is not None] + [a for a in args if isinstance(a, Tensor)]


def _real(ids: Tensor, mask: Tensor | None) -> int:
    """Places of `ids`, those left out that an attention mask over all places, the cache's first, marks as padding."""
    width = ids.shape[1]
    if mask is not None and mask.dim() == 2 and mask.shape[1] >= width:
        return int(mask[:, -width:].sum())
    return ids.shape[0] * width


def compared(
    model: nn.Module, rows: Sequence[Row], ways: Mapping[str, Callable[[Sequence[Row]], Any]]
) -> dict[str, dict[str, float]]:
    """What each way of answering costs a row: `calls`, `tokens`, `seconds`, `flops` (matrix products, attention; a
    multiply-add is two), the mean over `PROBED` rows that are spread over `rows`, each asked alone: what a batch shares
    (`peftbench.formulations.shared_prefix`) is not of one row. One pass is timed, another counted, for counting takes
    time."""
    chosen = rows[:: max(len(rows) // PROBED, 1)][:PROBED]
    found = {}
    for name, way in ways.items():
        sums: Counter[str] = Counter()
        with counted(model, sums):
            for row in chosen:
                way([row])
        flops = count_flops(lambda way=way: [way([row]) for row in chosen])  # type: ignore[misc]
        found[name] = {key: value / len(chosen) for key, value in {**sums, "flops": flops}.items()}
    return found
