"""Half-reset against full fine-tuning and a few lines of torch."""

from __future__ import annotations

import pytest
import torch
from test_hft import train
from tiny_models import tiny_backbone

from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.full import FullOptions
from peftbench.tuners.half_reset import HalfResetOptions
from peftbench.tuners.hft import HftOptions
from peftbench.tuners.hft.tuner import draw_frozen

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("to", ["round", "pretrained"])
def test_after_each_of_two_rounds_half_is_what_it_was_and_half_what_full_fine_tuning_made(kind: str, to: str) -> None:
    tuner = build_tuner(HalfResetOptions(name="half_reset", to=to))
    model = tuner.build(tiny_backbone(kind), CONTEXT).eval()
    full = build_tuner(FullOptions(name="full"))
    peer = full.build(tiny_backbone(kind), CONTEXT).eval()
    pretrained, masks = weights(peer), []
    for number in range(2):
        if number:
            tuner.on_round(model, number)
        start = weights(peer) if to == "round" else pretrained
        tuner.before_training(model, [])
        train(model, tuner.param_groups(model), kind)
        tuner.after_training(model)
        train(peer, full.param_groups(peer), kind)
        drawn = draw_frozen(peer, HftOptions(name="hft"), 3, number)
        masks.append(drawn)
        with torch.no_grad():
            for name, p in peer.named_parameters():
                if name.rpartition(".")[0] in drawn:
                    p.copy_(start[name])
        found = weights(model)
        assert found.keys() == pretrained.keys()
        assert all(torch.equal(found[name], p) for name, p in peer.named_parameters())
        assert any(torch.equal(found[n], pretrained[n]) for n in found)
        assert masks[0]
    assert masks[0] != masks[1]


@pytest.mark.parametrize(("ratio", "changed"), [(0.0, True), (1.0, False)])
def test_ratio_0_is_full_fine_tuning_and_ratio_1_leaves_the_blocks_as_they_were(ratio: float, changed: bool) -> None:
    tuner = build_tuner(HalfResetOptions(name="half_reset", reset_ratio=ratio))
    model = tuner.build(tiny_backbone("bert"), CONTEXT).eval()
    before = weights(model)
    tuner.before_training(model, [])
    train(model, tuner.param_groups(model), "bert")
    tuner.after_training(model)
    inside = {n for n in before if ".layer." in n}
    assert inside
    assert all(torch.equal(before[n], p) != changed for n, p in model.named_parameters() if n in inside)
