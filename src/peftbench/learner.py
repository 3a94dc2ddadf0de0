"""Learner: the one place where a backbone, a tuner and a formulation meet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.models.base import Backbone
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext

if TYPE_CHECKING:
    from peftbench.tasks.base import Row

HEAD = "head"
"""Name of the parameter group of the formulation's own parameters, and of its file."""
KEPT = "tuner state/"
"""In front of the names of a tuner's own tensors in a checkpoint."""


class Learner(nn.Module):
    """What the training loop knows: items in, a loss or predictions out.

    `forward(batch)` returns the *sum* of weight x loss over the batch, so that the mean over a global batch does not
    depend on how the batch is cut into micro-batches and processes.
    """

    def __init__(self, backbone: Backbone, tuner: Tuner, formulation: Formulation, context: TunerContext) -> None:
        super().__init__()
        self.backbone = backbone
        self.tuner = tuner
        self.context = context
        self.model = tuner.build(backbone, context)
        self.formulation = formulation
        formulation.attach(self.model)
        formulation.virtual_tokens = tuner.virtual_tokens
        formulation.pass_answer_starts = tuner.needs_answer_starts

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Tokenised items of `rows`, in order."""
        return self.formulation.encode(rows)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """A padded CPU batch."""
        return self.formulation.collate(items)

    def forward(self, batch: Batch) -> Tensor:
        """Scalar: sum of weight x loss over the batch."""
        return self.formulation.loss(self.model, batch)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Predictions in batch order; the caller puts the learner in eval mode."""
        return self.formulation.predict(self.model, batch)

    def param_groups(self) -> ParamGroups:
        """Every trainable parameter in exactly one named group; the formulation's own are `head`."""
        head = list(self.formulation.own_parameters(self.model).values())
        taken = {id(p) for p in head}
        groups = {HEAD: head} if head else {}
        for name, parameters in self.tuner.param_groups(self.model).items():
            if rest := [p for p in parameters if id(p) not in taken]:
                groups[name] = rest
        return groups

    def before_step(self, step: int, steps: int) -> None:
        """The loop's call between the gradients of a 0-based step and its clipping."""
        self.tuner.before_step(self.model, step, steps)

    def after_step(self, step: int, steps: int) -> None:
        """The loop's call after the optimiser's move."""
        self.tuner.after_step(self.model, step, steps)

    def counts(self) -> dict[str, int]:
        """Trainable parameters of the tuner (`module`) and the formulation (`head`), and all parameters (`total`)."""
        groups = self.param_groups()
        head = sum(p.numel() for p in groups.get(HEAD, []))
        return {
            "module": sum(p.numel() for ps in groups.values() for p in ps) - head,
            "head": head,
            "total": sum(p.numel() for p in self.parameters()),
        }

    def trainable_state(self) -> dict[str, Tensor]:
        """Name -> CPU copy of every trainable tensor."""
        return {n: p.detach().to("cpu", copy=True) for n, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `trainable_state` gave. Raises ValueError if names differ."""
        own = {n: p for n, p in self.named_parameters() if p.requires_grad}
        if own.keys() != state.keys():
            raise ValueError(f"checkpoint does not fit: {sorted(own.keys() ^ state.keys())[:4]} differ")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def training_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: `trainable_state`, and what the tuner keeps from step to step."""
        kept = {f"{KEPT}{name}": tensor for name, tensor in self.tuner.step_state(self.model).items()}
        return {**self.trainable_state(), **kept}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` gave. Raises ValueError if names differ."""
        self.load_trainable_state({n: t for n, t in state.items() if not n.startswith(KEPT)})
        self.tuner.load_step_state(
            self.model, {n.removeprefix(KEPT): t for n, t in state.items() if n.startswith(KEPT)}
        )

    def save(self, folder: Path) -> None:
        """Write the tuner's own files and the head (`head.safetensors`)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        self.tuner.save(self.model, folder)
        if head := self.formulation.own_parameters(self.model):
            own = {name: p.detach().cpu().contiguous() for name, p in head.items()}
            save_file(own, folder / "head.safetensors")

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        from safetensors.torch import load_file

        self.tuner.load(self.model, folder)
        if (folder / "head.safetensors").exists():
            head = self.formulation.own_parameters(self.model)
            with torch.no_grad():
                for name, tensor in load_file(folder / "head.safetensors").items():
                    head[name].copy_(tensor)
