"""What one training step costs, the same on every machine: FLOPs, and bytes kept for the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class Probe:
    """Cost of one forward and backward pass.

    Attributes:
        step_flops: floating-point operations of matrix products, convolutions and attention; a multiplication and an
            addition count as two. Elementwise work (activations, norms, the optimiser) is not counted.
        saved_bytes: bytes of distinct storages that autograd holds between forward and backward, those of `exclude`
            not counted.
    """

    step_flops: float
    saved_bytes: float


class _Saved:
    """A tensor in autograd's hands; dies with the graph node that holds it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an operation's own output would hold its node, and the node this: never freed


def probe_step(forward: Callable[[], Tensor], exclude: Iterable[Tensor] = ()) -> Probe:
    """Run `forward` and the backward pass of the loss it returns, once, and count.

    Args:
        forward: gives a scalar loss, in train mode and under the autocast of a real step.
        exclude: the model's parameters and buffers: they are there anyway and so are no cost of the step.

    Random state is put back, and the gradients of `exclude` are None afterwards. With gradient checkpointing the FLOPs
    include the second forward pass; saved bytes are those between forward and backward.
    """
    known = list(exclude)
    devices = sorted({t.device.index for t in known if t.is_cuda})
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        handle = _Saved(tensor)
        saved.add(handle)
        return handle

    with torch.random.fork_rng(devices=devices), _Flops() as flops:
        with saved_tensors_hooks(pack, lambda handle: handle.tensor):
            loss = forward()
        saved_bytes = _distinct_bytes((handle.tensor for handle in saved), known)
        loss.backward()
    for tensor in known:
        tensor.grad = None
    return Probe(float(flops.get_total_flops()), float(saved_bytes))


def count_flops(work: Callable[[], Any]) -> float:
    """Floating-point operations of whatever `work` does, counted as `Probe.step_flops` are."""
    with _Flops() as flops:
        work()
    return float(flops.get_total_flops())


def _distinct_bytes(tensors: Iterable[Tensor], known: Iterable[Tensor]) -> int:
    """Bytes of the storages behind `tensors`, views of one storage counted once, those of `known` not at all."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


# torch counts attention on a GPU only. The CPU kernel computes the same products; its query, key and value
# have the shape (batch, heads, length, width of a head).


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kw: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Everywhere:
    """Stands for the tracker of modules. Its hooks keep graphs alive that the network has dropped (the norms of DoRA),
    until the garbage collector comes: how many bytes are saved would depend on it."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


class _Flops(FlopCounterMode):
    """Counts all operations as one sum."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_CPU_ATTENTION)
        self.mod_tracker = _Everywhere()  # type: ignore[assignment]
