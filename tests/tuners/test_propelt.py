"""ProPELT's masks and block against the released lines, what is shared, and what is trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import D, tiny_backbone

from peftbench.config import compose
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.adapter_blocks import Masked, TopShare

CONTEXT = TunerContext(max_length=24, label_words=("sport",), seed=1)


def released_mask(scores: torch.Tensor, k: float) -> torch.Tensor:
    """`GetSubnet.forward` of the released code."""
    out = scores.clone()
    _, idx = scores.flatten().sort()
    j = int((1 - k) * scores.numel())
    flat = out.flatten()
    flat[idx[:j]], flat[idx[j:]] = 0, 1
    return flat.view_as(out)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.7, 1.0])
def test_masks_are_the_released_ones_and_pass_the_gradient_straight(keep: float) -> None:
    torch.manual_seed(0)
    scores = torch.randn(7, 5, requires_grad=True)
    mask = TopShare.apply(scores.abs(), keep)
    assert torch.equal(mask, released_mask(scores.detach().abs(), keep))
    weight = torch.randn(7, 5)
    (mask * weight).sum().backward()
    assert torch.equal(scores.grad, weight * scores.detach().sign())


def test_a_block_is_the_released_forward_with_masks() -> None:
    torch.manual_seed(0)
    first = Masked(6, 3, "relu", 0.5, None)
    second = Masked(6, 3, "relu", 0.5, first)
    x, shared = torch.randn(2, 4, 6), first.prototype
    for block in (first, second):
        down_mask, up_mask = (released_mask(s.detach().abs(), 0.5) for s in (block.down_scores, block.up_scores))
        hidden = torch.relu(F.linear(x, shared.down.weight * down_mask.T, shared.down.bias))
        wanted = F.linear(hidden, shared.up.weight * up_mask.T, shared.up.bias)
        assert torch.allclose(block(x, None), wanted, atol=1e-6)
    assert [name for name, _ in second.named_parameters()] == ["down_scores", "up_scores"]
    assert not torch.allclose(first(x, None), second(x, None))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_groups_and_counts(kind: str) -> None:
    tuner = build_tuner(compose(["method=propelt", "method.tuner.bottleneck=4"]).method.tuner)
    backbone = tiny_backbone(kind)
    expected = tuner.expected_parameters(backbone, CONTEXT)
    model = tuner.build(backbone, CONTEXT)
    groups = {name: sum(p.numel() for p in group) for name, group in tuner.param_groups(model).items()}
    assert groups == {"adapter": 2 * D * 4 + 4 + D, "mask": 2 * 2 * D * 4}  # two blocks
    assert sum(groups.values()) == expected
