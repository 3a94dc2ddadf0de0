"""What IAPT must show: the seven properties of the method, and its life inside peft."""

from __future__ import annotations

import math
from dataclasses import replace

import peft
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCAB, D, make_batch, read_out, real_positions, tiny_backbone
from torch import Tensor, nn

from peftbench.conformance.architectures import architectures
from peftbench.errors import UsageError
from peftbench.models.outline import outline
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.iapt import IaptOptions
from peftbench.tuners.iapt.tuner import (
    DENOMINATOR,
    NUMERATOR,
    IaptConfig,
    IaptLayer,
    parameter_count,
    rational,
)

ENCODERS, DECODERS = ("bert", "roberta"), ("llama", "gpt2")
KINDS = (*ENCODERS, *DECODERS)
CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)


def build(kind: str, purpose: str | None = None, attention: str = "sdpa", seed: int = 3, **changes: int):
    tuner = build_tuner(IaptOptions(**{"name": "iapt", "bottleneck": 5, **changes}))
    backbone = tiny_backbone(kind, purpose)
    backbone.model.set_attn_implementation(attention)
    model = tuner.build(backbone, TunerContext(24, (), seed)).eval()
    fill(model)
    return tuner, model


def fill(model: nn.Module) -> None:
    """Large values, so that a wrong mask or position shows."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "iapt_" in name and "ator" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def layers(model: nn.Module) -> list[IaptLayer]:
    return [m for m in model.modules() if isinstance(m, IaptLayer)]


def soft_tokens(model: nn.Module, **inputs: Tensor) -> tuple[list[Tensor], object]:
    """What each block's generator writes for these inputs, and the output."""
    written: list[Tensor] = []
    originals = [(layer, layer.soft_tokens) for layer in layers(model)]
    for layer, original in originals:
        layer.soft_tokens = lambda *a, f=original: written.append(f(*a)) or written[-1]
    out = model(**inputs)
    for layer, _ in originals:
        del layer.soft_tokens
    return written, out


def train(model: nn.Module, kind: str, steps: int = 3) -> None:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        read_out(model(**make_batch(kind)))[..., ::2].float().square().mean().backward()
        optimiser.step()


# 1. size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share_group", [1, 2])
def test_only_the_generators_train_and_their_size_is_the_formulas(kind: str, share_group: int) -> None:
    tuner, model = build(kind, share_group=share_group)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    expected = 2 // share_group * (2 * D * 5 + 5 + D) + 2 * (4 * 5 + 12)
    assert sum(p.numel() for p in trainable.values()) == expected
    assert tuner.expected_parameters(tiny_backbone(kind), CONTEXT) == expected
    groups = tuner.param_groups(model)
    assert sorted(id(p) for ps in groups.values() for p in ps) == sorted(map(id, trainable.values()))
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in trainable}
    before = {n: p.clone() for n, p in trainable.items()}
    train(model, kind)
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())
    assert not any(torch.equal(p, trainable[n]) for n, p in before.items())


def test_counts_of_the_specification() -> None:
    assert parameter_count(32, 4096, 64, 4, 1) == 16_918_912
    assert parameter_count(12, 768, 16, 4, 1) == 305_232


# 2. no soft tokens: the base model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_soft_tokens_it_is_the_base_model(kind: str, attention: str) -> None:
    _, model = build(kind, attention=attention, num_tokens=0)
    base = tiny_backbone(kind).model
    batch = make_batch(kind, (9, 9) if kind in DECODERS else (6, 9))
    ours, theirs = read_out(model(**batch)), read_out(base(**batch))
    for a, b in zip(*(real_positions(kind, o, batch["attention_mask"], 0) for o in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_switched_off_and_unloaded_the_base_model_answers(kind: str) -> None:
    _, model = build(kind)
    batch = make_batch(kind)
    base = read_out(tiny_backbone(kind).model(**batch))
    assert not torch.allclose(read_out(model(**batch)), base, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(read_out(model(**batch)), base, atol=1e-6, rtol=0)
    torch.testing.assert_close(read_out(model.unload()(**batch)), base, atol=1e-6, rtol=0)


# what the blocks compute


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_block_sees_its_soft_tokens_as_tokens_of_its_own(attention: str) -> None:
    """BERT by hand: each block is called with the rows in front and a mask that has room for them."""
    _, model = build("bert", attention=attention)
    batch = make_batch("bert")
    written, out = soft_tokens(model, **batch)
    base = tiny_backbone("bert").model
    hidden = base.embeddings(input_ids=batch["input_ids"])
    mask = F.pad(batch["attention_mask"], (4, 0), value=1)
    bias = (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    base.set_attn_implementation("eager")
    for block, rows in zip(base.encoder.layer, written, strict=True):
        hidden = block(torch.cat([rows, hidden], 1), bias)[:, 4:]
    torch.testing.assert_close(read_out(out), hidden, atol=1e-5, rtol=0)


def test_the_generator_computes_the_papers_steps() -> None:
    _, model = build("bert")
    layer = layers(model)[0]
    hidden, mask = torch.randn(1, 6, D), torch.tensor([[1, 1, 1, 1, 0, 0]]).bool()
    p = {n: getattr(layer, n)["default"] for n in layer.adapter_layer_names}
    h = hidden[0, :4] @ p["iapt_down"] + p["iapt_down_bias"]
    a = (h @ p["iapt_pool"]).softmax(0)
    z = rational(a.T @ h, p["iapt_numerator"], p["iapt_denominator"])
    torch.testing.assert_close(layer.soft_tokens(hidden, mask)[0], z @ p["iapt_up"] + p["iapt_up_bias"])


# 3. the soft tokens depend on the text and on nothing else


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_neither_soft_tokens_nor_outputs(kind: str, attention: str) -> None:
    _, model = build(kind, attention=attention)
    results = []
    for width in (9, 15):
        batch = make_batch(kind, (6, 9), width)
        written, out = soft_tokens(model, **batch)
        results.append((written, real_positions(kind, read_out(out), batch["attention_mask"], 0)))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        assert not torch.allclose(a[0], a[1], atol=1e-2)  # two texts, two prompts
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_does_not_depend_on_its_batch(kind: str) -> None:
    _, model = build(kind)
    batch = make_batch(kind, (6, 9))
    together = read_out(model(**batch))[1]
    alone = read_out(model(**{k: v[1:] for k, v in batch.items()}))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_bare_stack_of_a_causal_model_works_too(kind: str) -> None:
    _, model = build(kind, "features")
    outs = [model(**make_batch(kind, (6, 9), w)).last_hidden_state[:, -1] for w in (9, 15)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=0)


# 4. no leak


@pytest.mark.parametrize("kind", DECODERS)
def test_the_answer_does_not_reach_the_soft_tokens(kind: str) -> None:
    _, model = build(kind)
    batch = make_batch(kind)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -2:] = batch["input_ids"][:, -2:]
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, -2:] = (changed["input_ids"][:, -2:] + 7) % VOCAB
    first, out = soft_tokens(model, **batch, labels=labels)
    second, _ = soft_tokens(model, **changed, labels=labels)
    told, _ = soft_tokens(model, **changed, answer_starts=torch.full((2, 1), 7))
    assert all(torch.equal(a, b) for a, b in zip(first, told, strict=True))
    blind, _ = soft_tokens(model, **changed)
    for a, b, c in zip(first, second, blind, strict=True):
        assert torch.equal(a, b)
        assert not torch.allclose(a, c, atol=1e-3)
    # and equal to those of the prompt alone, so that training and generation agree
    prompt = {k: v[:, :-2] for k, v in batch.items()}
    alone, prompt_out = soft_tokens(model, **prompt)
    for a, b in zip(first, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for a, b in zip(
        *(
            real_positions(kind, o[:, : prompt["input_ids"].shape[1]], prompt["attention_mask"], 0)
            for o in (read_out(out), read_out(prompt_out))
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


# 5. and 7. generation with a cache


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}])
def test_cached_generation_equals_uncached_and_ignores_padding(kind: str, attention: str, how: dict) -> None:
    _, model = build(kind, attention=attention)
    arguments = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **how}
    outs = []
    for width in (9, 17):
        batch = make_batch(kind, (6, 9), width)
        cached = model.generate(**batch, **arguments)
        assert torch.equal(cached[:: how.get("num_return_sequences", 1), :width], batch["input_ids"])
        outs.append(cached[:, width:])
    assert torch.equal(*outs)
    if how["num_beams"] == 1:
        assert torch.equal(outs[0], uncached(model, make_batch(kind, (6, 9)), 6))


def uncached(model: nn.Module, batch: dict[str, Tensor], steps: int) -> Tensor:
    """Greedy choice, every token from a full forward pass in which only the prompt makes soft tokens."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    n = ids.shape[1]
    for _ in range(steps):
        labels = torch.full_like(ids, -100)
        labels[:, n:] = ids[:, n:]
        logits = model(input_ids=ids, attention_mask=mask, labels=labels if ids.shape[1] > n else None).logits[:, -1]
        logits[:, model.config.eos_token_id] = -math.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        mask = F.pad(mask, (0, 1), value=1)
    return ids[:, n:]


@pytest.mark.parametrize("kind", DECODERS)
def test_logits_of_cached_steps_equal_a_full_pass(kind: str) -> None:
    _, model = build(kind)
    batch = make_batch(kind, (6, 9), 12)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    new = torch.tensor([[5, 6, 7], [8, 9, 10]])
    out = model(input_ids=ids, attention_mask=mask, use_cache=True)
    steps = [out.logits[:, -1]]
    for i in range(2):
        grown = F.pad(mask, (0, i + 1), value=1)
        out = model(input_ids=new[:, i : i + 1], attention_mask=grown, past_key_values=out.past_key_values)
        steps.append(out.logits[:, -1])
    labels = torch.cat([torch.full_like(ids, -100), new], 1)
    full = model(input_ids=torch.cat([ids, new], 1), attention_mask=F.pad(mask, (0, 3), value=1), labels=labels).logits
    torch.testing.assert_close(torch.stack(steps, 1), full[:, 11:14], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", DECODERS)
def test_generators_run_once_a_sequence_and_the_cache_has_their_tokens(kind: str) -> None:
    _, model = build(kind)
    calls = []
    for layer in layers(model):
        layer.soft_tokens = lambda *a, f=layer.soft_tokens: calls.append(1) or f(*a)
    batch = make_batch(kind)
    out = model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert len(calls) == 2
    base = tiny_backbone(kind).model.generate(
        **batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, return_dict_in_generate=True
    )
    for i in range(2):
        assert out.past_key_values.get_seq_length(i) == base.past_key_values.get_seq_length(i) + 4


# 6. the activation


@given(z=st.floats(-3, 3))
@settings(max_examples=100, deadline=None)
def test_the_activation_starts_near_gelu(z: float) -> None:
    at = torch.tensor([z])
    assert (rational(at, torch.tensor(NUMERATOR), torch.tensor(DENOMINATOR)) - F.gelu(at)).abs().item() < 5e-4


def test_gradients_of_the_activation_are_finite_also_from_half_precision() -> None:
    for dtype in (torch.float32, torch.float16):
        z = torch.linspace(-100, 100, 401).to(dtype).requires_grad_()
        a, b = (torch.tensor(c, requires_grad=True) for c in (NUMERATOR, DENOMINATOR))
        out = rational(z, a, b)
        assert out.dtype == torch.float32
        assert out.isfinite().all()
        out.mean().backward()
        assert all(t.grad.isfinite().all() for t in (z, a, b))


# inside peft


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share_group", [1, 2])
def test_a_saved_adapter_loads_and_trains_on(kind: str, share_group: int, tmp_path) -> None:
    tuner, model = build(kind, share_group=share_group)
    train(model, kind)
    tuner.save(model, tmp_path)
    batch = make_batch(kind)
    expected = read_out(model(**batch))
    again = peft.PeftModel.from_pretrained(tiny_backbone(kind).model, tmp_path, is_trainable=True).eval()
    assert torch.equal(read_out(again(**batch)), expected)
    train(again, kind, 1)
    fresh_tuner, fresh = build(kind, seed=9, share_group=share_group)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), expected)


def test_shared_projections_are_one_tensor_with_gradient_from_every_block() -> None:
    _, model = build("bert", share_group=2)
    first, second = layers(model)
    assert "default" not in second.iapt_down
    second.iapt_pool["default"].requires_grad_(False)
    with torch.no_grad():
        first_tokens = first.soft_tokens(torch.ones(1, 3, D), torch.ones(1, 3).bool())
        first.iapt_up_bias["default"].add_(1)
        moved = second.soft_tokens(torch.ones(1, 3, D), torch.ones(1, 3).bool())
    assert first_tokens.shape == moved.shape == (1, 4, D)
    assert moved.mean() > 0.5


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    for kind in KINDS:
        gradients = []
        for checkpointed in (False, True):
            _, model = build(kind)
            if checkpointed:
                model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
            read_out(model(**make_batch(kind)))[..., ::2].square().mean().backward()
            gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_bf16_base_keeps_fp32_generators(kind: str, attention: str) -> None:
    backbone = tiny_backbone(kind)
    backbone.model.to(torch.bfloat16).set_attn_implementation(attention)
    model = build_tuner(IaptOptions(name="iapt")).build(backbone, CONTEXT).eval()
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    train(model, kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert read_out(model(**make_batch(kind))).isfinite().all()


def test_two_adapters_can_be_switched() -> None:
    _, model = build("bert")
    batch = make_batch("bert")
    first = read_out(model(**batch))
    model.add_adapter("second", IaptConfig(task_type="FEATURE_EXTRACTION", num_tokens=2, bottleneck=3, init_seed=5))
    assert torch.equal(read_out(model(**batch)), first)
    model.set_adapter("second")
    assert not torch.equal(read_out(model(**batch)), first)
    model.set_adapter("default")
    assert torch.equal(read_out(model(**batch)), first)


def test_what_does_not_fit_is_refused() -> None:
    backbone = replace(tiny_backbone("bert"), model=outline(architectures()["bloom"], "features").model)
    with pytest.raises(UsageError, match=r"biases each key by the number of tokens.*ALiBi.*method=prefix_tuning"):
        build_tuner(IaptOptions(name="iapt")).check(backbone, CONTEXT)
    with pytest.raises(UsageError, match=r"131 positions.*has 128.*max_length=124"):
        build_tuner(IaptOptions(name="iapt")).build(tiny_backbone("llama"), TunerContext(127, (), 0))
    assert "seq2seq" not in build_tuner(IaptOptions(name="iapt")).families
    with pytest.raises(ValueError, match="task_type"):
        IaptConfig(task_type="SEQ_2_SEQ_LM")
