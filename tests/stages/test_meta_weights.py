"""Weights by one meta step: the closed form against autograd through the step, and what the weights are good for."""

from __future__ import annotations

import pytest
import torch
from made_up_configs import compose
from tiny_soft import tiny
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from peftbench.build import build_learner
from peftbench.formulations.soft_targets import SOFT_TARGETS, soft_losses, with_soft_target
from peftbench.inputs import InputCache
from peftbench.measure.clock import PhaseClock
from peftbench.stages.self_training.meta_weights import (
    EPSILON,
    gradient_of,
    inner_products,
    inner_products_by_item,
    normalised,
)
from peftbench.stages.soft_losses import SoftLosses, collate_soft

CLOZE = ["method/formulation=cloze", "method.formulation.train_head=true"]
CASES = {
    "list": ["method=list"],
    "lora-head": ["method=lora", "method/formulation=head"],
    "full": ["method=full", *CLOZE],
    "dept": ["method=dept", *CLOZE],
}


def through_the_inner_step(learner, labelled, soft, rate: float) -> torch.Tensor:
    """u_i = max(0, -d L_m(theta - rate * grad sum_i w_i l_i) / d w_i) at w = 0, by autograd and nothing else."""
    own = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    batch = collate_soft(learner, soft)
    w = torch.zeros(len(soft), requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        logits = learner.formulation.logits(learner.model, batch)
        p = torch.softmax(logits, -1)
        losses = (batch[SOFT_TARGETS] * (batch[SOFT_TARGETS].log() - p.log())).sum(-1)
        inner = torch.autograd.grad((w * losses).sum(), list(own.values()), create_graph=True, allow_unused=True)
        moved = {n: q if g is None else q - rate * g for (n, q), g in zip(own.items(), inner, strict=True)}
        outer = functional_call(learner, moved, (learner.collate(labelled),)) / len(labelled)
        (found,) = torch.autograd.grad(outer, w)
    return (-found).clamp(min=0)


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c == "full" else c for c in CASES])
def test_both_ways_equal_autograd_through_the_inner_step(case: str) -> None:
    learner, labelled, soft = tiny(*CASES[case])
    losses, batch = SoftLosses(learner), collate_soft(learner, soft)
    direction = gradient_of(learner(learner.collate(labelled[:4])) / 4, losses)
    assert all(p.grad is None for p in learner.parameters())
    truth = through_the_inner_step(learner, labelled[:4], soft, rate=0.5)
    assert (truth > 0).any()
    assert (truth == 0).any() or case == "full", "the case must have harmful items too"
    for way in (inner_products, inner_products_by_item):
        products = way(losses, batch, direction)
        torch.testing.assert_close(0.5 * products.clamp(min=0), truth, rtol=1e-3, atol=1e-5 * float(truth.max()))
        weights = normalised(products, "paper", 1.0)
        torch.testing.assert_close(weights, truth / truth.sum(), rtol=1e-3, atol=1e-5)


def test_weights_are_shares() -> None:
    products = torch.tensor([3.0, -2.0, 1.0, 0.0])
    assert normalised(products, "paper", 5e-6).tolist() == [0.75, 0.0, 0.25, 0.0]
    assert normalised(1e-9 * products, "paper", 5e-6).tolist() == pytest.approx([0.75, 0.0, 0.25, 0.0])
    for variant in ("paper", "released"):
        assert normalised(-products.abs(), variant, 5e-6).tolist() == [0.0, 0.0, 0.0, 0.0]


def test_the_released_epsilon_takes_weight_away_where_gradients_are_small() -> None:
    large, small = torch.tensor([300.0, 100.0]), torch.tensor([0.03, 0.01])
    assert normalised(large, "released", 5e-6).sum() == pytest.approx(400 * 5e-6 / (400 * 5e-6 + EPSILON))
    assert normalised(small, "released", 5e-6).sum() == pytest.approx(0.04 * 5e-6 / (0.04 * 5e-6 + 1e-6), rel=1e-5)
    assert normalised(small, "released", 5e-6).sum() < 0.2


def test_soft_losses_are_the_divergence_and_the_cross_entropy_of_a_sure_target() -> None:
    torch.manual_seed(3)
    logits, targets = torch.randn(5, 4), torch.softmax(torch.randn(5, 4), -1)
    by_hand = [
        sum(q * (torch.log(q) - torch.log(p)) for q, p in zip(qs, torch.softmax(zs, -1), strict=True))
        for qs, zs in zip(targets, logits, strict=True)
    ]
    torch.testing.assert_close(soft_losses(logits, targets), torch.stack(by_hand))
    classes = torch.tensor([0, 3, 1, 1, 2])
    sure = torch.nn.functional.one_hot(classes, 4).float()
    expected = torch.nn.functional.cross_entropy(logits, classes, reduction="none")
    torch.testing.assert_close(soft_losses(logits, sure), expected)
    torch.testing.assert_close(soft_losses(targets.log(), targets), torch.zeros(5), atol=1e-6, rtol=0)


def test_flipped_labels_weigh_less_than_clean_ones() -> None:
    """On a tiny model after some training: half of the pseudo labels of each batch are wrong; over many batches these
    have the smaller mean weight."""
    cfg = compose(["model=tiny-bert", "task=demo_news", "shots=20", "trainer.max_length=24", "method=list"])
    data, drawn, _ = InputCache().load(cfg)
    learner, _ = build_learner(cfg, data, PhaseClock(), drawn.train)
    items = learner.encode(drawn.train)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    labelled, pool = [items[i] for i in order[:40]], [items[i] for i in order[40:]]
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=2e-3)
    learner.train()
    for step in range(60):
        batch = learner.collate([labelled[(8 * step + i) % 40] for i in range(8)])
        optimizer.zero_grad()
        learner(batch).backward()
        optimizer.step()
    learner.eval()
    losses, classes = SoftLosses(learner), len(data.labels)
    clean, flipped = [], []
    for start in range(0, len(pool) - 9, 10):
        own = pool[start : start + 10]
        gold = torch.tensor([item.data["target"] for item in own])
        told = torch.where(torch.arange(10) % 2 == 0, gold, (gold + 1 + start // 10 % (classes - 1)) % classes)
        targets = torch.nn.functional.one_hot(told, classes).float()
        soft = [with_soft_target(item, target) for item, target in zip(own, targets, strict=True)]
        direction = gradient_of(learner(learner.collate(labelled[:8])), losses)
        weights = normalised(inner_products(losses, collate_soft(learner, soft), direction), "paper", 1.0)
        clean.append(weights[0::2])
        flipped.append(weights[1::2])
    assert len(clean) >= 8
    assert torch.cat(flipped).mean() < torch.cat(clean).mean()
