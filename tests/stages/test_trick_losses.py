"""Tricks on loss and steps against a few lines of plain torch, on a tiny random BERT."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_soft import tiny
from torch import Tensor, nn

from peftbench.config.schema import packaged_values
from peftbench.errors import UsageError
from peftbench.formulations.soft_targets import SOFT_TARGETS
from peftbench.learner import Learner
from peftbench.stages.soft_losses import divergences
from peftbench.stages.tricks.adversarial import AdversarialOptions, perturbation
from peftbench.stages.tricks.child_tuning import ChildOptions
from peftbench.stages.tricks.child_tuning.masking import Masking
from peftbench.stages.tricks.ema import EmaOptions
from peftbench.stages.tricks.ema.average import Average
from peftbench.stages.tricks.label_smoothing import LabelSmoothingOptions, smoothed
from peftbench.stages.tricks.passes import WEIGHTS, Passes
from peftbench.stages.tricks.r_drop import RDropOptions
from peftbench.stages.tricks.r_drop.two_passes import NeedsDropout, r_drop
from peftbench.stages.tricks.training import Training

WIDTH, ZERO = 64, torch.zeros(())
"""Of tiny-bert's word embeddings."""


def batch_of(learner: Learner, items: Any) -> dict[str, Any]:
    return {**learner.collate(items), WEIGHTS: torch.tensor([1.0] * len(items))}


def options(form: str = "sift", **changes: Any) -> AdversarialOptions:
    file = "adversarial" if form == "sift" else form
    return AdversarialOptions(**{**packaged_values(f"method/trick/{file}", "adversarial"), **changes})


def by_hand(learner: Learner, batch: dict[str, Any], change: Any) -> Tensor:
    """Logits of the head on mean-pooled states, from word embeddings put in by hand."""
    words = learner.backbone.model.get_input_embeddings()(batch["input_ids"])
    rest = {name: batch[name] for name in ("attention_mask", "token_type_ids") if name in batch}
    states = learner.model(inputs_embeds=change(words), **rest).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    pooled = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1) * states.shape[-1] ** 0.5
    return learner.formulation.classifier(pooled)


def gradients(learner: Learner, loss: Tensor) -> dict[str, Tensor]:
    learner.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def made() -> tuple[Learner, list[Any]]:
    learner, labelled, _ = tiny("method=lora")
    short = {name: own[:10] if isinstance(own, list) else own for name, own in labelled[0].data.items()}
    return learner.train(), [replace(labelled[0], length=10, data=short), *labelled[1:4]]


def test_sift_is_the_released_loss(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PerturbationLayer` and `symmetric_kl` of microsoft/DeBERTa written out, in units of the embeddings' spread."""
    learner, items = made
    batch = batch_of(learner, items)
    start = torch.randn(*batch["input_ids"].shape, WIDTH, generator=torch.Generator().manual_seed(1)).clamp(-1, 1) / 2
    monkeypatch.setattr(perturbation, "normal_start", lambda passes, width: start)
    own = options(step=0.2, epsilon=None, alpha=0.7)
    passes = Passes(learner, batch)
    found = gradients(learner, perturbation.sift(passes, own, passes.loss))

    def spread(words: Tensor) -> Tensor:
        return words.detach().var(-1, correction=0, keepdim=True).sqrt()

    def symmetric(stu: Tensor, tea: Tensor) -> Tensor:
        log_s, log_t = stu.log_softmax(-1), tea.log_softmax(-1)
        return (log_t.exp().detach() * -log_s).sum(-1) + (log_s.exp().detach() * -log_t).sum(-1)

    clean = by_hand(learner, batch, lambda e: e)
    delta = (start * batch["attention_mask"].unsqueeze(-1)).requires_grad_()
    apart = symmetric(by_hand(learner, batch, lambda e: e + spread(e) * delta), clean.detach())
    # the slope is that of KL(p || p_adv); the released symmetric one has the same, as its other half is constant there
    forward = F.kl_div(
        by_hand(learner, batch, lambda e: e + spread(e) * delta).log_softmax(-1),
        clean.detach().softmax(-1),
        reduction="none",
    )
    (slope,) = torch.autograd.grad(forward.sum(), delta)
    (released,) = torch.autograd.grad(apart.sum(), delta)
    torch.testing.assert_close(slope, released)
    moved = delta.detach() + 0.2 * slope / (1e-6 + slope.abs().max(-1, keepdim=True)[0])
    after = by_hand(learner, batch, lambda e: e + spread(e) * moved)
    loss = F.cross_entropy(clean, batch["targets"], reduction="sum") + 0.7 * symmetric(after, clean).sum()
    assert_same(found, gradients(learner, loss))


def test_units_of_spread_are_a_layer_norm_in_front_of_the_perturbation() -> None:
    """What stands behind is a layer norm: LN(e + std(e) delta) = LN(LN(e) + delta), the released code's."""
    norm = nn.LayerNorm(32, eps=0.0, elementwise_affine=False)
    words, delta = 3 + 2 * torch.randn(2, 5, 32), 0.1 * torch.randn(2, 5, 32)
    torch.testing.assert_close(norm(perturbation.scaled(delta)(words)), norm(norm(words) + delta), rtol=1e-4, atol=1e-5)


def test_freelb_is_the_released_loop(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """K times forward and backward with loss / K, delta moved by its gradient's norm and put back into the ball."""
    learner, items = made
    batch = batch_of(learner, items)
    mask = batch["attention_mask"].unsqueeze(-1)
    start = mask * torch.randn(*batch["input_ids"].shape, WIDTH, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(perturbation, "uniform_start", lambda passes, length: start)
    passes = Passes(learner, batch)
    value = perturbation.freelb(passes, options("freelb", step=5.0, epsilon=6.0))
    found = gradients(learner, value)
    learner.zero_grad()
    delta, total = start, 0.0
    for step in range(3):
        delta = delta.detach().requires_grad_()
        loss = F.cross_entropy(by_hand(learner, batch, lambda e, d=delta: e + d), batch["targets"], reduction="sum") / 3
        loss.backward()
        total += float(loss.detach())
        if step == 2:
            break
        slope = delta.grad
        delta = delta.detach() + 5.0 * slope / slope.view(4, -1).norm(dim=1).clamp(min=1e-8).view(-1, 1, 1)
        length = delta.view(4, -1).norm(dim=1)
        delta = delta * torch.where(length > 6.0, 6.0 / length, torch.ones(())).view(-1, 1, 1)
    assert float(value.detach()) == pytest.approx(total, rel=1e-5)
    assert_same(found, {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None})


def test_perturbations_stay_where_they_may_be(made: Any) -> None:
    learner, items = made
    passes = Passes(learner, batch_of(learner, items))
    padding = passes.mask.squeeze(-1) == 0
    assert padding.any()
    start = perturbation.uniform_start(passes, 0.3)
    tokens = passes.mask.sum((1, 2))
    assert (start.abs().amax((1, 2)) <= 0.3 / (tokens * WIDTH).sqrt()).all()
    assert not start[padding].any()
    assert perturbation.normal_start(passes, 0.1).abs().max() <= 0.2
    far = torch.full((2, 3, 4), 7.0)
    assert float(perturbation.in_box(far, 0.5).max()) == 0.5
    assert perturbation.in_ball(far, 2.0).flatten(1).norm(dim=1).tolist() == pytest.approx([2.0, 2.0])
    assert torch.equal(perturbation.in_ball(far, None), far)


def test_the_ascent_moves_the_answer_more_and_without_a_perturbation_nothing_is_added(made: Any) -> None:
    learner, items = made
    batch = batch_of(learner, items)

    def added(**changes: Any) -> float:
        torch.manual_seed(3)
        passes = Passes(learner, batch)
        return float(perturbation.sift(passes, options(noise=0.05, epsilon=None, **changes), lambda: ZERO).detach())

    assert added(step=0.1) > added(step=0.0) > 0
    assert added(step=0.1, steps=3) > added(step=0.1)
    passes = Passes(learner, batch)
    still = perturbation.sift(passes, options(noise=0.0, step=0.0), passes.loss)
    assert torch.equal(still, learner(batch))


def test_all_passes_but_one_drop_out_the_same() -> None:
    learner, labelled, _ = tiny("method=lora", "trainer.dropout=0.3")
    learner.train()
    batch = batch_of(learner, labelled[:4])
    torch.manual_seed(4)
    plain = learner(batch)
    torch.manual_seed(4)
    passes = Passes(learner, batch)
    noise = torch.rand(2)
    assert torch.equal(passes.loss(), plain)
    assert torch.equal(passes.logits(lambda words: words), passes.logits())
    assert not torch.equal(passes.another_logits(), passes.logits())
    assert not torch.equal(noise, torch.rand(2))


def test_r_drop_is_the_papers_equation() -> None:
    learner, labelled, _ = tiny("method=lora", "trainer.dropout=0.3")
    learner.train()
    batch = batch_of(learner, labelled[:4])
    torch.manual_seed(5)
    passes = Passes(learner, batch)
    found = r_drop(passes, RDropOptions(name="r_drop", alpha=0.8), passes.loss)
    torch.manual_seed(5)
    passes = Passes(learner, batch)
    p, q = passes.logits().log_softmax(-1), passes.another_logits().log_softmax(-1)
    nll = F.nll_loss(p, batch["targets"], reduction="sum") + F.nll_loss(q, batch["targets"], reduction="sum")
    both = F.kl_div(p, q, log_target=True, reduction="sum") + F.kl_div(q, p, log_target=True, reduction="sum")
    torch.testing.assert_close(found, nll + 0.8 * both / 2)
    NeedsDropout(learner, RDropOptions(name="r_drop", alpha=1.0), 1)
    with pytest.raises(UsageError, match=r"trainer\.dropout=0\.1"):
        NeedsDropout(tiny("method=lora")[0], RDropOptions(name="r_drop", alpha=1.0), 1)


def test_a_regression_compares_by_squares() -> None:
    p, q = torch.randn(5, 1), torch.randn(5, 1)
    torch.testing.assert_close(divergences(p, q), (p - q)[:, 0] ** 2)


def test_smoothed_targets_are_torchs(made: Any) -> None:
    learner, items = made
    labels = learner.formulation.task.labels
    stage = SimpleNamespace(context=SimpleNamespace(data=SimpleNamespace(labels=labels)))
    stage.classes_of = lambda rows: Training.classes_of(stage, rows)
    soft = smoothed(stage, items, LabelSmoothingOptions(name="label_smoothing", share=0.2))
    batch = batch_of(learner, items)
    batch[SOFT_TARGETS] = torch.stack([item.data[SOFT_TARGETS] for item in soft])
    logits = learner.formulation.logits(learner.model, batch)
    wanted = F.cross_entropy(logits, batch["targets"], label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(Passes(learner, batch).loss(), wanted)


def test_the_mean_is_torchs() -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    ours = Average(model, EmaOptions(name="ema", decay=0.8), 1)  # type: ignore[arg-type]
    for step in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        if step == 3:
            kept = ours.state()
            ours = Average(model, EmaOptions(name="ema", decay=0.8), 1)  # type: ignore[arg-type]
            ours.load_state(kept)
        ours.after_step(step, 5)
        theirs.update_parameters(model)
    for name, mean in theirs.module.named_parameters():
        torch.testing.assert_close(ours.kept({})[name], mean.detach())


def test_masks_over_adapters_leave_the_head_alone(made: Any) -> None:
    learner, items = made
    for variant in "FD":
        hook = Masking(learner, ChildOptions(name="child_tuning", variant=variant, reserve=0.4), 1)
        learner.zero_grad()
        learner(batch_of(learner, items)).backward()
        before = {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}
        hook.before_training([1])
        hook.before_step(0, 1)
        for name, p in learner.named_parameters():
            if p.grad is not None and "lora" not in name:
                assert torch.equal(p.grad, before[name])
        masked = torch.cat(
            [p.grad.flatten() for n, p in learner.named_parameters() if "lora_" in n and p.requires_grad]
        )
        assert float((masked != 0).float().mean()) == pytest.approx(0.4, abs=0.05)
    with pytest.raises(UsageError, match="variant=F"):
        Masking(tiny("method=prompt_tuning")[0], ChildOptions(name="child_tuning", variant="D", reserve=0.4), 1)
