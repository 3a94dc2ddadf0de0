"""Child-Tuning against the released optimiser's lines, and what D and F leave untouched."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny_models import tiny_backbone
from torch import nn
from torch.distributions import Bernoulli

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.child_tuning.network import fisher_masks, hash_of
from peftbench.tuners.child_tuning.tuner import ChildTuningTuner

CONTEXT = TunerContext(max_length=24, label_words=("sport",), seed=1)


def made(*overrides: str) -> tuple[ChildTuningTuner, nn.Module]:
    cfg = compose(["method=child_tuning", *overrides]).method
    tuner = build_tuner(cfg.tuner)
    return tuner, tuner.build(tiny_backbone("bert"), CONTEXT)


def some_gradients(model: nn.Module, batches: int = 3) -> Iterator[int]:
    torch.manual_seed(0)
    for _ in range(batches):
        for p in model.parameters():
            p.grad = torch.randn_like(p) * (1 + p.detach().abs())
        yield batches


def test_the_task_driven_mask_is_the_released_ones() -> None:
    """`calculate_fisher` of the released code, written out: per-tensor clipping, mean of squares, one percentile."""
    tuner, model = made("method.tuner.reserve=0.2")
    tuner.before_training(model, some_gradients(model))
    named = {name: p for name, p in model.named_parameters() if "layer" in name.split(".")}
    fisher = {name: torch.zeros_like(p) for name, p in named.items()}
    for count in some_gradients(model):
        for name, p in named.items():
            nn.utils.clip_grad_norm_(p, 1.0)
            fisher[name] += p.grad**2 / count
    polar = np.percentile(np.concatenate([f.flatten().numpy() for f in fisher.values()]), 80)
    assert tuner.masks.keys() == named.keys()
    assert all(torch.equal(tuner.masks[name].bool(), fisher[name] >= polar) for name in named)
    (note,) = tuner.notes
    kept = sum(int(mask.sum()) for mask in tuner.masks.values())
    assert note.startswith(f"child network: {kept:,} of the blocks'")
    assert kept / sum(mask.numel() for mask in tuner.masks.values()) == pytest.approx(0.2, abs=0.01)


def test_d_masks_the_blocks_and_leaves_the_embeddings_alone() -> None:
    tuner, model = made()
    tuner.before_training(model, some_gradients(model))
    next(some_gradients(model))
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    tuner.before_step(model, 0, 1)
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, before[name] * tuner.masks.get(name, torch.ones(1)))
    assert torch.equal(model.embeddings.word_embeddings.weight.grad, before["embeddings.word_embeddings.weight"])


def test_f_is_bernoulli_over_the_reserve_another_one_in_each_step() -> None:
    tuner, model = made("method.tuner.variant=F", "method.tuner.reserve=0.3")
    tuner.before_training(model, iter(()))
    kept = []
    for step in (0, 1, 1):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        tuner.before_step(model, step, 2)
        kept.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert kept[-1].unique().tolist() == pytest.approx([0.0, 1 / 0.3])
    assert torch.equal(kept[1], kept[2])
    assert not torch.equal(kept[0], kept[1])
    share = Bernoulli(torch.full((len(kept[0]),), 0.3)).mean.mean()
    assert float((kept[0] > 0).float().mean()) == pytest.approx(float(share), abs=0.02)
    assert hash_of(1, 0) != hash_of(0, 1)


def test_without_a_gradient_there_is_no_child_network() -> None:
    p = {"w": nn.Parameter(torch.ones(3))}
    p["w"].grad = torch.zeros(3)
    with pytest.raises(UsageError, match="head_init_scale=1"):
        fisher_masks(p, iter([1]), 0.3)
