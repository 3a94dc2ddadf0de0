"""What EPT (our reading) must show."""

from __future__ import annotations

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_configs import compose
from tiers import rest_slow
from tiny_models import D, make_batch, read_out, real_positions, tiny_backbone
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.ept import EptOptions
from peftbench.tuners.ept.tuner import EptConfig, export_static, factors, gate_weights
from peftbench.tuners.prompt_tuning import PromptTuningOptions
from peftbench.tuners.soft_prompt_model import adapter_of

KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
S = 24
SWITCHES = [
    {},
    {"offset_init": "svd"},
    {"fusion_proj": "linear", "fusion_hidden": 5},
    {"gate": "per_token"},
    {"fusion": False},
    {"spaces": 0},
    {"fusion": False, "spaces": 0},
]


def build(kind: str, seed: int = 3, **changes: object):
    values = {"name": "ept", "num_virtual_tokens": 5, "rank": 3, "spaces": 4, "bottleneck": 2, "init": "vocab"}
    tuner = build_tuner(EptOptions(**{**values, **changes}))
    context = TunerContext(max_length=S, label_words=("sport", "health"), seed=seed)
    return tuner, tuner.build(tiny_backbone(kind), context).eval()


def of(settings_: object, kind: str) -> nn.Module:
    return build_tuner(settings_).build(tiny_backbone(kind), TunerContext(S, (), 3)).eval()


def loss_of(model: nn.Module, kind: str) -> torch.Tensor:
    """Of every second unit only: the mean square of all units is fixed by the last layer normalisation."""
    return read_out(model(**make_batch(kind)))[..., ::2].float().square().mean()


def train(model: nn.Module, kind: str, steps: int = 4, rate: float = 0.05) -> None:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(model, kind).backward()
        optimiser.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", SWITCHES)
def test_step_0_equals_prompt_tuning(kind: str, changes: dict[str, object]) -> None:
    _, model = build(kind, **changes)
    reference = of(PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=5, init="vocab"), kind)
    batch = make_batch(kind)
    assert torch.equal(adapter_of(model)[1]["P"], adapter_of(reference)[1]["P"])
    ours, theirs = read_out(model(**batch)), read_out(reference(**batch))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_with_everything_off_it_trains_as_dept_bit_for_bit(kind: str) -> None:
    _, model = build(kind, fusion=False, spaces=0)
    reference = of(DeptOptions(name="dept", num_virtual_tokens=5, rank=3, init="vocab"), kind)
    for m in (model, reference):
        train(m, kind)
    assert torch.equal(read_out(model(**make_batch(kind))), read_out(reference(**make_batch(kind))))


def test_with_rank_0_too_it_is_prompt_tuning() -> None:
    _, model = build("bert", spaces=0, rank=0)
    reference = of(PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=5, init="vocab"), "bert")
    for m in (model, reference):
        train(m, "bert")
    assert torch.equal(read_out(model(**make_batch("bert"))), read_out(reference(**make_batch("bert"))))


@given(m=st.integers(1, 6), k=st.integers(1, 5), kind=st.sampled_from(["prompt_mean", "per_token"]))
@settings(max_examples=20, deadline=None)
def test_gate_weights_sum_to_1_and_start_equal(m: int, k: int, kind: str) -> None:
    short = torch.randn(m, D)
    weights = gate_weights(short, torch.randn(D, k), kind)
    assert weights.shape == (k, m)
    torch.testing.assert_close(weights.sum(0), torch.ones(m))
    torch.testing.assert_close(gate_weights(short, torch.zeros(D, k), kind), torch.full((k, m), 1 / k))
    if kind == "prompt_mean":
        torch.testing.assert_close(weights, weights[:, :1].expand(k, m))


@pytest.mark.parametrize("kind", rest_slow(KINDS, ["t5"]))
@pytest.mark.parametrize("changes", SWITCHES)
def test_the_static_export_is_an_equal_dept_adapter(kind: str, changes: dict[str, object], tmp_path) -> None:
    _, model = build(kind, **changes)
    before = read_out(model(**make_batch(kind)))
    train(model, kind)
    export_static(model, tmp_path)
    static = peft.PeftModel.from_pretrained(tiny_backbone(kind).model, tmp_path).eval()
    assert type(static.base_model).__name__ == "SoftPromptModel"
    for width in (9, 15):
        batch = make_batch(kind, width=width)
        torch.testing.assert_close(read_out(static(**batch)), read_out(model(**batch)), atol=2e-5, rtol=1e-5)
    assert not torch.allclose(read_out(model(**make_batch(kind))), before, atol=1e-3)


def gradients(model: nn.Module, kind: str = "bert") -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model, kind).backward()
    return {name: t.grad.clone() for name, t in adapter_of(model)[1].items() if t.grad is not None}


def test_gradients_reach_p_by_three_paths_and_a_and_b_by_two() -> None:
    _, model = build("bert")
    start = gradients(model)
    assert start["B"].abs().max() > 0
    assert start["ept_up"].abs().max() > 0
    assert start["A"].abs().max() == start["ept_down"].abs().max() == start["ept_gate"].abs().max() == 0
    train(model, "bert")
    assert all(g.abs().max() > 0 for g in gradients(model).values())
    both = gradients(model)
    config, _ = adapter_of(model)
    config.fusion = False
    without_fusion = gradients(model)
    config.spaces = 0
    identity_only = gradients(model)
    assert not torch.allclose(both["P"], without_fusion["P"], atol=1e-7)
    assert not torch.allclose(without_fusion["P"], identity_only["P"], atol=1e-7)
    assert not torch.allclose(both["B"], without_fusion["B"], atol=1e-7)


def test_without_fusion_a_and_b_get_depts_gradient() -> None:
    _, model = build("bert", fusion=False)
    reference = of(DeptOptions(name="dept", num_virtual_tokens=5, rank=3, init="vocab"), "bert")
    assert torch.equal(gradients(model)["B"], gradients(reference)["B"])


def test_fusion_gives_gradient_to_rows_of_a_that_no_text_reaches() -> None:
    for fusion in (True, False):
        _, model = build("bert", fusion=fusion, spaces=0)
        train(model, "bert")
        unreached = gradients(model)["A"][9:]  # the longest text has 9 tokens
        assert bool(unreached.abs().max() > 0) is fusion


def test_the_svd_start_is_the_best_low_rank_matrix() -> None:
    matrix = torch.randn(20, 8)
    a, b = factors(matrix, 3)
    assert (a.shape, b.shape) == ((20, 3), (3, 8))
    left_over = torch.linalg.svdvals(matrix)[3:].square().sum()
    torch.testing.assert_close((matrix - a @ b).square().sum(), left_over)


@pytest.mark.parametrize("kind", rest_slow(["bert", "t5", "llama"], ["bert"]))
@pytest.mark.parametrize("changes", SWITCHES)
def test_counts_groups_and_files(kind: str, changes: dict[str, object], tmp_path) -> None:
    tuner, model = build(kind, **changes)
    groups = tuner.param_groups(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    expected = tuner.expected_parameters(tiny_backbone(kind), TunerContext(S, (), 3))
    assert sum(p.numel() for p in trainable) == expected
    assert sorted(id(p) for ps in groups.values() for p in ps) == sorted(map(id, trainable))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    train(model, kind)
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())
    tuner.save(model, tmp_path)
    fresh_tuner, fresh = build(kind, seed=4, **changes)
    fresh_tuner.load(fresh, tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_backbone(kind).model, tmp_path, is_trainable=True).eval()
    batch = make_batch(kind)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    assert torch.equal(read_out(again(**batch)), read_out(model(**batch)))


def test_the_count_of_the_specification() -> None:
    backbone = tiny_backbone("bert")
    backbone.hidden_size = backbone.embedding_size = 768
    cfg = EptOptions(name="ept", num_virtual_tokens=40, rank=15, spaces=4, bottleneck=8)
    context = TunerContext(256, (), 0)
    assert build_tuner(cfg).expected_parameters(backbone, context) == 98_304
    cfg.bottleneck = 4
    assert build_tuner(cfg).expected_parameters(backbone, context) == 73_728


def test_the_defaults_have_the_size_of_20_tokens_on_minilm() -> None:
    backbone = tiny_backbone("bert")
    backbone.hidden_size = backbone.embedding_size = 384
    tuner = build_tuner(compose(["method=ept"]).method.tuner)
    assert tuner.expected_parameters(backbone, TunerContext(128, (), 0)) == 20 * 384


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    tuner, model = build(kind)
    train(model, kind)
    outs = []
    for width in (9, S):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], tuner.virtual_tokens))
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_generation_and_switching_off(kind: str) -> None:
    _, model = build(kind)
    train(model, kind)
    batch = {k: v for k, v in make_batch(kind).items() if k != "decoder_input_ids"}
    outs = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert outs.shape[1] == (5 if kind == "t5" else 9 + 4)
    with model.disable_adapter():
        base = read_out(tiny_backbone(kind).model(**make_batch(kind)))
        torch.testing.assert_close(read_out(model(**make_batch(kind))), base, atol=1e-6, rtol=0)


def test_a_bf16_base_keeps_fp32_adapters_that_learn() -> None:
    backbone = tiny_backbone("bert")
    backbone.model.to(torch.bfloat16)
    cfg = EptOptions(name="ept", num_virtual_tokens=5, rank=3, init="vocab")
    model = build_tuner(cfg).build(backbone, TunerContext(S, (), 3)).eval()
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    before = adapter_of(model)[1]["P"].clone()
    train(model, "bert")
    assert (adapter_of(model)[1]["P"] - before).abs().max() > 0


def test_bad_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="position offsets"):
        EptConfig(task_type="CAUSAL_LM", num_virtual_tokens=0, rank=3)
    with pytest.raises(ValueError, match="gate=mean"):
        EptConfig(task_type="CAUSAL_LM", gate="mean")


def test_a_step_takes_fewer_flops_than_prompt_tuning_of_100_tokens() -> None:
    flops = {}
    prompt = of(PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=100, init="vocab"), "t5")
    for name, model in (("ept", build("t5")[1]), ("prompt", prompt)):
        with FlopCounterMode(display=False) as counter:
            read_out(model(**make_batch("t5", (S, S)))).square().mean().backward()
        flops[name] = counter.get_total_flops()
    assert flops["ept"] < 0.8 * flops["prompt"]


def test_an_answer_may_stand_behind_a_text_of_full_length() -> None:
    """In teacher forcing prompt and answer together are longer than s; the answer takes no offset."""
    for settings_ in ({}, {"fusion": False, "spaces": 0}):
        _, model = build("llama", **settings_)
        train(model, "llama")
        batch = make_batch("llama", (S + 2, 10))
        labels = torch.full_like(batch["input_ids"], -100)
        labels[0, -2:] = batch["input_ids"][0, -2:]
        labels[1, -1:] = batch["input_ids"][1, -1:]  # starts beyond s, its text has 9 tokens
        together = model(**batch, labels=labels).logits[1, -1]
        told = model(**batch, answer_starts=torch.tensor([[S], [S + 1]]))
        assert torch.equal(told.logits[1, -1], together)
        assert told.loss is None
        with model.disable_adapter():
            model(**batch, answer_starts=torch.tensor([[S], [S + 1]]))
        alone = {k: v[1:, -10:] for k, v in batch.items()}
        torch.testing.assert_close(together, model(**alone, labels=labels[1:, -10:]).logits[0, -1], atol=1e-5, rtol=0)
        labels[0, -2] = -100  # now the text has s + 1 tokens
        with pytest.raises(ValueError, match=f"input of {S + 1} tokens"):
            model(**batch, labels=labels)
