"""What a run of a sweep need not work out again, because another run of the same process has: its tokenised rows, and
what a step costs. Within `peftbench.models.backbone_cache.keep_loaded` alone, so that nothing outlives its command.

Keys hold all that the value depends on; where that is not known (a formulation that does not say what its tokens depend
on, a tuner or a formulation from outside the package) nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from peftbench.models.backbone_cache import backbone_cache

if TYPE_CHECKING:
    from peftbench.formulations.base import Batch, Encoded
    from peftbench.learner import Learner
    from peftbench.measure.probe import Probe
    from peftbench.tasks.base import Row

PACKAGE = "peftbench."


def encoded(learner: Learner, rows: Sequence[Row]) -> list[Encoded]:
    """`learner.encode(rows)`."""
    cache, own = backbone_cache(), learner.formulation.tokens_depend_on()
    if cache is None or own is None:
        return learner.encode(rows)
    key = (learner.backbone.revision, len(learner.backbone.tokenizer), _name(learner.formulation), own, _digest(rows))
    return cache.rows.once(key, lambda: learner.encode(rows), size=lambda items: sum(item.length for item in items))


def probed(learner: Learner, batch: Batch, how: Hashable, measure: Callable[[], Probe]) -> Probe:
    """`measure()`, the cost of a step of `learner` on `batch`.

    Args:
        how: the precision and whatever else of the run decides what is computed.
    """
    cache, own, config = backbone_cache(), (learner.tuner, learner.formulation), learner.config
    if cache is None or config is None or not all(type(part).__module__.startswith(PACKAGE) for part in own):
        return measure()
    names = [*learner.named_parameters(), *learner.named_buffers()]
    tensors = tuple((name, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for name, tensor in names)
    modules = tuple((_name(module), module.extra_repr()) for module in learner.modules())
    shape = tuple(_shape(batch, learner.formulation.words_count))
    attention = getattr(learner.backbone.model.config, "_attn_implementation", None)
    options = repr(replace(config.method, lr={})), *map(_name, own)
    return cache.probes.once((how, attention, options, tensors, modules, shape), measure)


def _name(of: object) -> str:
    return f"{type(of).__module__}:{type(of).__qualname__}"


def _shape(batch: Mapping[str, Any], words_count: bool) -> Iterator[Hashable]:
    """What of a batch decides which operations a step is: shapes and contents; of words and targets, unless they count,
    the shapes alone."""
    for name, value in sorted(batch.items()):
        if isinstance(value, Tensor):
            free = not words_count and name in ("input_ids", "targets", "token_type_ids")
            yield name, value.shape, value.dtype, "" if free else _digest(value.tolist())
        elif isinstance(value, Mapping):
            yield name, tuple(_shape(value, words_count))
        elif words_count:
            yield name, _digest(value)


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
