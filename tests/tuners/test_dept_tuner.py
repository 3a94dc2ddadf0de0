"""What a correct DePT must show: the nine properties of the method, and its life inside peft."""

from __future__ import annotations

import math

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import D, make_batch, read_out, real_positions, tiny_backbone
from torch import nn

import peftbench
from peftbench.errors import UsageError
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.peft_types import register_type
from peftbench.tuners.soft_prompt_layer import DeptConfig, SoftPromptEmbedding, parameter_count, rank_for_budget
from peftbench.tuners.soft_prompt_model import SoftPromptModel, adapter_of, answer_starts

KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
S = 24


def settings_of(**changes: object) -> DeptOptions:
    values = {"name": "dept", "num_virtual_tokens": 5, "rank": 3, "budget_tokens": None, "init": "vocab"}
    return DeptOptions(**{**values, **changes})


def build(kind: str, purpose: str | None = None, seed: int = 3, max_length: int = S, **changes: object):
    tuner = build_tuner(settings_of(**changes))
    context = TunerContext(max_length=max_length, label_words=("sport", "health"), seed=seed)
    model = tuner.build(tiny_backbone(kind, purpose), context)
    return tuner, model.eval()


def fill_offset(model: nn.Module, scale: float = 0.5) -> None:
    """Give the offset values, as training would: it is zero at the start."""
    _, tensors = adapter_of(model)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name != "P":
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)


def peft_prompt_tuning(kind: str, rows: torch.Tensor, purpose: str | None = None) -> nn.Module:
    """peft's own prompt tuning on the same backbone with the same rows."""
    backbone = tiny_backbone(kind, purpose)
    task = {"features": "FEATURE_EXTRACTION", "lm": "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"}
    config = peft.PromptTuningConfig(
        task_type=task[backbone.purpose],
        num_virtual_tokens=len(rows),
        num_transformer_submodules=1,
        token_dim=D,
        num_layers=2,
        num_attention_heads=2,
    )
    model = peft.get_peft_model(backbone.model, config).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(rows)
    return model


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return read_out(model(**batch)).float().square().mean()


# 1. size


@pytest.mark.parametrize("s", [256, 512])
@pytest.mark.parametrize(("m", "rank_at_256"), [(80, 15), (60, 30), (40, 45), (20, 60), (0, 75)])
def test_the_ten_cells_of_the_paper_have_the_size_of_a_prompt_of_100_tokens(s: int, m: int, rank_at_256: int) -> None:
    rank = rank_at_256 if s == 256 else rank_at_256 * 4 // 5
    config = DeptConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=m, rank=rank, max_length=s)
    layer = SoftPromptEmbedding(nn.Embedding(10, 768).requires_grad_(False), "default", config)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 100 * 768
    assert rank_for_budget(100, m, s, 768, "position") == rank


def test_adept_has_its_published_size() -> None:
    config = DeptConfig(task_type="CAUSAL_LM", num_virtual_tokens=60, rank=19, offset="token")
    layer = SoftPromptEmbedding(nn.Embedding(10, 768).requires_grad_(False), "default", config)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 76_051
    assert parameter_count(60, 19, 256, 768, "token") == 76_051


@given(
    budget=st.integers(1, 200), m=st.integers(0, 200), s=st.integers(4, 1024), d=st.sampled_from([32, 384, 576, 768]),
    offset=st.sampled_from(["position", "token"]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_derived_rank_meets_the_budget_or_is_refused(budget: int, m: int, s: int, d: int, offset: str) -> None:
    def miss(r: int) -> float:
        return abs(parameter_count(m, r, s, d, offset) / (budget * d) - 1)

    try:
        rank = rank_for_budget(budget, m, s, d, offset)
    except ValueError:
        best = max(0, round((budget - m) * d / (s + d if offset == "position" else 2 * d + 1)))
        assert all(miss(r) > 0.05 for r in range(max(0, best - 2), best + 3))
    else:
        assert miss(rank) <= 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", ["position", "token"])
def test_only_the_adapter_is_trainable_and_has_the_expected_size(kind: str, offset: str) -> None:
    tuner, context = build_tuner(settings_of(offset=offset)), TunerContext(S, (), 0)
    backbone = tiny_backbone(kind)
    expected = tuner.expected_parameters(backbone, context)
    model = tuner.build(backbone, context)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(".dept_" in n for n in trainable)
    assert sum(p.numel() for p in trainable.values()) == expected
    groups = tuner.param_groups(model)
    assert set(groups) == {"prompt", "offset"}
    assert sorted(id(p) for ps in groups.values() for p in ps) == sorted(id(p) for p in trainable.values())


# 2. and 3. prompt tuning at step 0, and at every step with r = 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"offset": "token"}, {"rank": 0}])
def test_step_0_equals_prompt_tuning_of_peft_to_the_last_bit(kind: str, changes: dict[str, object]) -> None:
    _, model = build(kind, **changes)
    reference = peft_prompt_tuning(kind, adapter_of(model)[1]["P"])
    # peft counts positions over padding, which moves the texts of a left-padded causal batch: no padding there.
    batch = make_batch(kind, (9, 9) if kind in ("llama", "gpt2") else (6, 9))
    ours, theirs = read_out(model(**batch)), read_out(reference(**batch))
    for a, b in zip(*(real_positions(kind, o, batch["attention_mask"], 5) for o in (ours, theirs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_rank_0_stays_prompt_tuning_while_training(kind: str) -> None:
    tuner, model = build(kind, rank=0)
    reference = peft_prompt_tuning(kind, adapter_of(model)[1]["P"])
    batch = make_batch(kind, (9, 9))
    optimisers = [torch.optim.Adam([p for p in m.parameters() if p.requires_grad], 0.1) for m in (model, reference)]
    for _ in range(3):
        for m, optimiser in zip((model, reference), optimisers, strict=True):
            optimiser.zero_grad()
            loss_of(m, batch).backward()
            optimiser.step()
    assert set(tuner.param_groups(model)) == {"prompt"}
    torch.testing.assert_close(read_out(model(**batch)), read_out(reference(**batch)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_without_virtual_tokens_the_sequence_keeps_its_length(kind: str) -> None:
    tuner, model = build(kind, num_virtual_tokens=0)
    batch = make_batch(kind, (9, 9))
    base = read_out(tiny_backbone(kind).model(**batch))
    assert torch.equal(read_out(model(**batch)), base)
    fill_offset(model)
    out = read_out(model(**batch))
    assert out.shape == base.shape
    assert not torch.allclose(out, base)
    assert tuner.virtual_tokens == 0
    assert set(tuner.param_groups(model)) == {"offset"}


# 4. what the offset depends on


def offsets(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    layer = model.base_model.layer
    return layer.prompted(ids)[:, layer.configs["default"].num_virtual_tokens :] - layer(ids)


def test_the_position_offset_is_of_the_place_and_not_of_the_token() -> None:
    _, model = build("bert")
    fill_offset(model)
    ids = make_batch("bert", (9, 9))["input_ids"]
    permuted = (ids + 17) % 64
    torch.testing.assert_close(offsets(model, ids), offsets(model, permuted), atol=1e-5, rtol=0)
    same_token = offsets(model, torch.full((1, 9), 7))[0]
    assert (same_token[0] - same_token[1:]).abs().amax(1).min() > 1e-3
    _, tensors = adapter_of(model)
    expected = 8 / math.sqrt(3) * tensors["A"][:9] @ tensors["B"]
    torch.testing.assert_close(offsets(model, ids)[0], expected, atol=1e-5, rtol=0)


def test_the_token_offset_is_of_the_token_and_not_of_the_place() -> None:
    _, model = build("bert", offset="token")
    fill_offset(model)
    out = offsets(model, torch.tensor([[7, 8, 7, 9]]))[0]
    torch.testing.assert_close(out[0], out[2], atol=1e-5, rtol=0)
    assert not torch.allclose(out[0], out[1], atol=1e-3)


@given(width=st.integers(9, S))
@settings(max_examples=10, deadline=None)
def test_left_padding_counts_rows_from_the_right(width: int) -> None:
    _, model = build("llama")
    fill_offset(model)
    _, tensors = adapter_of(model)
    out = offsets(model, make_batch("llama", (6, 9), width)["input_ids"])
    expected = 8 / math.sqrt(3) * tensors["A"][S - width :] @ tensors["B"]
    torch.testing.assert_close(out[0], expected, atol=1e-5, rtol=0)


def test_inputs_longer_than_the_offset_table_are_refused() -> None:
    for kind in ("bert", "llama"):
        _, model = build(kind)
        with pytest.raises(ValueError, match=r"input of 25 tokens.*max_length=24"):
            model(**make_batch(kind, (25, 6)))
    _, model = build("t5", offset="token")
    model(**make_batch("t5", (25, 6)))  # an offset of the token knows no longest text


# 5. length of the sequence, and padding


@pytest.mark.parametrize("kind", KINDS)
def test_the_sequence_is_m_longer(kind: str) -> None:
    tuner, model = build(kind)
    out = model(**make_batch(kind))
    if kind == "t5":
        assert out.encoder_last_hidden_state.shape == (2, 5 + 9, D)
        assert out.logits.shape[1] == 3
        assert tuner.virtual_tokens == 0
    else:
        assert read_out(out).shape[1] == 5 + 9
        assert tuner.virtual_tokens == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", ["position", "token"])
def test_padding_changes_nothing(kind: str, offset: str) -> None:
    _, model = build(kind, offset=offset)
    fill_offset(model)
    outs = []
    for width in (9, 15, S):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], 5))
    for other in outs[1:]:
        for a, b in zip(outs[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_changes_nothing_for_the_bare_stack_of_a_causal_model(kind: str) -> None:
    _, model = build(kind, "features")
    fill_offset(model)
    outs = [model(**make_batch(kind, (6, 9), width)).last_hidden_state[:, -1] for width in (9, S)]
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=0)


# 6. and 7. gradients and scale


@pytest.mark.parametrize(("offset", "first", "second"), [("position", "A", "B"), ("token", "W1", "W2")])
def test_the_first_step_moves_only_the_factor_that_starts_at_zero(offset: str, first: str, second: str) -> None:
    _, model = build("bert", offset=offset)
    _, tensors = adapter_of(model)
    batch = make_batch("bert")
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    loss_of(model, batch).backward()
    assert tensors[first].grad.abs().max() == 0
    assert tensors[second].grad.abs().max() > 0
    optimiser.step()
    optimiser.zero_grad()
    loss_of(model, batch).backward()
    assert tensors[first].grad.abs().max() > 0
    assert tensors[second].grad.abs().max() > 0


@given(c=st.floats(0.25, 4))
@settings(max_examples=8, deadline=None)
def test_alpha_times_c_and_b_over_c_is_the_same_network(c: float) -> None:
    _, model = build("t5")
    fill_offset(model)
    config, tensors = adapter_of(model)
    before = read_out(model(**make_batch("t5")))
    config.alpha *= c
    with torch.no_grad():
        tensors["B"].div_(c)
    torch.testing.assert_close(read_out(model(**make_batch("t5"))), before, atol=1e-4, rtol=1e-4)


# 8. saving, switching off, generating


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", ["position", "token"])
def test_a_saved_adapter_loads_with_plain_peft_and_trains_on(kind: str, offset: str, tmp_path) -> None:
    tuner, model = build(kind, offset=offset)
    fill_offset(model)
    tuner.save(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    batch = make_batch(kind)
    expected = read_out(model(**batch))
    for trainable in (False, True):
        again = peft.PeftModel.from_pretrained(tiny_backbone(kind).model, tmp_path, is_trainable=trainable).eval()
        assert torch.equal(read_out(again(**batch)), expected)
        assert any(p.requires_grad for p in again.parameters()) is trainable
    loss_of(again, batch).backward()
    assert adapter_of(again)[1]["P"].grad.abs().max() > 0
    fresh_tuner, fresh = build(kind, seed=99, offset=offset)
    assert not torch.equal(read_out(fresh(**batch)), expected)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), expected)


def test_a_foreign_adapter_file_is_refused(tmp_path) -> None:
    tuner, model = build("bert")
    tuner.save(model, tmp_path)
    other_tuner, other = build("bert", rank=2)
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors.*other settings"):
        other_tuner.load(other, tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        tuner.load(model, tmp_path / "absent")


@pytest.mark.parametrize("kind", KINDS)
def test_switched_off_the_base_model_answers(kind: str) -> None:
    _, model = build(kind)
    fill_offset(model)
    batch = make_batch(kind)
    base = read_out(tiny_backbone(kind).model(**batch))
    with model.disable_adapter():
        torch.testing.assert_close(read_out(model(**batch)), base, atol=1e-6, rtol=0)
    assert not torch.equal(read_out(model(**batch))[:, -3:], base[:, -3:])
    plain = model.unload()
    torch.testing.assert_close(read_out(plain(**batch)), base, atol=1e-6, rtol=0)
    assert not any("dept" in n for n, _ in plain.named_parameters())


@pytest.mark.parametrize("kind", ["t5", "llama", "gpt2"])
def test_generation_equals_that_of_peft_prompt_tuning(kind: str) -> None:
    _, model = build(kind, rank=0)
    reference = peft_prompt_tuning(kind, adapter_of(model)[1]["P"])
    batch = make_batch(kind, (9, 9))
    batch.pop("decoder_input_ids", None)
    for how in ({"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}):
        arguments = {**batch, "max_new_tokens": 6, "do_sample": False, **how}
        assert torch.equal(model.generate(**arguments), reference.generate(**arguments))


@pytest.mark.parametrize("kind", ["t5", "llama", "gpt2"])
@pytest.mark.parametrize("offset", ["position", "token"])
def test_greedy_generation_is_the_argmax_under_teacher_forcing(kind: str, offset: str) -> None:
    _, model = build(kind, offset=offset)
    fill_offset(model)
    batch = make_batch(kind, (6, 9))
    batch.pop("decoder_input_ids", None)
    out = model.generate(**batch, max_new_tokens=6, do_sample=False, eos_token_id=None)
    if kind == "t5":
        logits = model(**batch, decoder_input_ids=out[:, :-1]).logits
        assert torch.equal(logits.argmax(-1), out[:, 1:])
        return
    assert torch.equal(out[:, :9], batch["input_ids"])
    new = out[:, 9:]
    labels = torch.cat([torch.full((2, 9), -100), new], 1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(new)], 1)
    logits = model(input_ids=out, attention_mask=mask, labels=labels).logits
    assert torch.equal(logits[:, 5 + 8 : -1].argmax(-1), new)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generation_does_not_depend_on_padding(kind: str) -> None:
    _, model = build(kind)
    fill_offset(model)
    outs = [
        model.generate(**make_batch(kind, (6, 9), width), max_new_tokens=6, do_sample=False, eos_token_id=None)[:, -6:]
        for width in (9, 18)
    ]
    assert torch.equal(*outs)


# 9. two learning rates


def test_the_two_groups_keep_their_ratio_through_the_schedule() -> None:
    tuner, model = build("bert")
    rates = {"prompt": 0.3, "offset": 5e-4}
    groups = [{"params": p, "lr": rates[n], "name": n} for n, p in tuner.param_groups(model).items()]
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(step + 1, 10 - step) / 10)
    for _ in range(9):
        prompt, offset = (g["lr"] for g in optimiser.param_groups)
        assert prompt / offset == pytest.approx(0.3 / 5e-4)
        optimiser.step()
        schedule.step()


# inside peft


def test_twenty_steps_leave_the_base_model_as_it_was() -> None:
    backbone = tiny_backbone("t5")
    before = {n: p.clone() for n, p in backbone.model.named_parameters()}
    model = build_tuner(settings_of()).build(backbone, TunerContext(S, (), 0))
    batch = make_batch("t5")
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    losses = []
    for _ in range(20):
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    plain = model.unload()
    assert before.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(before[n], p) for n, p in plain.named_parameters())


def test_without_a_task_type_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a task_type.*found None"):
        DeptConfig(num_virtual_tokens=5, rank=3)
    with pytest.raises(ValueError, match="TOKEN_CLS"):
        DeptConfig(task_type="TOKEN_CLS")


def test_registering_again_is_harmless() -> None:
    peftbench.register()
    before = len(peft.PeftType.__members__)
    peftbench.register()
    register_type(DeptConfig, SoftPromptModel)
    assert len(peft.PeftType.__members__) == before
    assert peft.PeftType("DEPT") is peft.PeftType.DEPT
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType.DEPT].__name__ == "SoftPromptModel"


def test_peft_names_the_type_when_it_is_not_registered(tmp_path, monkeypatch) -> None:
    tuner, model = build("bert")
    tuner.save(model, tmp_path)
    monkeypatch.delitem(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, peft.PeftType.DEPT)
    with pytest.raises((KeyError, ValueError), match="DEPT"):
        peft.PeftModel.from_pretrained(tiny_backbone("bert").model, tmp_path)


def test_two_adapters_can_be_added_and_switched() -> None:
    _, model = build("bert")
    batch = make_batch("bert")
    first = read_out(model(**batch))
    config = DeptConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=7, rank=2, max_length=S, init_seed=5)
    model.add_adapter("second", config)
    assert torch.equal(read_out(model(**batch)), first)
    model.set_adapter("second")
    assert read_out(model(**batch)).shape[1] == 7 + 9
    model.set_adapter("default")
    assert torch.equal(read_out(model(**batch)), first)
    with pytest.raises(ValueError, match="adapter_names"):
        model(**batch, adapter_names=["default", "second"])


def test_it_cannot_be_merged() -> None:
    _, model = build("llama")
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(kind: str, reentrant: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = tiny_backbone(kind)
        if checkpointing:
            backbone.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model = build_tuner(settings_of()).build(backbone, TunerContext(S, (), 0)).train()
        fill_offset(model)
        loss_of(model, make_batch(kind)).backward()
        gradients.append(adapter_of(model)[1]["A"].grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_adapters_of_a_bf16_model_stay_fp32() -> None:
    backbone = tiny_backbone("t5")
    backbone.model.to(torch.bfloat16)
    model = build_tuner(settings_of()).build(backbone, TunerContext(S, (), 0))
    fill_offset(model)
    assert {t.dtype for t in adapter_of(model)[1].values()} == {torch.float32}
    out = model(**make_batch("t5"))
    assert out.logits.dtype == torch.bfloat16
    out.logits.float().sum().backward()
    assert adapter_of(model)[1]["A"].grad.dtype == torch.float32


def test_a_tied_output_head_sees_the_plain_matrix() -> None:
    _, model = build("llama")
    fill_offset(model)
    base = tiny_backbone("llama").model
    ids = make_batch("llama", (9, 9))["input_ids"]
    assert torch.equal(model.get_input_embeddings()(ids), base.get_input_embeddings()(ids))
    assert model.get_output_embeddings().weight is model.base_model.layer.base_layer.weight


# arguments that grow with the sequence


def test_position_ids_and_token_types_of_the_caller_are_extended() -> None:
    _, model = build("bert")
    batch = make_batch("bert", (9, 9))
    plain = read_out(model(**batch))
    positions = torch.arange(9).expand(2, -1)
    assert torch.equal(read_out(model(**batch, position_ids=positions)), plain)
    assert not torch.allclose(read_out(model(**batch, position_ids=positions.flip(1))), plain)
    assert torch.equal(read_out(model(**batch, token_type_ids=torch.zeros_like(positions))), plain)
    assert not torch.allclose(read_out(model(**batch, token_type_ids=torch.ones_like(positions))), plain)


def test_roberta_counts_positions_from_its_padding_index() -> None:
    _, model = build("roberta")
    batch = make_batch("roberta", (9, 9))
    positions = torch.arange(2, 11).expand(2, -1)  # what RobertaModel takes for nine real tokens
    assert torch.equal(read_out(model(**batch, position_ids=positions)), read_out(model(**batch)))


def test_causal_labels_are_moved_behind_the_prompt() -> None:
    _, model = build("llama", rank=0)
    reference = peft_prompt_tuning("llama", adapter_of(model)[1]["P"])
    batch = make_batch("llama", (9, 9))
    labels = batch["input_ids"].clone()
    labels[:, :6] = -100
    assert torch.equal(model(**batch, labels=labels).loss, reference(**batch, labels=labels).loss)


def test_answers_start_at_the_first_label() -> None:
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 4, 5, 6], [-100, -100, -100, -100], [-100, -100, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    # Row 1 is plain language modelling (its first real token is a target): the whole text is text.
    assert answer_starts(labels, mask).flatten().tolist() == [2, 4, 4, 2]


def test_answers_take_no_offset_and_do_not_move_the_text() -> None:
    _, model = build("llama")
    fill_offset(model)
    layer = model.base_model.layer
    ids = make_batch("llama", (9, 9))["input_ids"]
    alone = offsets(model, ids[:, :6])
    together = layer.prompted(ids, torch.full((2, 1), 6))[:, 5:] - layer(ids)
    torch.testing.assert_close(together[:, :6], alone, atol=1e-5, rtol=0)
    assert together[:, 6:].abs().max() == 0


def test_a_mask_of_four_dimensions_and_a_filled_cache_are_refused() -> None:
    _, model = build("llama")
    batch = make_batch("llama", (9, 9))
    with pytest.raises(ValueError, match="attention_mask of shape"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(2, 1, 9, 9))
    cache = model(**batch, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="call generate"):
        model(input_ids=batch["input_ids"][:, -1:], past_key_values=cache)


# settings


def test_initial_values_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = adapter_of(build("bert", seed=4)[1])[1]
    torch.manual_seed(2)
    again, other = (adapter_of(build("bert", seed=s)[1])[1] for s in (4, 5))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
    assert not torch.equal(first["A"], other["A"])
    assert not torch.equal(first["P"], other["P"])
    assert first["A"].abs().max() <= 1 / math.sqrt(3)
    assert first["A"].abs().max() > 0.9 / math.sqrt(3)
    assert first["B"].abs().max() == 0
    torch.random.set_rng_state(state)
    expected = torch.rand(1)
    torch.random.set_rng_state(state)
    backbone = tiny_backbone("bert")
    torch.random.set_rng_state(state)
    build_tuner(settings_of()).build(backbone, TunerContext(S, (), 0))
    assert torch.equal(torch.rand(1), expected)


def test_too_many_positions_are_refused_at_build() -> None:
    with pytest.raises(UsageError, match=r"num_virtual_tokens=5 and trainer\.max_length=60.*has 64.*max_length=59"):
        build("bert", max_length=60)
    build("bert", max_length=59)
    build("t5", max_length=4000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": None}, "method.tuner.rank=null"),
        ({"rank": 0, "num_virtual_tokens": 0}, "nothing to train"),
        ({"budget_tokens": 20}, "method.tuner.rank=3 is set too"),
        ({"rank": None, "budget_tokens": 6}, "no rank gives 6 tokens"),
        ({"rank": None, "budget_tokens": 3}, "no rank gives 3 tokens"),
        ({"init": "text", "init_text": ""}, "method.tuner.init_text"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build("bert", **changes)


def test_a_budget_derives_the_rank() -> None:
    tuner, model = build("bert", rank=None, budget_tokens=20, num_virtual_tokens=10)
    assert adapter_of(model)[0].rank == 4  # (20 - 10) * 16 / (24 + 16)
    assert sum(p.numel() for ps in tuner.param_groups(model).values() for p in ps) == 20 * D
