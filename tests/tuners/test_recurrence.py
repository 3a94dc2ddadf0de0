"""The recurrence adapter: windows, what is remembered of them, and by whom."""

from __future__ import annotations

import pytest
import torch
from made_up_configs import compose
from tiny_models import D, make_batch, tiny_backbone
from torch import Tensor, nn

import peftbench
from peftbench.errors import UsageError
from peftbench.learner import HEAD
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.recurrence import RecurrenceOptions

KINDS = ("bert", "roberta")
LONG = 150
"""Longer than the 64 positions of the tiny encoders."""


def build(kind: str, attention: str = "sdpa", seed: int = 3, max_length: int = LONG, trained: bool = True, **changes):
    tuner = build_tuner(RecurrenceOptions(**{"name": "recurrence", "window": 40, **changes}))
    backbone = tiny_backbone(kind)
    backbone.model.set_attn_implementation(attention)
    model = tuner.build(backbone, TunerContext(max_length, (), seed)).eval()
    if trained:
        with torch.no_grad():
            for parameter in model.memory.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.5)
    return tuner, model


def states(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).last_hidden_state


def real(kind: str, out: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    return [row[m.bool()] for row, m in zip(out, batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_text_of_one_window_is_read_by_the_bare_encoder(kind: str, attention: str) -> None:
    _, model = build(kind, attention)
    batch = make_batch(kind, (30, 40))
    base = tiny_backbone(kind).model(**batch).last_hidden_state
    for a, b in zip(real(kind, states(model, batch), batch), real(kind, base, batch), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_longer_than_the_positions_keep_their_length(kind: str) -> None:
    _, model = build(kind)
    batch = make_batch(kind, (LONG, 90))
    out = states(model, batch)
    assert out.shape == (2, LONG, D)
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_and_the_rest_of_the_batch_change_nothing(kind: str, attention: str) -> None:
    _, model = build(kind, attention)
    outs = []
    for width in (90, LONG):
        batch = make_batch(kind, (45, 90), width)
        outs.append(real(kind, states(model, batch), batch))
    alone = [states(model, make_batch(kind, (45,)))[0], states(model, {k: v[1:] for k, v in batch.items()})[0, :90]]
    for other in (outs[1], alone):
        for a, b in zip(outs[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_window_sees_the_one_before_only_through_the_memory() -> None:
    _, model = build("bert")
    batch = make_batch("bert", (80,))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, :10] = (changed["input_ids"][:, :10] + 7) % 60 + 4
    first, second = states(model, batch), states(model, changed)
    assert (first[:, 40:] - second[:, 40:]).abs().max() > 1e-3
    later = {**batch, "input_ids": batch["input_ids"].clone()}
    later["input_ids"][:, 40:] = 9
    assert torch.equal(states(model, later)[:, :40], first[:, :40])
    with torch.no_grad():
        for parameter in model.memory.parameters():
            parameter.zero_()
    blank = states(model, batch), states(model, changed)
    torch.testing.assert_close(blank[0][:, 40:], blank[1][:, 40:], atol=1e-6, rtol=0)


def test_the_row_is_one_more_token_at_the_inner_block() -> None:
    """Two windows by hand: block 0 plain, block 1 with the row in front."""
    _, model = build("bert", "eager", block=1)
    base = tiny_backbone("bert").model
    base.set_attn_implementation("eager")
    batch = make_batch("bert", (60,))
    first = base(input_ids=batch["input_ids"][:, :40]).last_hidden_state
    row = model.memory(first.mean(1)).unsqueeze(1)
    hidden = base.encoder.layer[0](base.embeddings(input_ids=batch["input_ids"][:, 40:]))
    second = base.encoder.layer[1](torch.cat([row, hidden], 1))[:, 1:]
    torch.testing.assert_close(states(model, batch), torch.cat([first, second], 1), atol=1e-5, rtol=0)


def test_a_text_that_has_ended_keeps_its_state() -> None:
    _, model = build("bert")
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    hidden, before = torch.randn(2, 3, D), torch.randn(2, D)
    after = model._remember(hidden, mask, before)
    torch.testing.assert_close(after[0], hidden[0, :2].mean(0))
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize(("horizon", "reaches"), [(1, False), (4, True)])
def test_the_gradient_flows_over_the_horizon(horizon: int, reaches: bool) -> None:
    _, model = build("bert", horizon=horizon)
    batch = make_batch("bert", (120,))
    embeddings = model.model.embeddings.word_embeddings(batch["input_ids"]).detach().requires_grad_()
    seen: list[Tensor] = []

    def window(ids: Tensor, mask: Tensor, inputs: dict) -> tuple[Tensor, Tensor]:
        start = 40 * len(seen)
        seen.append(ids)
        hidden = model.model(inputs_embeds=embeddings[:, start : start + ids.shape[1]]).last_hidden_state
        return hidden, hidden

    model._window = window
    states(model, batch)[:, 80:, ::2].square().sum().backward()
    assert bool(embeddings.grad[:, :40].abs().max() > 0) is reaches


@pytest.mark.parametrize("kind", KINDS)
def test_counts_files_and_a_frozen_base(kind: str, tmp_path) -> None:
    tuner, model = build(kind, trained=False)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trainable.values()) == 3 * (D * D + D)
    assert tuner.expected_parameters(tiny_backbone(kind), TunerContext(LONG, (), 3)) == 3 * (D * D + D)
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in trainable}
    batch = make_batch(kind, (90, 120))
    optimiser = torch.optim.Adam(trainable.values(), 0.05)
    losses = []
    for _ in range(5):
        loss = (states(model, batch)[:, 40:] - 1).square()[..., ::2].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())
    tuner.save(model, tmp_path)
    fresh_tuner, fresh = build(kind, seed=9)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(states(fresh, batch), states(model, batch))
    with pytest.raises(UsageError, match="no such file"):
        tuner.load(model, tmp_path / "absent")


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        _, model = build("bert")
        if checkpointed:
            model.model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        states(model, make_batch("bert", (120, 90)))[..., ::2].square().mean().backward()
        gradients.append([p.grad for p in model.memory.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_bf16_base_keeps_an_fp32_memory() -> None:
    backbone = tiny_backbone("bert")
    backbone.model.to(torch.bfloat16)
    tuner = build_tuner(RecurrenceOptions(name="recurrence", window=40))
    model = tuner.build(backbone, TunerContext(LONG, (), 0))
    out = states(model, make_batch("bert", (90,)))
    out[..., ::2].float().square().mean().backward()
    assert all(p.dtype == torch.float32 and p.grad.abs().max() >= 0 for p in model.memory.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"window=100.*64 positions"):
        build("bert", window=100)
    with pytest.raises(UsageError, match=r"window=40.*max_length=40.*one window"):
        build("bert", max_length=40)
    with pytest.raises(UsageError, match=r"block=2.*blocks 0 to 1"):
        build("bert", block=2)


def test_the_method_file() -> None:
    cfg = compose(["method=recurrence", "trainer.max_length=1024"])
    tuner = build_tuner(cfg.method.tuner)
    for max_length, window in ((100, 25), (1024, 64)):
        model = tuner.build(tiny_backbone("bert"), TunerContext(max_length, (), 0))
        assert model.window == window
    assert cfg.method.lr.keys() == tuner.param_groups(model).keys() | {HEAD}


# decoders


def decoder(kind: str = "llama", trained: bool = True, **changes):
    tuner = build_tuner(RecurrenceOptions(**{"name": "recurrence", "window": 40, **changes}))
    model = tuner.build(tiny_backbone(kind), TunerContext(LONG, (), 3)).eval()
    if trained:
        with torch.no_grad():
            for parameter in model.memory.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.5)
    return tuner, model


def ids_of(*lengths: int) -> dict[str, Tensor]:
    """Padded on the left, as causal models are."""
    width, draw = max(lengths), torch.Generator().manual_seed(1)
    mask = torch.stack([torch.arange(width) >= width - n for n in lengths]).long()
    return {"input_ids": torch.randint(4, 60, mask.shape, generator=draw) * mask, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_reads_one_window_as_it_is_and_longer_texts_than_its_positions(kind: str) -> None:
    _, model = decoder(kind)
    batch = ids_of(30, 40)
    base = tiny_backbone(kind).model(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits
    for a, b, m in zip(model(**batch).logits, base, batch["attention_mask"].bool(), strict=True):
        torch.testing.assert_close(a[m], b[m], atol=1e-5, rtol=0)
    out = model(**ids_of(300, 90)).logits
    assert out.shape[:2] == (2, 300)
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("place", [20, 39, 40, 75, 119])
def test_no_token_of_a_decoder_sees_the_future(kind: str, place: int) -> None:
    _, model = decoder(kind)
    batch = ids_of(120)
    later = {**batch, "input_ids": batch["input_ids"].clone()}
    later["input_ids"][:, place:] = (later["input_ids"][:, place:] + 5) % 50 + 4
    first, second = model(**batch).logits, model(**later).logits
    torch.testing.assert_close(first[:, :place], second[:, :place], atol=1e-6, rtol=0)
    assert (first[:, place:] - second[:, place:]).abs().max() > 1e-3
    if place == 39:
        assert (first[:, 80:] - second[:, 80:]).abs().max() > 1e-5, "what is remembered goes through all windows"


def test_padding_and_the_rest_of_the_batch_change_nothing_for_a_decoder() -> None:
    _, model = decoder()
    both, alone = ids_of(45, 110), ids_of(45)
    alone["input_ids"] = both["input_ids"][:1, -45:]
    torch.testing.assert_close(model(**both).logits[0, -45:], model(**alone).logits[0], atol=1e-5, rtol=0)
    right = {k: torch.cat([v, torch.zeros(1, 30, dtype=torch.long)], 1) for k, v in alone.items()}
    torch.testing.assert_close(model(**right).logits[0, :45], model(**alone).logits[0], atol=1e-5, rtol=0)


def rotated(x: Tensor, base: float) -> Tensor:
    """Rotary positions of (heads, n, width), by hand."""
    n, width = x.shape[-2:]
    angles = torch.arange(n).float()[:, None] / base ** (torch.arange(0, width, 2).float() / width)
    angles = torch.cat([angles, angles], -1)
    turned = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1)
    return x * angles.cos() + turned * angles.sin()


def test_the_row_is_one_more_key_and_value_that_all_later_tokens_see() -> None:
    """Two windows of a LLaMA by hand: block 0 as it is, block 1 with the remembered row's key and value in front."""
    _, model = decoder(block=1)
    base = tiny_backbone("llama").model.eval()
    ids = ids_of(60)["input_ids"]
    first = base.model(input_ids=ids[:, :40]).last_hidden_state
    row = model.memory(first.mean(1))
    seen: list[Tensor] = []
    handle = base.model.layers[0].register_forward_hook(
        lambda m, a, o: seen.append(o if isinstance(o, Tensor) else o[0])
    )
    base.model(input_ids=ids[:, 40:])
    handle.remove()
    block, hidden = base.model.layers[1], seen[0][0]
    attention, heads = block.self_attn, base.config.num_attention_heads
    every = block.input_layernorm(torch.cat([row, hidden]))

    def split(x: Tensor) -> Tensor:
        return x.view(len(x), -1, attention.head_dim).transpose(0, 1)

    theta = 10000.0
    queries = rotated(split(attention.q_proj(every[1:])), theta)
    own = split(attention.k_proj(every))
    keys = torch.cat([own[:, :1], rotated(own[:, 1:], theta)], 1).expand(heads, -1, -1)
    values = split(attention.v_proj(every)).expand(heads, -1, -1)
    scores = queries @ keys.transpose(1, 2) / attention.head_dim**0.5
    mask = torch.ones(20, 21).tril(1).bool()
    mixed = (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values).transpose(0, 1).reshape(20, -1)
    hidden = hidden + attention.o_proj(mixed)
    hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
    by_hand = base.lm_head(base.model.norm(hidden))
    torch.testing.assert_close(model(input_ids=ids).logits[0, 40:], by_hand, atol=1e-5, rtol=0)


def test_a_decoder_writes_the_likeliest_tokens() -> None:
    _, model = decoder()
    batch = ids_of(38, 60)
    out = model.generate(**batch, max_new_tokens=6, pad_token_id=0, eos_token_id=2)
    for row, m in zip(out, batch["attention_mask"].bool(), strict=True):
        ids = row[: len(m)][m]
        for token in row[len(m) :].tolist():
            assert token == int(model(input_ids=ids[None]).logits[0, -1].argmax())
            if token == 2:
                break
            ids = torch.cat([ids, torch.tensor([token])])
    with pytest.raises(ValueError, match="likeliest"):
        model.generate(**batch, max_new_tokens=1, pad_token_id=0, eos_token_id=2, do_sample=True)


@pytest.mark.parametrize("formulation", ["score", "generate", "head"])
def test_a_run_on_texts_longer_than_the_positions(formulation: str, tmp_path) -> None:
    run = peftbench.run(**{
        "method": "recurrence", "method/formulation": formulation, "model": "tiny-llama", "task": "demo_news",
        "shots": 1, "trainer.max_length": 1200, "method.tuner.window": 16, "trainer.steps": 2,
        "protocol.test_rows": 10, "trainer.progress": False, "out_dir": str(tmp_path),
    })  # fmt: skip
    assert run.record.status == "done"
    assert run.record.parameters["module"] == 3 * (64 * 64 + 64)
