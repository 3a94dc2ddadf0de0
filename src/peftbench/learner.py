"""Learner: the one place where a backbone, a tuner and a formulation meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.models.base import Backbone
from peftbench.models.formats import count
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.passes.frozen_blocks import FrozenBlocks
    from peftbench.passes.shared_pass import Together
    from peftbench.tasks.base import Row

HEAD = "head"
"""Name of the parameter group of the formulation's own parameters, and of its file."""
KEPT, FORMULATION = "tuner state/", "formulation state/"
"""In front of the names of a tuner's and a formulation's own tensors in a checkpoint."""


class Learner(nn.Module):
    """What the training loop knows: items in, a loss or predictions out.

    `forward(batch)` returns the *sum* of weight x loss over the batch, so that the mean over a global batch does not
    depend on how the batch is cut into micro-batches and processes.
    """

    def __init__(
        self,
        backbone: Backbone,
        tuner: Tuner,
        formulation: Formulation,
        context: TunerContext,
        model: nn.Module | None = None,
    ) -> None:
        """`model`: what `tuner` has built already, for another formulation; None builds it."""
        super().__init__()
        self.config: RunConfig | None = None
        """From what it was built, the formulation by its own name; set by `build_learner`."""
        self.said = ""
        """What whoever watches a training is told beside its loss."""
        self.start: Path | None = None
        """File of another run with the weights that stand in the place of the pre-trained ones; set by
        `build_learner`."""
        self.backbone = backbone
        self.tuner = tuner
        self.context = context
        self.model = tuner.build(backbone, context) if model is None else model
        self.formulation = formulation
        formulation.attach(self.model)
        formulation.virtual_tokens = tuner.virtual_tokens
        formulation.pass_answer_starts = tuner.needs_answer_starts
        formulation.takes_cache = tuner.takes_cache
        formulation.domain_tokens = tuner.domain_tokens
        if tuner.domain_tokens and not formulation.writes_domains:
            raise UsageError("method.tuner has experts by domain, which method/formulation=embed alone tells apart.")
        formulation.shots = context.shots
        self.frozen: FrozenBlocks | None = None
        """Where the states behind its untouched blocks are kept, if they are; set by `build.new_learner`."""
        self.together: Together | None = None
        """Its part among the runs that it is trained together with, if it is; set by `build.new_learner`."""

    def reusing(self) -> AbstractContextManager[None]:
        """Within it, states behind untouched blocks are read where they are known."""
        return self.frozen.used() if self.frozen else nullcontext()

    def in_training(self) -> AbstractContextManager[None]:
        """Around a training: within it, passes may be shared with other runs."""
        return self.together.in_training() if self.together else nullcontext()

    def with_formulation(self, formulation: Formulation) -> Learner:
        """The same tuned model, not a copy, posed another way: what one learner trains, the other has."""
        learner = Learner(self.backbone, self.tuner, formulation, self.context, self.model)
        learner.frozen = self.frozen
        return learner.to(next(self.model.parameters()).device)

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Tokenised items of `rows`, in order."""
        return self.formulation.encode(rows)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """A padded CPU batch."""
        return self.formulation.collate(items)

    def forward(self, batch: Batch) -> Tensor:
        """Scalar: sum of weight x loss over the batch."""
        return self.formulation.loss(self.model, batch)

    def backward(self, loss: Tensor) -> None:
        """The loop's call for the gradients of what `forward` gave."""
        loss.backward() if self.together is None else self.together.backward(loss)  # type: ignore[no-untyped-call]

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

    def begin_step(self, step: int, seed: int, items: Sequence[Encoded]) -> None:
        """The loop's call before the batches of a 0-based step are made; `items`: those of its global batch."""
        self.formulation.step, self.formulation.seed = step, seed

    def before_training(self, gradients: Iterable[int]) -> None:
        """The stage's call before a training; see `peftbench.tuners.base.Tuner.before_training`."""
        self.tuner.before_training(self.model, gradients)

    def after_training(self) -> None:
        """The stage's call after a training; see `peftbench.tuners.base.Tuner.after_training`."""
        self.tuner.after_training(self.model)

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
            "total": sum(count(p) for p in self.parameters()),
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
        """What a checkpoint holds: `trainable_state`, and what tuner and formulation keep beside it."""
        kept = {f"{KEPT}{name}": tensor for name, tensor in self.tuner.step_state(self.model).items()}
        kept |= {f"{FORMULATION}{name}": tensor for name, tensor in self.formulation.kept_state().items()}
        return {**self.trainable_state(), **kept}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` gave. Raises ValueError if names differ."""
        self.load_trainable_state({n: t for n, t in state.items() if not n.startswith((KEPT, FORMULATION))})
        self.tuner.load_step_state(self.model, _part(state, KEPT))
        self.formulation.load_kept_state(_part(state, FORMULATION))

    def save(self, folder: Path) -> None:
        """Write the tuner's own files and the head (`head.safetensors`)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tuner.save(self.model, folder)
        self.save_head(folder)

    def save_head(self, folder: Path) -> None:
        """Write `head.safetensors`, what the formulation has trained and keeps, if there is anything."""
        from safetensors.torch import save_file

        head = self.formulation.own_parameters(self.model)
        own = {name: p.detach().cpu().contiguous() for name, p in head.items()} | self.formulation.kept_state()
        if own:
            save_file(own, folder / "head.safetensors")

    def load(self, folder: Path, names: Mapping[str, str] | None = None) -> None:
        """Read back what `save` wrote.

        Args:
            names: of the head, what is called so here -> its name in the file, of which nothing else is read.
        """
        from safetensors.torch import load_file

        self.tuner.load(self.model, folder)
        if (folder / "head.safetensors").exists():
            head = self.formulation.own_parameters(self.model)
            saved = load_file(folder / "head.safetensors")
            if names is not None:
                saved = {own: saved[name] for own, name in names.items()}
            with torch.no_grad():
                for name in head.keys() & saved.keys():
                    head[name].copy_(saved.pop(name))
            self.formulation.load_kept_state(saved)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
