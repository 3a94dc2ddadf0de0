"""One forward and one backward pass through equal frozen networks, for the rows of several runs at once.

The rows of all runs stand below each other. A module that has nothing trained in it sees all of them; one that has
trained parameters of its own is, in turn, each run's, and sees the rows of its run. What comes before the network (a
soft prompt) and behind it (a head, the loss) each run does by itself, as ever.

So nothing is asked of a tuner but that what it trains inside the network treats every row by itself, in modules that
are called with the rows first. Rows meet only if the batches of their runs have the same shape, so a run computes
what it would alone: on a CPU in fp32 bit for bit, which is looked at in some passes of each run (`CHECKED`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.passes.turns import Member

FEWEST_ROWS = 16
"""Tokens of a batch below which it goes alone: for so few rows BLAS multiplies in another way than for many."""
CLOSE = 2e-2
"""Relative difference to the pass alone that is taken for rounding, where bits are not promised: in bf16, on a GPU."""
CHECKED = (0, 3)
"""Shared passes of a run that are made alone as well: the first, and one after what begins as the identity moved."""
FIRST = "first"


class Unfit(Exception):
    """A pass cannot be shared, and why."""


@dataclass
class Forward:
    """A run's wish: its network's pass over `inputs`. `shared` is the one that it was part of; None: it goes alone."""

    run: Together
    inputs: Mapping[str, Any]
    key: tuple
    output: Any = None
    shared: SharedPass | None = None
    leaves: dict[str, Tensor] = field(default_factory=dict)
    """Inputs that are trained, cut off from what they were made of."""


@dataclass
class Backward:
    """A run's wish: the gradients behind a shared pass, those of its own outputs being there."""

    of: SharedPass


def serve(requests: Sequence[Any], alive: Sequence[Member]) -> Sequence[Any]:
    """What may go on: those who all wait for the backward pass of one shared pass, else the most who can share one."""
    backward: dict[int, list[Backward]] = {}
    forward: dict[tuple, list[Forward]] = {}
    for request in requests:
        if isinstance(request, Backward):
            backward.setdefault(id(request.of), []).append(request)
        else:
            forward.setdefault(request.key, []).append(request)
    for waiting in backward.values():
        if len(waiting) == sum(not run.left and not run.member.over for run in waiting[0].of.runs):
            waiting[0].of.backward()
            return waiting
    most = max(forward.values(), key=len)
    if len(most) > 1:
        try:
            SharedPass(most)
        except (RuntimeError, Unfit, TypeError, ValueError) as error:
            for each in most:
                each.run.leave(f"a shared pass failed: {error}")
    return most


class SharedPass:
    """A forward pass of several runs, and the backward pass that follows it."""

    def __init__(self, requests: Sequence[Forward]) -> None:
        self.requests = list(requests)
        self.runs = [request.run for request in requests]
        for request in requests:
            request.leaves = {
                name: value.detach().requires_grad_()
                for name, value in request.inputs.items()
                if isinstance(value, Tensor) and value.requires_grad
            }
        device, precision = requests[0].key[0]
        with (
            _each_its_own(self.runs),
            torch.autocast(device, precision or torch.bfloat16, enabled=precision is not None),
        ):
            self.output = self.runs[0].plain(**self._joined())
        rows = sum(_rows(request.inputs) for request in requests)
        self.parts = {name: value for name, value in self.output.items() if _is_part(name, value, rows)}
        shares = {name: value.detach().chunk(len(requests)) for name, value in self.parts.items()}
        for number, request in enumerate(requests):
            own = {
                name: chunks[number].requires_grad_(self.parts[name].requires_grad) for name, chunks in shares.items()
            }
            request.output, request.shared = type(self.output)(**own), self

    def _joined(self) -> dict[str, Any]:
        first = self.requests[0].inputs
        return {
            name: torch.cat([r.leaves.get(name, r.inputs[name]) for r in self.requests])
            if isinstance(value, Tensor)
            else value
            for name, value in first.items()
        }

    def backward(self) -> None:
        """Gradients of what the runs train inside the network, and of their `leaves`."""
        ends, gradients = [], []
        for name, part in self.parts.items():
            own = [request.output[name].grad for request in self.requests]
            if any(gradient is not None for gradient in own):
                whole = [
                    torch.zeros_like(r.output[name]) if g is None else g
                    for r, g in zip(self.requests, own, strict=True)
                ]
                ends.append(part)
                gradients.append(torch.cat(whole))
        torch.autograd.backward(ends, gradients)
        self.output, self.parts = None, {}  # its graph is gone


def _is_part(name: str, value: Any, rows: int) -> bool:
    """Whether an output is to be dealt out; a cache is not, for in training nobody goes on from it."""
    if name == "past_key_values" or value is None:
        return False
    if not isinstance(value, Tensor) or not value.dim() or len(value) != rows:
        raise Unfit(f"the network's output `{name}` has no rows")
    return True


def _rows(inputs: Mapping[str, Any]) -> int:
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor))


@contextmanager
def _each_its_own(runs: Sequence[Together]) -> Iterator[None]:
    """Within it the modules with trained parameters of the first run's network are those of all runs, each for its
    rows."""
    changed = []
    try:
        for modules in zip(*(run.owners for run in runs), strict=True):
            forward = [module.forward for module in modules]
            linear = all(type(m) is nn.Linear for m in modules)
            if linear and modules[0].weight.requires_grad:
                modules[0].forward = partial(_batched, modules)
            elif linear:
                modules[0].forward = partial(_with_own_bias, modules)
            else:
                modules[0].forward = partial(_in_turn, forward)
            changed.append(modules[0])
        yield
    finally:
        for module in changed:
            del module.forward


def _in_turn(forward: Sequence[Callable[..., Tensor]], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Each run's module on its rows."""
    return torch.cat([each(rows, *args, **kwargs) for each, rows in zip(forward, x.chunk(len(forward)), strict=True)])


def _batched(modules: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """Each run's matrix on its rows, as one batched multiplication."""
    rows = x.reshape(len(modules), -1, x.shape[-1])
    weights = torch.stack([module.weight for module in modules]).transpose(1, 2)
    if modules[0].bias is None:
        return torch.bmm(rows, weights).view(*x.shape[:-1], -1)
    biases = torch.stack([module.bias for module in modules]).unsqueeze(1)
    return torch.baddbmm(biases, rows, weights).view(*x.shape[:-1], -1)


def _with_own_bias(modules: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """One multiplication for all rows, on top of each run's bias: so `nn.Linear` does it too."""
    flat, out = x.flatten(0, -2), modules[0].out_features
    biases = torch.cat([module.bias.expand(len(flat) // len(modules), out) for module in modules])
    return torch.addmm(biases, flat, modules[0].weight.T).view(*x.shape[:-1], out)


class Together:
    """A run's part in a company: while it is `in_training`, its network's passes are shared where they can be.

    Attributes:
        owners: the modules of its network with trained parameters of their own.
        pending: its shared passes whose backward pass is to come.
        passes: those that it took part in.
        plain: the network's own pass.
        why_alone: why it goes alone from now on; "": it does not.
        left: whether it does not take part any more.
    """

    def __init__(self, member: Member, network: nn.Module) -> None:
        self.member, self.network = member, network
        self.owners = [m for m in self.network.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        self.why_alone, self.left, self.passes = "", False, 0
        self.pending: list[Forward] = []
        self.plain: Callable[..., Any] = self.network.forward
        self._share_frozen()

    def leave(self, why: str) -> None:
        """Go alone from now on."""
        self.why_alone, self.left = why, True

    def _share_frozen(self) -> None:
        """Equal frozen tensors lie in memory once; with others nothing can be shared."""
        mine = {n: t for n, t in _tensors(self.network) if not t.requires_grad}
        first = self.member.company.shared.setdefault(FIRST, mine)
        if first.keys() != mine.keys():
            self.leave("it trains other parts of the network than the first run")
            return
        for name, tensor in mine.items():
            other = first[name]
            if tensor is other:
                continue
            if tensor.shape != other.shape or tensor.dtype != other.dtype or not torch.equal(tensor, other):
                self.leave(f"its frozen `{name}` is not that of the first run")
                return
            tensor.data = other.data

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Within it the network's passes may be shared."""
        self.plain = self.network.forward
        self.network.forward = self._forward  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.network.forward
            self.left = True

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        key = None if args or self.left or not torch.is_grad_enabled() else _key(kwargs)
        if key is None:
            return self.plain(*args, **kwargs)
        request = Forward(self, kwargs, key)
        self.member.meet(request)
        if request.shared is None or not self._is_right(request):
            return self.plain(**kwargs)
        self.pending.append(request)
        return request.output

    def _is_right(self, request: Forward) -> bool:
        """Some shared passes are made alone as well; if they differ, the run goes alone."""
        self.passes += 1
        if self.passes - 1 not in CHECKED:
            return True
        with torch.no_grad():
            alone = self.plain(**request.inputs)
        exact = request.key[0] == ("cpu", None)
        for name, value in request.output.items():
            same = torch.equal(value, alone[name]) if exact else _near(value, alone[name])
            if not same:
                gap = (value.detach().float() - alone[name].float()).abs().max().item()
                self.leave(f"its pass among the others differed from the one alone, by up to {gap:.1e} in `{name}`")
                return False
        if self.passes == 1 and request.shared is not None:
            self.member.note({"size": len(request.shared.runs), "index": self.member.index})
        return True

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, the part of it behind the network together with the others."""
        loss.backward()
        while self.pending:
            request = self.pending.pop()
            assert request.shared is not None
            self.member.meet(Backward(request.shared))
            if trained := [name for name, leaf in request.leaves.items() if leaf.grad is not None]:
                torch.autograd.backward(
                    [request.inputs[name] for name in trained], [request.leaves[name].grad for name in trained]
                )


def _near(one: Tensor, other: Tensor) -> bool:
    one, other = one.float(), other.float()
    return bool((one - other).norm() <= CLOSE * other.norm())


def _key(inputs: Mapping[str, Any]) -> tuple | None:
    """Passes with the same key can be shared; None: this one cannot."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    rows = {len(value) if value.dim() else 0 for value in tensors.values()}
    plain = {name: value for name, value in inputs.items() if name not in tensors}
    if len(rows) != 1 or not all(
        value is None or isinstance(value, bool | int | float | str) for value in plain.values()
    ):
        return None
    if plain.get("use_cache") or max(value.shape[:2].numel() for value in tensors.values()) < FEWEST_ROWS:
        return None
    shapes = tuple((name, value.dtype, tuple(value.shape), value.requires_grad) for name, value in tensors.items())
    mask = tensors.get("attention_mask")  # where nothing is masked, attention takes another way
    return (
        _precision(next(iter(tensors.values())).device.type),
        shapes,
        tuple(plain.items()),
        mask is None or bool(mask.all()),
    )


def _precision(device: str) -> tuple[str, torch.dtype | None]:
    """Kind of device and the number format of this thread's forward pass, None for that of the weights."""
    return device, torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()
