"""How large gradients and updates are, by parameter group, at a few steps: what a diagnosis looks at first.

Nothing of the training changes: only norms are taken. Gradients are measured whole, before clipping. The update is
the difference of the weights before and after a step; of a large tensor only every n-th value is copied for it, so
that measuring costs no memory worth speaking of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MEASURED_STEPS = 8
SAMPLE = 8192
"""Values of a tensor that an update is measured on; the norm of a larger tensor is scaled up from them."""


class NormMeter:
    """Norms at `MEASURED_STEPS` evenly spaced steps, the last one included."""

    def __init__(self, groups: Mapping[str, Sequence[Tensor]], steps: int) -> None:
        """`groups`: group name -> its parameters; `steps`: length of the training."""
        self._groups = {name: list(parameters) for name, parameters in groups.items()}
        self._at = {math.ceil(steps * k / MEASURED_STEPS) - 1 for k in range(1, MEASURED_STEPS + 1)}
        self._before: dict[str, list[Tensor]] = {}
        self._unread: list[tuple[int, dict[str, Tensor]]] = []

    @torch.no_grad()
    def before_update(self, step: int) -> None:
        """Call once the gradients of the 0-based `step` are complete, before they are clipped."""
        if step not in self._at:
            return
        norms = {}
        for name, parameters in self._groups.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms[f"gradient/{name}"] = _norm(gradients) if gradients else torch.zeros(())
            self._before[name] = [_sample(p).clone() for p in parameters]
        self._unread.append((step + 1, norms))

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Call when the parameters of the same step have moved."""
        if step not in self._at:
            return
        _, norms = self._unread[-1]
        for name, parameters in self._groups.items():
            before = self._before.pop(name)
            scales = [math.sqrt(p.numel() / b.numel()) for p, b in zip(parameters, before, strict=True)]
            moved = [(_sample(p) - b) * s for p, b, s in zip(parameters, before, scales, strict=True)]
            norms[f"update/{name}"] = _norm(moved)
            norms[f"weight/{name}"] = _norm([b * s for b, s in zip(before, scales, strict=True)])

    def read(self, curves: dict[str, list[float]]) -> None:
        """Append what was measured since the last call: `norm_step` (1-based) and a list a norm. On a GPU this waits
        for the device, so it belongs where the losses are read."""
        for step, norms in self._unread:
            curves.setdefault("norm_step", []).append(step)
            for name, norm in norms.items():
                curves.setdefault(name, []).append(float(norm))
        self._unread.clear()


def _sample(parameter: Tensor) -> Tensor:
    """Evenly spaced values of a tensor, at most `SAMPLE`; a view where the memory allows one."""
    return parameter.detach().reshape(-1)[:: math.ceil(parameter.numel() / SAMPLE)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all values together."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors]))
