"""Blocks below the first trained one give a text the same states in every step and every run: made once, then read.

What the leading blocks that no tuner has touched make of their input is kept by what it depends on: the blocks'
content, the exact bytes of the input, and the shape of the batch that it was in. So states that are read equal those
that would be made bit for bit, and a block's input that differs at all (a soft prompt that moved, noise on the word
embeddings) is simply not found. Nothing need be declared by a tuner: which blocks are untouched is seen on the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftbench.cache import Cache
from peftbench.measure.environment import cpu_name

if TYPE_CHECKING:
    from peftbench.models.base import Backbone

LIMIT = 2**30
"""Bytes of states that a process holds in memory; the cache's own limit holds on disk."""
LIBRARIES = ("torch", "transformers")
"""Where the modules of a bare backbone are defined. A module from elsewhere is a tuner's."""
AS_NUMPY = {torch.float32: torch.float32, torch.bfloat16: torch.int16}
"""Dtype of states -> the one under which numpy holds their bits."""

Key = tuple[str, str]


class FrozenBlocks:
    """The states behind a backbone's untouched leading blocks, while `used()`.

    Args:
        precision: that of the run; the states depend on it.
        cache: where states are kept for later runs.

    Attributes:
        count: blocks that were passed over when it was last used.
        read, made: rows of a batch whose states were read, or made and kept.
        checked: whether states that could be read were made once more, and were equal.
        wrapped: whether a block returns its states in a tuple.
        off: why nothing is read in this process; empty: it is.
    """

    def __init__(self, backbone: Backbone, precision: str, cache: Cache | None = None) -> None:
        self._backbone, self._cache = backbone, cache or Cache("frozen blocks")
        model = backbone.model
        attention = getattr(model.config, "_attn_implementation", None)
        machine = [torch.__version__, cpu_name(), torch.get_num_threads()]
        self._content = [backbone.revision, backbone.purpose, precision, attention, *machine]
        self._weights = ""
        self._held: dict[Key, Tensor] = {}
        self._bytes = self._depth = 0
        self.checked = self.wrapped = False
        self.count, self.read, self.made, self.off = 0, 0, 0, ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it the network reads what it can. Within itself it is nothing new."""
        blocks = [] if self._depth or self.off else untouched(self._backbone)
        if blocks:
            self.count = len(blocks)
            self._weights = _content(blocks)
            passage = _Passage(self, blocks)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if blocks:
                passage.close()

    def facts(self) -> dict[str, float]:
        """For the record's `compute`."""
        return {"frozen_blocks": self.count, "frozen_rows_read": self.read, "frozen_rows_made": self.made}

    def keys(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Key] | None:
        """A key for each row of the first block's input; None if something in it is no tensor or plain value."""
        states = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(states, Tensor) or states.device.type != "cpu":
            self.end("it is for tensors on a CPU")
            return None
        shared, by_row = [*self._content, self._weights, self.count, [*states.shape]], list[Tensor]()
        for name, value in _flat([*enumerate(args), *sorted(kwargs.items())]):
            if isinstance(value, Tensor) and value.requires_grad:
                self.end("what goes into the first block is trained")
                return None
            if isinstance(value, Tensor):
                rows = value if value.dim() and len(value) == len(states) > 1 else None
                shared += [name, str(value.dtype), [*value.shape]]
                by_row += [rows] if rows is not None else []
                shared += [_digest(value)] if rows is None else []
            elif value is None or isinstance(value, bool | int | float | str):
                shared += [name, value]
            else:
                self.end(f"the first block is given a {type(value).__name__}, which is no tensor")
                return None
        common = hashlib.blake2b(json.dumps(shared).encode(), digest_size=16).hexdigest()
        return [(common, "".join(_digest(rows[i]) for rows in by_row)) for i in range(len(states))]

    def end(self, why: str) -> None:
        """Read nothing from now on."""
        self.count, self.off = 0, f"nothing is read, {why}"

    def recall(self, keys: Sequence[Key]) -> Tensor | None:
        """The states of all rows, or None if some are not known."""
        missing = [key for key in keys if key not in self._held]
        if missing:
            found = self._cache.get_many(missing)
            if any(value is None for value in found):
                return None
            for key, value in zip(missing, found, strict=True):
                self._hold(key, _from_numpy(value))
        return torch.stack([self._held[key] for key in keys]) if all(k in self._held for k in keys) else None

    def keep(self, keys: Sequence[Key], states: Tensor) -> None:
        """Keep what was made."""
        self.made += len(keys)
        rows = dict(zip(keys, states.detach(), strict=True))
        for key, row in rows.items():
            self._hold(key, row.clone())
        self._cache.put_many((key, row.contiguous().view(AS_NUMPY[row.dtype]).numpy()) for key, row in rows.items())

    def compare(self, known: Tensor, made: Tensor) -> None:
        """The first states that could be read are made as well. If a bit differs, nothing is read from then on."""
        self.checked = True
        if known.dtype == made.dtype and torch.equal(known, made):
            return
        self.end("states that were made again differed: here they depend on a row's place in its batch")

    def _hold(self, key: Key, row: Tensor) -> None:
        if key in self._held:
            return
        size = row.numel() * row.element_size()
        while self._held and self._bytes + size > LIMIT:
            gone = self._held.pop(next(iter(self._held)))
            self._bytes -= gone.numel() * gone.element_size()
        self._held[key] = row
        self._bytes += size


class _Passage:
    """The blocks while they are passed over: the first asks for the states, the last keeps them."""

    def __init__(self, states: FrozenBlocks, blocks: Sequence[nn.Module]) -> None:
        self.states, self.blocks = states, blocks
        self.plain: list[Callable[..., Any]] = [block.forward for block in blocks]
        self.known: Tensor | None = None
        self.keys: list[Key] | None = None
        for number, block in enumerate(blocks):
            block.forward = self._forward(number)  # type: ignore[method-assign]

    def close(self) -> None:
        """The blocks are as they were."""
        for block in self.blocks:
            del block.forward

    def _forward(self, number: int) -> Callable[..., Any]:
        first, last = number == 0, number == len(self.blocks) - 1

        def forward(*args: Any, **kwargs: Any) -> Any:
            if first:
                self._begin(args, kwargs)
            if self.known is not None and self.states.checked and not self.states.off:
                self.states.read += len(self.known) if first else 0
                return (self.known,) if self.states.wrapped else self.known
            out = self.plain[number](*args, **kwargs)
            if last and self.keys is not None:
                self._finish(out)
            return out

        return forward

    def _begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.keys = None if self.states.off else self.states.keys(args, kwargs)
        self.known = self.states.recall(self.keys) if self.keys else None

    def _finish(self, out: Any) -> None:
        assert self.keys is not None
        self.states.wrapped = isinstance(out, tuple) and len(out) == 1
        out = out[0] if self.states.wrapped else out
        if not isinstance(out, Tensor) or out.dtype not in AS_NUMPY:
            self.states.end("its blocks return more than states")
        elif self.known is None:
            self.states.keep(self.keys, out)
        else:
            self.states.compare(self.known, out)


def _content(blocks: Sequence[nn.Module]) -> str:
    """Hash of the weights; an earlier training may have moved them since the backbone was loaded."""
    tensors = [t for block in blocks for t in (*block.parameters(), *block.buffers())]
    return hashlib.sha256("".join(map(_digest, tensors)).encode()).hexdigest()


def untouched(backbone: Backbone) -> list[nn.Module]:
    """The leading blocks of a network with one stack that are the bare backbone's and that nothing trains."""
    stacks = backbone.anatomy.stacks
    found = list[nn.Module]()
    for block in stacks[0].blocks if len(stacks) == 1 else ():
        module = backbone.model.get_submodule(block.name)
        if block.passes > 1 or not _bare(module):
            break
        found.append(module)
    return found


def _bare(block: nn.Module) -> bool:
    if any(parameter.requires_grad for parameter in block.parameters()):
        return False
    return all(
        type(module).__module__.split(".")[0] in LIBRARIES
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (isinstance(module, nn.Dropout) and module.p > 0)
        for module in block.modules()
    )


def _flat(values: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for name, value in values:
        if isinstance(value, tuple | list):
            yield from _flat((f"{name}.{number}", inner) for number, inner in enumerate(value))
        else:
            yield str(name), value


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(data.numpy().tobytes(), digest_size=16).hexdigest()


def _from_numpy(value: Any) -> Tensor:
    tensor = torch.from_numpy(value.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
