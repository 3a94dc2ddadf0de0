"""A loaded backbone kept for the next run of the same process, untouched by what the run before did to it; and what
runs have worked out that the next one would again: tokenised rows, costs of a step."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftbench.models.content import content_id

if TYPE_CHECKING:
    from peftbench.config.schema import ModelConfig
    from peftbench.models.architecture import Purpose
    from peftbench.models.base import Backbone

T = TypeVar("T")
_cache: BackboneCache | None = None

MEMORY_SHARE = 3
"""A backbone is kept only if it would fit so many times into the memory that is free."""


TOKENS = 2_000_000
"""Tokens of rows that are kept tokenised, some 100 MB of lists."""
PROBES = 1_000


class Kept:
    """Values by key, the last used ones; nothing changes them.

    Args:
        room: sizes that are held in all.
    """

    def __init__(self, room: int) -> None:
        self._room, self._held = room, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def once(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int] = lambda value: 1) -> T:
        """The value of `key`, made if it is not here."""
        if key not in self._values:
            made = make()
            self._values[key] = made, size(made)
            self._held += self._values[key][1]
            while self._held > self._room:
                self._held -= self._values.popitem(last=False)[1][1]
            return made
        self._values.move_to_end(key)
        value: T = self._values[key][0]
        return value


class BackboneCache:
    """Holds the backbone that was loaded last.

    Attributes:
        loads: how often one came from its source.
        rows: tokenised rows (`peftbench.stages.kept`).
        probes: what a step costs.
    """

    def __init__(self) -> None:
        self.loads = 0
        self.rows, self.probes = Kept(TOKENS), Kept(PROBES)
        self._key = ""
        self._pristine: Backbone | None = None
        self._tokenizer_state: tuple = ()

    def give(self, cfg: ModelConfig, purpose: Purpose, dropout: float | None, load: Callable[[], Backbone]) -> Backbone:
        """A backbone that may be changed at will: weights, modules and config are a copy of the kept one's.

        The tokenizer is shared, for nothing in peftbench changes it; if something did, the backbone is loaded anew.
        """
        key = json.dumps([asdict(cfg), content_id(cfg), purpose, dropout], default=str)
        if key != self._key or self._pristine is None or _state(self._pristine) != self._tokenizer_state:
            self._pristine = None  # the old one goes before the new one comes
            self._key, self._pristine = key, load()
            self.loads += 1
            self._tokenizer_state = _state(self._pristine)
        pristine = self._pristine
        if _bytes(pristine) * MEMORY_SHARE > _free_bytes():
            self._pristine = None
            return pristine
        return replace(pristine, model=copy.deepcopy(pristine.model))


@contextmanager
def keep_loaded() -> Iterator[BackboneCache]:
    """Within the block the backbone that `load_backbone` loaded last stays in memory for the next call."""
    global _cache
    outer, _cache = _cache, _cache or BackboneCache()
    try:
        yield _cache
    finally:
        _cache = outer


def backbone_cache() -> BackboneCache | None:
    """The one of the block that this code runs in, if there is one."""
    return _cache


def _state(backbone: Backbone) -> tuple:
    """What a change of the tokenizer would show in."""
    tokenizer = backbone.tokenizer
    return len(tokenizer), tokenizer.padding_side, tokenizer.pad_token_id, tokenizer.model_max_length


def _bytes(backbone: Backbone) -> int:
    return sum(p.numel() * p.element_size() for p in backbone.model.parameters())


def _free_bytes() -> float:
    """Memory that can be had without swapping; without end where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return float("inf")
