"""Experts by domain with hard routing (Hallee et al., arXiv 2401.15713)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.anatomy.names import unfrozen
from peftbench.models.base import Backbone
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.moe import MoeOptions
from peftbench.tuners.plain import weights_of
from peftbench.tuners.ranks import Rank, rank_of_updates
from peftbench.tuners.selective import load_part, save_part

SHARED, EXPERTS = "shared", "experts"


class Route:
    """Which expert each item of the present batch goes to: told once, by the item's first token."""

    def __init__(self, first: int) -> None:
        self.first = first
        """The id of the first domain's token; ids below it are the vocabulary's."""
        self.experts: Tensor | None = None
        """(batch,) expert of each item; None where there is one expert alone."""

    def read(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the network.

        Raises:
            ValueError: a text does not begin with a domain's token.
        """
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.experts = ids[:, 0] - self.first
        if int(self.experts.min()) < 0:
            raise ValueError("a text without a domain's token came to experts by domain")


class Routed(nn.Module):
    """A linear map that has a copy for each domain; item b takes `experts[route_b]`."""

    def __init__(self, experts: nn.ModuleList, route: Route) -> None:
        super().__init__()
        self.experts = experts
        self._route = [route]  # in a list, so that it is no state

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, in) -> (batch, n, out). A batch of one domain is one product, as in the dense network."""
        chosen = self._route[0].experts
        present = [0] if chosen is None else chosen.unique().tolist()
        if len(present) == 1:
            return self.experts[present[0]](x)
        parts = [(chosen == domain).nonzero().squeeze(-1) for domain in present]  # type: ignore[union-attr]
        answers = [self.experts[domain](x[rows]) for domain, rows in zip(present, parts, strict=True)]
        order = torch.cat(parts).argsort()
        return torch.cat(answers)[order]


class LoraExpert(nn.Module):
    """W x + alpha/r B A x with a frozen W that all experts share; B starts at 0."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self._base = [base]
        self.scale = alpha / rank
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._base[0](x) + self.scale * self.b(self.a(x.to(self.a.weight.dtype))).to(x.dtype)


class LoraRouted(Routed):
    """`Routed`, its experts being low-rank additions to one frozen map."""

    def __init__(self, base: nn.Linear, experts: nn.ModuleList, route: Route) -> None:
        super().__init__(experts, route)
        self.base = base


class DomainEmbedding(nn.Module):
    """Word embeddings with a further row for each domain, which starts as that of the first token of any text."""

    def __init__(self, words: nn.Embedding, first: int, domains: int) -> None:
        super().__init__()
        self.words = words
        self.domains = nn.Parameter(words.weight[first].detach().float().repeat(domains, 1))

    def forward(self, ids: Tensor) -> Tensor:
        size = self.words.num_embeddings
        found = self.words(ids.clamp(max=size - 1))
        new = self.domains[(ids - size).clamp(min=0)].to(found.dtype)
        return torch.where((ids >= size).unsqueeze(-1), new, found)


class MoeTuner(Tuner):
    """The feed-forward of each block has a copy for each domain, equal at the start; a text goes to that of its domain.

    The domain is told by a token in the first place of the text, whose embedding starts as that of the first token of
    any text ([CLS]). Without a router there is no balancing loss. `expert=full` trains all weights; `expert=lora`
    freezes the backbone and trains a low-rank addition for each domain, and the domains' tokens. Groups `experts`
    (with the tokens) and `shared`.

    Where the task's rows have no domains there is one expert, which is the network's own feed-forward.
    """

    families = frozenset({"encoder"})
    identity_at_start = "base"
    counted: int | None = None
    cfg: MoeOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        self._matrices(backbone)

    def ranks(self, backbone: Backbone, context: TunerContext) -> list[Rank]:
        if self.cfg.expert == "full":
            return []
        linear = {name: backbone.model.get_submodule(name) for name in self._matrices(backbone)}
        shapes = {n: (m.out_features, m.in_features) for n, m in linear.items() if isinstance(m, nn.Linear)}
        return rank_of_updates("rank", self.cfg.rank, shapes)

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.counted = self._count(backbone, context)
        model = unfrozen(backbone.model) if self.cfg.expert == "full" else backbone.model.requires_grad_(False)
        names = self._matrices(backbone)
        words = model.get_input_embeddings()
        assert isinstance(words, nn.Embedding)
        route, count = Route(words.num_embeddings), max(1, len(context.domains))
        for name in names:
            model.set_submodule(name, self._routed(model.get_submodule(name), count, route))
        if len(context.domains) > 1:
            model.set_input_embeddings(DomainEmbedding(words, first_token(backbone), count))
            self.domain_tokens = {d: words.num_embeddings + i for i, d in enumerate(context.domains)}
            model.register_forward_pre_hook(route.read, with_kwargs=True)
        else:
            self.notes.append("moe: the task's rows have no domains to tell apart, so there is one expert")
        return model

    def _routed(self, matrix: nn.Module, count: int, route: Route) -> nn.Module:
        assert isinstance(matrix, nn.Linear)
        if self.cfg.expert == "full":
            return Routed(nn.ModuleList([matrix, *(copy.deepcopy(matrix) for _ in range(count - 1))]), route)
        made = [LoraExpert(matrix, self.cfg.rank, self.cfg.alpha) for _ in range(count)]
        return LoraRouted(matrix, nn.ModuleList(made).to(matrix.weight.device), route)

    def _matrices(self, backbone: Backbone) -> list[str]:
        """Full names of the matrices of every block's feed-forward.

        Raises:
            UsageError: one is no plain linear map, or several blocks share it.
        """
        blocks = anatomy_of(backbone.model).blocks()
        names = [p.name for block in blocks for p in block.feed_forward.projections().values()]
        plain = all(isinstance(backbone.model.get_submodule(name), nn.Linear) for name in names)
        shared = any(block.passes > 1 for block in blocks)
        if shared or not names or not plain:
            reason = "the layers share one feed-forward" if shared else "no block has a feed-forward of linear maps"
            raise UsageError(
                f"method.tuner=moe: in model={backbone.name} {reason}, and each layer's own is copied by domain. "
                "Choose another model."
            )
        return list(dict.fromkeys(names))

    def param_groups(self, model: nn.Module) -> ParamGroups:
        mine = [m for m in model.modules() if isinstance(m, Routed)]
        experts = [p for module in mine for p in module.experts.parameters()]
        tokens = [m.domains for m in model.modules() if isinstance(m, DomainEmbedding)]
        own = {id(p) for p in experts}
        shared = [p for p in model.parameters() if p.requires_grad and id(p) not in own and not _is_one_of(p, tokens)]
        return {EXPERTS: [*experts, *tokens], **({SHARED: shared} if shared else {})}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        return self._count(backbone, context) if self.counted is None else self.counted

    def _count(self, backbone: Backbone, context: TunerContext) -> int:
        """By the formula, from a network that is not yet converted."""
        found = (backbone.model.get_submodule(name) for name in self._matrices(backbone))
        matrices = [module for module in found if isinstance(module, nn.Linear)]
        count = max(1, len(context.domains))
        words = backbone.model.get_input_embeddings()
        tokens = count * int(words.embedding_dim) if count > 1 else 0  # type: ignore[arg-type]
        if self.cfg.expert == "lora":
            return tokens + count * self.cfg.rank * sum(m.in_features + m.out_features for m in matrices)
        more = sum(p.numel() for m in matrices for p in m.parameters())
        return weights_of(backbone) + (count - 1) * more + tokens

    def save(self, model: nn.Module, folder: Path) -> None:
        """`backbone_part.safetensors`: what was trained, by its name in the network with experts."""
        save_part({n: p for n, p in model.named_parameters() if p.requires_grad}, folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        load_part({n: p for n, p in model.named_parameters() if p.requires_grad}, folder)


def first_token(backbone: Backbone) -> int:
    """The id that every text begins with. Raises UsageError if texts begin as they please."""
    empty = backbone.tokenizer("")["input_ids"]
    if not empty:
        raise UsageError(f"method.tuner=moe: texts of model={backbone.name} begin with no token of their own ([CLS]).")
    return int(empty[0])


def _is_one_of(parameter: nn.Parameter, others: list[nn.Parameter]) -> bool:
    return any(parameter is other for other in others)
