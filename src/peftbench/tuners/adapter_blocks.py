"""The small networks that adapters are made of. Each maps (batch, n, d) to (batch, n, d) in its own fp32 weights.

Unless its docstring says otherwise a block's last projection starts at zero, so that a block which is added to the
frozen network changes nothing before the first step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

INIT_STD = 0.02


class Bottleneck(nn.Module):
    """W_up act(W_down x + b) + b' (Houlsby et al., ICML 2019, arXiv 1902.00751, section 2.1): 2 d b + b + d numbers.

    `kaiming` draws W_down as He et al. (2022) do, after LoRA, instead of N(0, 0.02^2). With a `std` both matrices start
    from N(0, std^2), cut at two std.
    """

    def __init__(
        self, d: int, b: int, activation: str, dropout: float = 0.0, kaiming: bool = False, std: float = 0.0
    ) -> None:
        super().__init__()
        self.down = nn.Linear(d, b)
        self.act = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.up = zeros(nn.Linear(b, d))
        if kaiming:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        else:
            nn.init.normal_(self.down.weight, std=INIT_STD)
        nn.init.zeros_(self.down.bias)
        if std:
            for linear in (self.down, self.up):
                nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.up(self.dropout(self.act(self.down(x))))


class Lite(nn.Module):
    """W_2 W_1 x, no bias, nothing between (LiST; Wang et al., Findings of NAACL 2022, arXiv 2110.06274): 2 d b numbers.

    Both matrices start from N(0, std^2), so it is *not* zero at the start; at the released std of 2e-4 it moves what
    it reads by about a hundred-thousandth.
    """

    def __init__(self, d: int, b: int, std: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(d, b, bias=False), nn.Linear(b, d, bias=False)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=std)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.up(self.down(x))


class TopShare(torch.autograd.Function):
    """1 for the `keep` share of the scores with the greatest values, 0 for the others; the gradient passes straight
    through to the scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: float) -> Tensor:
        mask = torch.ones(scores.numel(), dtype=scores.dtype, device=scores.device)
        mask[scores.flatten().argsort()[: int((1 - keep) * scores.numel())]] = 0
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class Masked(nn.Module):
    """W_up act(W_down x + b) + b' with matrices W = prototype * mask (ProPELT; Zeng, Zhang and Lu, ACL 2023,
    arXiv 2305.17682): one prototype for all blocks, 2 d b + b + d numbers, and two binary masks of its own a block,
    which keep the `keep` share of a matrix with the greatest |score|; 2 d b scores are trained for them.

    Args:
        like: another block of the same adapter, whose prototype this one uses; None for the first, which owns it.
    """

    def __init__(self, d: int, b: int, activation: str, keep: float, like: Masked | None) -> None:
        super().__init__()
        if like is None:
            self.prototype = Bottleneck(d, b, activation, std=0.0)
            nn.init.normal_(self.prototype.up.weight, std=INIT_STD)  # a mask on zeros would learn nothing
        # In a tuple, which torch does not look into for parameters.
        self._prototype: tuple[Bottleneck] = like._prototype if like else (self.prototype,)
        self.keep = keep
        self.down_scores, self.up_scores = (nn.Parameter(torch.empty(shape)) for shape in ((d, b), (b, d)))
        for scores in (self.down_scores, self.up_scores):
            nn.init.kaiming_uniform_(scores, a=math.sqrt(5))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        shared = self._prototype[0]
        hidden = shared.act(F.linear(x, shared.down.weight * self._mask(self.down_scores), shared.down.bias))
        return F.linear(hidden, shared.up.weight * self._mask(self.up_scores), shared.up.bias)

    def _mask(self, scores: Tensor) -> Tensor:
        return TopShare.apply(scores.abs(), self.keep).T  # type: ignore[no-untyped-call, no-any-return]


class PhmRule(nn.Module):
    """The A_i, (n, n, n). A module, which keeps its place in a tuple when torch replaces its parameter."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, n, n) * 1e-4)


class PhmFactors(nn.Module):
    """What one matrix W (in, out) has of its own: s_i (in/n, rank), t_i (rank, out/n) for i = 1..n, and a bias. The
    factors start from Xavier's uniform distribution with gain sqrt(2), as in the released code."""

    def __init__(self, inner: int, out: int, n: int, rank: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.empty(n, inner // n, rank))
        self.t = nn.Parameter(torch.empty(n, rank, out // n))
        self.bias = nn.Parameter(torch.zeros(out))
        for factors in (self.s, self.t):
            for factor in factors:
                nn.init.xavier_uniform_(factor, gain=math.sqrt(2))

    def matrix(self, rule: Tensor) -> Tensor:
        """W = sum_i A_i kron (s_i t_i), (in, out), with `rule` (n, n, n) holding the A_i."""
        blocks = torch.einsum("ijk,ilr,irm->jlkm", rule, self.s, self.t)
        return blocks.reshape(-1, len(self.bias))


class Compacter(nn.Module):
    """A bottleneck whose two matrices are sums of Kronecker products (Karimi Mahabadi, Henderson and Ruder, NeurIPS
    2021, arXiv 2106.04647, equation 5): 2 rank (d + b) + b + d numbers, and n^3 for all blocks together: one rule,
    the A_i, serves every down and every up projection. It starts from N(0, 1e-4^2), which makes a fresh block all but
    zero.

    Args:
        like: another block of the same adapter, whose rule this one uses; None for the first, which owns it. Only
            the owner has it as a parameter, so it is counted, moved, trained and saved once.
    """

    def __init__(self, d: int, b: int, n: int, rank: int, activation: str, like: Compacter | None) -> None:
        super().__init__()
        if like is None:
            self.rule = PhmRule(n)
        # In a tuple, which torch does not look into for parameters.
        self._rule: tuple[PhmRule] = like._rule if like else (self.rule,)
        self.down, self.up = PhmFactors(d, b, n, rank), PhmFactors(b, d, n, rank)
        self.act = ACT2FN[activation]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        rule = self._rule[0].weight
        hidden = self.act(x @ self.down.matrix(rule) + self.down.bias)
        return hidden @ self.up.matrix(rule) + self.up.bias


class Conformer(nn.Module):
    """The Conformer's convolution module as an adapter (Cappellazzo et al., MLSP 2024, arXiv 2312.03694).

    LayerNorm, pointwise d -> 2b, GLU, depthwise convolution over `kernel` neighbouring tokens, norm, SiLU, pointwise
    b -> d, dropout. The norm inside is a LayerNorm over the b channels where the source has BatchNorm, whose
    statistics would depend on padding and on the rest of the batch; it has as many parameters.
    2d + (d + 1) 2b + b (kernel + 1) + 2b + (b + 1) d numbers.
    """

    def __init__(self, d: int, b: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(d)
        self.expand = nn.Linear(d, 2 * b)
        self.depthwise = nn.Conv1d(b, b, kernel, padding=kernel // 2, groups=b)
        self.norm_mid = nn.LayerNorm(b)
        self.project = zeros(nn.Linear(b, d))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        gated = F.glu(self.expand(self.norm_in(x)), dim=-1)
        mixed = self.norm_mid(convolve(self.depthwise, gated, mask))
        return self.dropout(self.project(F.silu(mixed)))


class Convpass(nn.Module):
    """down, QuickGELU, convolution over `kernel` tokens, QuickGELU, dropout, up (Jie and Deng, arXiv 2207.07039, as
    used in arXiv 2312.03694): 2 d b + b + d + b^2 kernel + b numbers.

    The convolution mixes channels and starts as the identity, as in the image model; on text that is our reading.
    """

    def __init__(self, d: int, b: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(d, b)
        self.conv = nn.Conv1d(b, b, kernel, padding=kernel // 2)
        self.act = ACT2FN["quick_gelu"]
        self.dropout = nn.Dropout(dropout)
        self.up = zeros(nn.Linear(b, d))
        nn.init.normal_(self.down.weight, std=INIT_STD)
        nn.init.zeros_(self.down.bias)
        zeros(self.conv)
        with torch.no_grad():
            self.conv.weight[:, :, kernel // 2] = torch.eye(b)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mixed = convolve(self.conv, self.act(self.down(x)), mask)
        return self.up(self.dropout(self.act(mixed)))


def convolve(conv: nn.Conv1d, x: Tensor, mask: Tensor | None) -> Tensor:
    """Convolution of (batch, n, channels) over n. Padding is set to 0 first, as if the text ended there."""
    if mask is not None:
        x = x * mask.unsqueeze(-1).to(x.dtype)
    return conv(x.transpose(1, 2)).transpose(1, 2)


def zeros(layer: nn.Linear | nn.Conv1d) -> nn.Linear | nn.Conv1d:
    """`layer` with weight and bias 0."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
