"""Half fine-tuning (Hui et al., ACL 2025, arXiv 2404.18466): a random half of the matrices stays frozen for a round."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

from torch import nn

from peftbench.models.anatomy import anatomy_of
from peftbench.models.anatomy.choose import is_matrix
from peftbench.models.anatomy.names import is_norm, unfrozen
from peftbench.models.anatomy.parts import Block
from peftbench.models.base import Backbone
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.hft import HftOptions
from peftbench.tuners.plain import weights_of
from peftbench.tuners.positions import count_real_positions
from peftbench.tuners.selective import load_part, save_part

MASK = "hft.json"


class HftTuner(Tuner):
    """theta <- theta - eta M * grad L(theta) with one 0/1 value of M a *matrix*. Group `backbone`.

    A matrix is frozen whole, its bias with it, so no gradient of it is computed and the optimiser never sees it. Drawn
    are the matrices of attention, those of the feed-forward and the norms of every block; embeddings, final norms,
    pooler and heads are always trained. On encoders, and with cross-attention, which the paper does not treat, the
    same rule holds for each category of a block (our reading).

    GPT-2's fused c_attn (query, key and value) is one matrix here, so its attention has two, of which one is frozen.
    """

    identity_at_start = "base"
    cfg: HftOptions

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        model = backbone.model
        if backbone.family == "causal":
            count_real_positions(model)
        self.seed = context.seed if self.cfg.mask_seed is None else self.cfg.mask_seed
        self.ever_trained: set[str] = set()
        self._freeze(model, draw_frozen(model, self.cfg, self.seed, self.cfg.round))
        blocks = [p for block in anatomy_of(model).blocks() for p in model.get_submodule(block.name).parameters()]
        self.notes.append(
            f"hft: {share(blocks):.1%} of the blocks' parameters and {share(list(model.parameters())):.1%} of all are "
            "trained"
        )
        return model

    def on_round(self, model: nn.Module, round: int) -> None:
        """Draw the mask of another round. Matrices that are frozen now keep what they have learned. Nothing happens
        with resample=never."""
        if self.cfg.resample == "round":
            self._freeze(model, draw_frozen(model, self.cfg, self.seed, round))

    def _freeze(self, model: nn.Module, frozen: list[str]) -> None:
        unfrozen(model)
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        self.frozen = frozen
        self.ever_trained |= {name for name, p in model.named_parameters() if p.requires_grad}

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {"backbone": [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        """All, less the drawn matrices."""
        seed = context.seed if self.cfg.mask_seed is None else self.cfg.mask_seed
        frozen = draw_frozen(backbone.model, self.cfg, seed, self.cfg.round)
        held = sum(p.numel() for name in frozen for p in backbone.model.get_submodule(name).parameters())
        return weights_of(backbone) - held

    def save(self, model: nn.Module, folder: Path) -> None:
        """`backbone_part.safetensors`: what was trained in any round; `hft.json`: what is frozen now."""
        save_part({n: p for n, p in model.named_parameters() if n in self.ever_trained}, folder)
        (folder / MASK).write_text(json.dumps({"frozen": self.frozen}, indent=1) + "\n")

    def load(self, model: nn.Module, folder: Path) -> None:
        """Weights and mask, so that training can go on."""
        self.warm_start(model, folder)
        self._freeze(model, json.loads((folder / MASK).read_text())["frozen"])

    def warm_start(self, model: nn.Module, folder: Path) -> None:
        """Weights only: the run that starts from them is a round with a mask of its own (`method.tuner.round`)."""
        self.ever_trained |= load_part(dict(model.named_parameters()), folder, subset=True)


def share(parameters: list[nn.Parameter]) -> float:
    """Trained part of `parameters`."""
    return sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)


def draw_frozen(model: nn.Module, cfg: HftOptions, seed: int, round: int) -> list[str]:
    """Full names of the modules that are frozen in `round`, in the order of the model."""
    rng = random.Random(f"hft {seed} {round}")
    kinds: dict[tuple[str, int], list[list[str]]] = defaultdict(list)
    for kind, names in pools(model, cfg.level):
        kinds[kind, len(names)].append(names)
    frozen: set[str] = set()
    for (_, size), alike in kinds.items():
        # 1.5 of 3 is 2 of 3 in half of the blocks, rounded down, and 1 of 3 in the others.
        each = Fraction(str(cfg.freeze_ratio)) * size
        one_more = set(rng.sample(range(len(alike)), math.floor((each % 1) * len(alike))))
        for i, names in enumerate(alike):
            frozen.update(rng.sample(names, math.floor(each) + (i in one_more)))
    return [name for name, _ in model.named_modules() if name in frozen]


def pools(model: nn.Module, level: str) -> list[tuple[str, list[str]]]:
    """(kind, names) of each set that is drawn from: a category of a block, a whole block, or all blocks together."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for block in anatomy_of(model).blocks():  # type: ignore[arg-type]
        for within, module in model.get_submodule(block.name).named_modules():
            name = f"{block.name}.{within}"
            category = category_of(name, module, block)
            if category is not None:
                keys = {"category": (category, block.name), "layer": ("block", block.name), "model": ("model", "")}
                found[keys[level]].append(name)
    return [(kind, names) for (kind, _), names in found.items()]


def category_of(name: str, module: nn.Module, block: Block) -> str | None:
    """Category of a module of a block by its full name; None if it is neither a matrix (or the tensors of a mixture of
    experts) nor a norm."""
    if is_norm(module):
        return "norm"
    if not is_matrix(module) and not any(p.ndim == 3 for p in module.parameters(recurse=False)):
        return None
    for attention, category in zip(block.attentions(), ("attention", "cross-attention"), strict=False):
        projections = [projection.name for projection in attention.projections().values()]
        if name in projections or name.startswith(f"{attention.module}."):
            return category
    return "ffn"
