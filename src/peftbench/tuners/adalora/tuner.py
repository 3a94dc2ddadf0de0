"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): peft's layers and rank allocator, called from our loop."""

from __future__ import annotations

from typing import Any

import peft
import torch
from peft import PeftModel
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.adalora import AdaLoraOptions
from peftbench.tuners.base import TunerContext
from peftbench.tuners.matrices import Choice, has_transposed, matrix_names, matrix_shapes
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.positions import count_real_positions
from peftbench.tuners.ranks import Rank, rank_of_updates

RATINGS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Of peft's allocator: importance of each entry, its smoothed value and its smoothed uncertainty."""


class AdaLoraTuner(PeftTuner):
    """y = W x + alpha / r P diag(e) Q x: the update as a singular value decomposition whose values can be switched off.

    All matrices start with `init_rank` values e = 0. After a warm-up the least important triplets (value, column of P,
    row of Q; importance is the smoothed |weight x gradient| times its uncertainty) are set to zero, by a cubic
    schedule, until `target_rank` is left on average; then the choice is kept. A penalty holds P and Q near
    orthogonality: the mean over them of the Frobenius norm of P'P - I, as in the authors' code (the paper squares it).
    Group `adalora`; trainable: init_rank (in + out + 1) for each matrix, switched off or not.
    """

    group = "adalora"
    identity_at_start = "base"
    cfg: AdaLoraOptions

    def __init__(self, cfg: AdaLoraOptions) -> None:
        super().__init__(cfg)
        if cfg.target_rank >= cfg.init_rank:
            raise UsageError(
                f"method.tuner.target_rank={cfg.target_rank}: must be below method.tuner.init_rank={cfg.init_rank}, "
                "or there is nothing to choose (method=lora has one rank for all)."
            )
        if cfg.warmup + cfg.final >= 1:
            raise UsageError(
                "method.tuner.warmup and method.tuner.final: together below 1, the rest is for the choice."
            )
        self.kept: dict[str, list[bool]] = {}

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        targets = self.target_modules(backbone)
        config = peft.AdaLoraConfig(
            task_type=task_type(backbone),
            init_r=self.cfg.init_rank,
            target_r=self.cfg.target_rank,
            lora_alpha=self.cfg.alpha,  # type: ignore[arg-type]  # a float works
            lora_dropout=self.cfg.dropout,
            target_modules=targets,
            fan_in_fan_out=has_transposed(backbone, targets),
            deltaT=self.cfg.every,
            beta1=self.cfg.beta1,
            beta2=self.cfg.beta2,
            total_step=1,  # peft wants one now; `after_step` knows the true one
        )
        if backbone.family == "causal":
            count_real_positions(backbone.model)
        model = wrap(backbone, config, context.seed)
        # peft's own forward goes around the network's hooks, which number the positions of left-padded texts, and adds
        # a penalty to a loss that nobody here asks it for.
        model.base_model.forward = model.base_model.model.__call__  # type: ignore[method-assign, operator]
        return model

    def target_modules(self, backbone: Backbone) -> list[str]:
        """Names of the matrices to adapt; see `matrix_names`."""
        return matrix_names(backbone, Choice(self.cfg.target_modules, self.cfg.target, self.cfg.layers))

    def ranks(self, backbone: Backbone, context: TunerContext) -> list[Rank]:
        shapes = matrix_shapes(backbone, self.target_modules(backbone))
        return rank_of_updates("init_rank", self.cfg.init_rank, shapes)

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        shapes = matrix_shapes(backbone, self.target_modules(backbone))
        return sum(self.cfg.init_rank * (out + inner + 1) for out, inner in shapes.values())

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Add the gradient of the penalty, which depends on P and Q alone."""
        factors = [p for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n]
        if not self.cfg.orthogonality:
            return
        with torch.enable_grad():
            penalty = torch.stack([distance_from_orthogonality(p) for p in factors]).mean()
            gradients = torch.autograd.grad(self.cfg.orthogonality * penalty, factors)
        for parameter, gradient in zip(factors, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Rate the triplets, and switch off what the schedule asks for."""
        assert isinstance(model, PeftModel)
        allocator: Any = model.base_model.rankallocator
        if step == 0:
            allocator.reset_ipt()  # a training that follows another one judges anew
        config = allocator.peft_config
        config.total_step, config.tinit = steps, int(self.cfg.warmup * steps)
        config.tfinal = int(self.cfg.final * steps)
        number, last_choice = step + 1, steps - config.tfinal
        if number <= last_choice:
            _, kept = allocator.update_and_allocate(model.base_model.model, number, force_mask=number == last_choice)
            self.kept = kept or self.kept
        else:
            allocator.mask_using_rank_pattern(model.base_model.model, self.kept)

    def step_state(self, model: nn.Module) -> dict[str, Tensor]:
        """How important each entry was so far, and the last choice of triplets."""
        allocator: Any = model.base_model.rankallocator  # type: ignore[union-attr]
        state = {
            f"{part}/{name}": value.detach().to("cpu", copy=True)
            for part in RATINGS
            for name, value in getattr(allocator, part).items()
        }
        return state | {f"kept/{name}": torch.tensor(kept) for name, kept in self.kept.items()}

    def load_step_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        allocator: Any = model.base_model.rankallocator  # type: ignore[union-attr]
        allocator.reset_ipt()
        device = next(model.parameters()).device
        self.kept = {}
        for key, value in state.items():
            part, _, name = key.partition("/")
            if part == "kept":
                self.kept[name] = value.tolist()
            else:
                getattr(allocator, part)[name] = value.to(device, copy=True)


def distance_from_orthogonality(factor: Tensor) -> Tensor:
    """Frobenius norm of P'P - I for P (out, r) or of QQ' - I for Q (r, in): the Gram matrix of the r short sides."""
    gram = factor @ factor.T if factor.shape[0] <= factor.shape[1] else factor.T @ factor
    return torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype))
