"""FLOPs and saved bytes of a step, against counts made by hand."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel

from peftbench.measure.probe import probe_step


def held(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def test_a_linear_layer_by_hand() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(16, 8)
    probe = probe_step(lambda: layer(x).sum(), held(layer))
    product = 2 * 16 * 8 * 4
    assert probe.step_flops == 2 * product  # forward, gradient of the weight; x needs none
    assert probe.saved_bytes == 16 * 8 * 4  # x


def test_a_frozen_layer_below_costs_no_backward() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    x = torch.randn(16, 8)
    full = probe_step(lambda: model(x).sum(), held(model))
    model[0].requires_grad_(False)
    frozen = probe_step(lambda: model(x).sum(), held(model))
    assert full.step_flops - frozen.step_flops == 2 * 16 * 8 * 8 + 2 * 16 * 8 * 4
    assert full.saved_bytes - frozen.saved_bytes == 16 * 8 * 4


def test_each_storage_counts_once_and_parameters_not_at_all() -> None:
    weight = nn.Parameter(torch.randn(32))

    def forward() -> Tensor:
        y = weight.exp()  # saves its result
        return (y.view(4, 8) * y.view(4, 8)).sum() + (y * weight).sum()  # saves views of y, y and weight

    assert probe_step(forward, [weight]).saved_bytes == 32 * 4
    assert probe_step(forward, []).saved_bytes == 2 * 32 * 4


def test_what_is_dropped_before_backward_is_not_counted() -> None:
    weight = nn.Parameter(torch.randn(1000))

    def forward() -> Tensor:
        weight.exp().sum()  # a graph that nobody keeps
        return weight.sum()

    assert probe_step(forward, [weight]).saved_bytes == 0


def test_checkpointing_trades_bytes_for_flops() -> None:
    model, x = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8)), torch.randn(16, 8, requires_grad=True)
    plain = probe_step(lambda: model(x).sum(), held(model))
    # recomputed in backward, all but what the very last operation would have kept
    again = probe_step(lambda: checkpoint(model, x, use_reentrant=False).sum(), held(model))
    assert again.saved_bytes < plain.saved_bytes / 2
    assert again.step_flops > plain.step_flops


def test_gradients_and_random_state_are_as_before() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(16, 8)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    probe_step(lambda: functional.dropout(layer(x), 0.5).sum(), held(layer))
    assert torch.equal(torch.rand(3), expected)
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("heads", [4, 2])
def test_attention_on_the_cpu_by_hand(heads: int) -> None:
    """Two products forward; backward four and the recomputed scores. Grouped heads are counted as computed."""
    query = torch.randn(2, 4, 8, 16, requires_grad=True)
    key = torch.randn(2, heads, 8, 16, requires_grad=True)
    value = torch.randn(2, heads, 8, 16, requires_grad=True)

    def forward() -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, enable_gqa=heads != 4).sum()

    product = 2 * 2 * 4 * 8 * 8 * 16
    assert probe_step(forward).step_flops == 7 * product


def tiny_bert(attention: str, dropout: float) -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertModel(BertConfig(vocab_size=100, attn_implementation=attention, **sizes, **drop)).train()


@pytest.mark.parametrize("bf16", [False, True])
def test_attention_is_counted_in_a_model(bf16: bool) -> None:
    """Fused attention counts what the plain one does, and the scores that its backward pass computes again."""
    batch, length, ids = 4, 32, torch.randint(5, 100, (4, 32))

    def flops(attention: str, dropout: float) -> float:
        model = tiny_bert(attention, dropout)

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return model(input_ids=ids).last_hidden_state.float().sum()

        return probe_step(forward, held(model)).step_flops

    eager = flops("eager", 0.0)
    scores_again = 2 * (2 * batch * length * length * 64)  # two layers
    assert flops("sdpa", 0.0) == eager + scores_again
    assert flops("sdpa", 0.1) == eager  # with dropout the CPU has no fused kernel


class Dropping(nn.Module):
    """Computes something that reaches no loss, as DoRA does its norms."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.dropped = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.dropped(torch.eye(4)).exp().norm().detach()
        return self.kept(x).exp().sum() * scale


def test_what_the_network_drops_is_not_saved_whenever_garbage_is_collected():
    net, x = Dropping(), torch.ones(3, 4)
    gc.disable()
    try:
        found = {probe_step(lambda: net(x), net.parameters()).saved_bytes for _ in range(3)}
    finally:
        gc.enable()
    x_, exp, scale = 3 * 4 * 4, 3 * 4 * 4, 4
    assert found == {x_ + exp + scale}
