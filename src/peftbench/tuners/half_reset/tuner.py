"""Half-reset (the pilot experiment of HFT: Hui et al., ACL 2025, arXiv 2404.18466): all weights are trained, then a
random half of the matrices is set back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.half_reset import HalfResetOptions
from peftbench.tuners.hft import HftOptions
from peftbench.tuners.hft.tuner import draw_frozen
from peftbench.tuners.plain import FullTuner


class HalfResetTuner(FullTuner):
    """theta <- M * theta + (1 - M) * theta0 once the training is over, with one 0/1 value of M a *matrix*, drawn as HFT
    draws what it freezes, anew in each round. Group `backbone`.

    theta0 is what the matrices were when the round began, or the pre-trained ones. The paper resets once, after a
    single training, where both are the same; what a reset in every task of a sequence goes back to is our reading.
    """

    cfg: HalfResetOptions

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        model = super().build(backbone, context)
        self.seed = context.seed if self.cfg.mask_seed is None else self.cfg.mask_seed
        self.round = 0
        self.start: dict[str, Tensor] = {}
        if self.cfg.to == "pretrained":
            self.start = _copies(model, self._drawn(model, ratio=1.0))
        return model

    def on_round(self, model: nn.Module, round: int) -> None:
        """Another half is drawn."""
        self.round = round

    def before_training(self, model: nn.Module, gradients: object) -> None:
        if self.cfg.to == "round":
            self.start = _copies(model, self._drawn(model, self.cfg.reset_ratio))

    @torch.no_grad()
    def after_training(self, model: nn.Module) -> None:
        """Set the drawn matrices back, each with its bias."""
        for name in self._drawn(model, self.cfg.reset_ratio):
            for key, parameter in model.get_submodule(name).named_parameters(name):
                parameter.copy_(self.start[key])

    def _drawn(self, model: nn.Module, ratio: float) -> list[str]:
        how = HftOptions(name="hft", freeze_ratio=ratio, level=self.cfg.level)
        return draw_frozen(model, how, self.seed, self.round)


def _copies(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Full name -> copy of each parameter of these modules, where it lies."""
    return {key: p.detach().clone() for name in names for key, p in model.get_submodule(name).named_parameters(name)}
