"""Prefix tuning (P-tuning v2) and P-tuning v1: equality with peft where peft is right, and what peft is not."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
import torch.nn.functional as F
from made_up_configs import compose
from tiny_models import D, make_batch, read_out, real_positions, tiny_backbone
from torch import nn
from transformers import RobertaConfig, RobertaModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peftbench.conformance.architectures import architectures
from peftbench.errors import UsageError
from peftbench.learner import HEAD
from peftbench.models import load_backbone
from peftbench.models.anatomy import anatomy_of
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.p_tuning import PTuningOptions
from peftbench.tuners.prefix_tuning import PrefixTuningOptions
from peftbench.tuners.prefix_tuning.tuner import Shape, join_layers, prefix_of_tokens, shape_of, split_layers

KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
CONTEXT = TunerContext(max_length=24, label_words=("sport", "health"), seed=3)
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 5, "init": "random", "projection_hidden": 7}
PROMPT = {"name": "p_tuning", "num_virtual_tokens": 5, "hidden": 7}


def build(settings: dict, kind: str, purpose: str | None = None, attention: str = "sdpa", seed: int = 3):
    schema = PrefixTuningOptions if settings["name"] == "prefix_tuning" else PTuningOptions
    tuner, backbone = build_tuner(schema(**settings)), tiny_backbone(kind, purpose)
    backbone.model.set_attn_implementation(attention)
    return tuner, tuner.build(backbone, TunerContext(24, ("sport", "health"), seed)).eval()


ALL = {
    "prefix": PREFIX,
    "prefix_projection": {**PREFIX, "projection": True},
    "prefix_text": {**PREFIX, "init": "text", "init_text": "topic of this text"},
    "p_tuning": PROMPT,
    "p_tuning_lstm": {**PROMPT, "encoder": "LSTM"},
}

# peft gives an encoder-decoder's layers i and i + L/2 the same prefix; see tuners/prefix_tuning.py
WITH_PEFT = [(n, k) for n in ("prefix", "prefix_projection", "p_tuning") for k in KINDS if (n[:3], k) != ("pre", "t5")]


def train(model: nn.Module, kind: str, steps: int = 3) -> None:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        read_out(model(**make_batch(kind)))[..., ::2].float().square().mean().backward()
        optimiser.step()


def without_decoder(batch: dict) -> dict:
    return {k: v for k, v in batch.items() if k != "decoder_input_ids"}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_groups_and_frozen_base(name: str, kind: str) -> None:
    tuner, model = build(ALL[name], kind)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trainable.values()) == tuner.expected_parameters(tiny_backbone(kind), CONTEXT)
    groups = tuner.param_groups(model)
    assert sorted(id(p) for ps in groups.values() for p in ps) == sorted(map(id, trainable.values()))
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in trainable}
    train(model, kind)
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable.values())


def test_counts_of_the_specification() -> None:
    backbone = tiny_backbone("roberta")
    with torch.device("meta"):
        backbone.model = RobertaModel(RobertaConfig())  # 12 layers of 768
    backbone.hidden_size = backbone.embedding_size = 768

    def count(settings: dict) -> int | None:
        schema = PrefixTuningOptions if settings["name"] == "prefix_tuning" else PTuningOptions
        return build_tuner(schema(**settings)).expected_parameters(backbone, CONTEXT)

    assert count({**PREFIX, "num_virtual_tokens": 20}) == 368_640
    assert count({**PREFIX, "num_virtual_tokens": 20, "projection": True, "projection_hidden": 768}) == 14_780_160
    assert count({**PROMPT, "num_virtual_tokens": 20, "hidden": 768}) == 1_787_136
    assert count({**PROMPT, "num_virtual_tokens": 20, "hidden": 768, "encoder": "LSTM"}) == 27_174_144


@pytest.mark.parametrize(("name", "kind"), WITH_PEFT)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_plain_peft_loads_the_adapter_and_gives_equal_logits(name: str, kind: str, attention: str, tmp_path) -> None:
    tuner, model = build(ALL[name], kind, attention=attention)
    train(model, kind)
    tuner.save(model, tmp_path)
    kinds = {"prefix": "PREFIX_TUNING", "p": "P_TUNING"}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == kinds[name.split("_")[0]]
    backbone = tiny_backbone(kind)
    backbone.model.set_attn_implementation(attention)
    theirs = peft.PeftModel.from_pretrained(backbone.model, tmp_path).eval()
    batch = make_batch(kind, (9, 9) if kind in ("llama", "gpt2") else (6, 9))
    skip = tuner.virtual_tokens
    for a, b in zip(
        *(real_positions(kind, read_out(m(**batch)), batch["attention_mask"], skip) for m in (model, theirs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same_and_trains_on(name: str, kind: str, tmp_path) -> None:
    tuner, model = build(ALL[name], kind)
    train(model, kind)
    tuner.save(model, tmp_path)
    fresh_tuner, fresh = build(ALL[name], kind, seed=8)
    batch = make_batch(kind)
    assert not torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    fresh_tuner.load(fresh, tmp_path)
    torch.testing.assert_close(read_out(fresh(**batch)), read_out(model(**batch)), atol=0, rtol=0)
    for m in (model, fresh):
        train(m, kind, 1)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))


@pytest.mark.parametrize("name", ["prefix", "prefix_projection", "p_tuning"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_and_the_rest_of_the_batch_change_nothing(name: str, kind: str, attention: str) -> None:
    tuner, model = build(ALL[name], kind, attention=attention)
    train(model, kind)
    outs = []
    for width in (9, 15):
        batch = make_batch(kind, (6, 9), width)
        out = read_out(model(**batch))
        assert out.shape[1] == (3 if kind == "t5" else width + tuner.virtual_tokens)
        outs.append(real_positions(kind, out, batch["attention_mask"], tuner.virtual_tokens))
    alone = read_out(model(**{k: v[1:] for k, v in make_batch(kind).items()}))
    outs.append([outs[0][0], alone[0][tuner.virtual_tokens if kind != "t5" else 0 :]])
    for other in outs[1:]:
        for a, b in zip(outs[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["prefix", "p_tuning"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_bare_stack_of_a_causal_model(name: str, kind: str) -> None:
    _, model = build(ALL[name], kind, "features")
    outs = [model(**make_batch(kind, (6, 9), w)).last_hidden_state[:, -1] for w in (9, 15)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["prefix", "p_tuning"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generation_is_teacher_forcings_and_ignores_padding(name: str, kind: str, how: dict) -> None:
    _, model = build(ALL[name], kind)
    outs = []
    for width in (9, 17):
        batch = without_decoder(make_batch(kind, (6, 9), width))
        out = model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, eos_token_id=63, **how)
        outs.append(out[:, 1:] if kind == "t5" else out[:, width:])
    assert outs[0].shape[1] == 5
    assert torch.equal(*outs)
    if how["num_beams"] > 1:
        return
    batch = without_decoder(make_batch(kind, (6, 9), 9))
    if kind == "t5":
        decoder = torch.cat([torch.zeros(2, 1, dtype=torch.long), outs[0][:, :-1]], 1)
        logits = model(**batch, decoder_input_ids=decoder).logits
    else:
        mask = nn.functional.pad(batch["attention_mask"], (0, 5), value=1)
        logits = model(input_ids=torch.cat([batch["input_ids"], outs[0]], 1), attention_mask=mask).logits[:, -6:-1]
    logits[..., 63] = -torch.inf
    assert torch.equal(logits.argmax(-1), outs[0])


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_switched_off_the_base_answers(kind: str) -> None:
    tuner, model = build(PREFIX, kind)
    batch = make_batch(kind)
    base = read_out(tiny_backbone(kind).model(**batch))
    assert not torch.allclose(read_out(model(**batch)), base, atol=1e-3)
    with tuner.disabled(model):
        torch.testing.assert_close(read_out(model(**batch)), base)


# the layout of a prefix


def test_layers_are_joined_as_they_are_split() -> None:
    prefix, shape = torch.randn(5, 2 * 3 * 2 * 4), Shape(layers=3, heads=2, width=4)

    class Layer:
        def __init__(self, pair):
            self.keys, self.values = pair

    class Cache:
        layers = [Layer(pair) for pair in split_layers(prefix, shape)]  # noqa: RUF012

    assert Cache.layers[0].keys.shape == (1, 2, 5, 4)
    assert torch.equal(join_layers(Cache()), prefix)


def test_grouped_heads_have_their_own_number() -> None:
    assert shape_of(tiny_backbone("llama")) == Shape(layers=2, heads=1, width=8)
    assert shape_of(tiny_backbone("t5")) == Shape(layers=2, heads=2, width=8)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prefix_of_real_tokens_is_those_tokens_in_front(kind: str) -> None:
    """Causal: the text's own keys and values as a prefix are the text itself."""
    backbone = tiny_backbone(kind)
    _, model = build(PREFIX, kind)
    ids = [7, 8, 9, 10, 11]
    with torch.no_grad():
        model.encoder.embedding.weight.copy_(prefix_of_tokens(backbone.model, ids))
    rest = make_batch(kind, (4,))["input_ids"]
    whole = backbone.model(input_ids=torch.cat([torch.tensor([ids]), rest], 1)).logits[:, 5:]
    torch.testing.assert_close(model(input_ids=rest).logits, whole, atol=1e-5, rtol=0)
    with_mask = model(input_ids=rest, attention_mask=torch.ones_like(rest)).logits
    torch.testing.assert_close(with_mask, whole, atol=1e-5, rtol=0)


def test_a_prefix_of_real_decoder_tokens_is_those_tokens_in_front() -> None:
    backbone, batch = tiny_backbone("t5"), make_batch("t5", (9,))
    _, model = build(PREFIX, "t5")
    whole_ids = torch.tensor([[0, 8, 9, 10, 11, 5, 6]])
    whole = backbone.model(**{**batch, "decoder_input_ids": whole_ids}, use_cache=True)
    with torch.no_grad():
        cache = whole.past_key_values.self_attention_cache
        model.encoder.embedding.weight.copy_(join_layers(cache)[:5])
    out = model(**{**batch, "decoder_input_ids": whole_ids[:, 5:]})
    torch.testing.assert_close(out.logits, whole.logits[:, 5:], atol=1e-5, rtol=0)


def test_plain_peft_cannot_load_an_encoder_decoders_prefix(tmp_path) -> None:
    tuner, model = build(PREFIX, "t5")
    tuner.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        peft.PeftModel.from_pretrained(tiny_backbone("t5").model, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_from_text_labels_and_vocabulary_differ(kind: str) -> None:
    starts = []
    for init in ("text", "labels", "vocab", "random"):
        _, model = build({**PREFIX, "init": init, "init_text": "topic of this"}, kind)
        starts.append(model.prefix().detach())
        assert starts[-1].isfinite().all()
    assert all(not torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])


# P-tuning v1


def test_the_encoder_of_p_tuning_is_pefts_and_is_gone_after_export(tmp_path) -> None:
    tuner, model = build(PROMPT, "bert")
    tuner.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_backbone("bert").model, tmp_path)
    assert sum(p.numel() for p in theirs.prompt_encoder.parameters()) == 5 * D
    (tmp_path / "prompt_encoder.safetensors").unlink()
    with pytest.raises(UsageError, match=r"prompt_encoder\.safetensors: no such file"):
        tuner.load(model, tmp_path)


def test_a_foreign_encoder_file_is_refused(tmp_path) -> None:
    tuner, model = build(PROMPT, "bert")
    tuner.save(model, tmp_path)
    other_tuner, other = build({**PROMPT, "hidden": 8}, "bert")
    with pytest.raises(UsageError, match=r"prompt_encoder\.safetensors: made with other settings"):
        other_tuner.load(other, tmp_path)


# refusals


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"init=text.*projection=true.*init=random"):
        build({**PREFIX, "projection": True, "init": "text"}, "bert")
    with pytest.raises(UsageError, match=r"65 positions.*has 64.*max_length=59"):
        build_tuner(PrefixTuningOptions(**PREFIX)).build(tiny_backbone("bert"), TunerContext(60, (), 0))
    _, model = build(PREFIX, "llama")
    model.model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(UsageError, match="gradient_checkpointing=true"):
        model(**make_batch("llama"))
    with pytest.raises(ValueError, match=r"attention_mask \(batch, n\)"):
        build(PREFIX, "bert")[1](input_ids=torch.ones(1, 3).long(), attention_mask=torch.ones(1, 3, 3))


@pytest.mark.parametrize("kind", ["distilbert", "albert", "modernbert", "nomic_bert"])
def test_without_a_cache_attention_sees_the_prefix_before_its_own_keys(kind: str) -> None:
    """Beside an attention function that puts the same keys and values in front, and pads nothing."""
    backbone = load_backbone(architectures()[kind], "features")
    plain = copy.deepcopy(backbone.model)
    model = build_tuner(PrefixTuningOptions(**PREFIX)).build(backbone, CONTEXT).eval()
    with torch.no_grad():
        model.encoder.embedding.weight.normal_()
    layers = iter(split_layers(model.prefix().detach(), model.shape))

    def attention(module, query, key, value, mask, **kwargs):
        keys, values = next(layers)
        batch, length = len(query), keys.shape[2]
        key = torch.cat([keys.expand(batch, -1, -1, -1), key], dim=2)
        value = torch.cat([values.expand(batch, -1, -1, -1), value], dim=2)
        seen = torch.ones(batch, 1, query.shape[2], key.shape[2], dtype=torch.bool)
        if mask is not None:
            seen[..., length:] = mask
        return F.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("prefixed", attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("prefixed", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    plain.config._attn_implementation = "prefixed"
    ids = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    found = model(input_ids=ids, attention_mask=mask).last_hidden_state
    wanted = plain(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(found[mask.bool()], wanted[mask.bool()], atol=1e-5)
    with model.disable_adapter():
        plain.config._attn_implementation = "sdpa"
        bare = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(bare, plain(input_ids=ids, attention_mask=mask).last_hidden_state)


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2"])
def test_a_prefix_of_empty_values_only_takes_attention_away(kind: str) -> None:
    """Where attention is written out in the network: a share of it, one for each head and token, goes to the prefix."""
    backbone = load_backbone(architectures()[kind], "features")
    attention = anatomy_of(backbone.model).blocks()[0].attention
    plain = copy.deepcopy(backbone.model)
    model = build_tuner(PrefixTuningOptions(**PREFIX)).build(backbone, CONTEXT).eval()
    with torch.no_grad():  # keys and values of a layer stand one after the other
        model.encoder.embedding.weight.view(model.length, model.shape.layers, 2, -1)[:, :, 1] = 0
    ids = torch.randint(5, 90, (1, 7), generator=torch.Generator().manual_seed(0))
    states = []
    for one in (model, plain):
        matrix = (model.model if one is model else plain).get_submodule(attention.output.name)
        handle = matrix.register_forward_pre_hook(lambda m, args: states.append(args[0][0, -7:].detach()))
        one(input_ids=ids)
        handle.remove()
    shares = (states[0] / states[1]).view(7, attention.heads, attention.head_size)
    assert torch.allclose(shares, shares[..., :1].expand_as(shares), rtol=1e-3)
    assert float(shares.max()) < 0.9
    assert float(shares.min()) > 0


@pytest.mark.parametrize("name", ["prefix", "p_tuning"])
@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_a_bf16_base_keeps_fp32_adapters(name: str, kind: str) -> None:
    backbone = tiny_backbone(kind)
    backbone.model.to(torch.bfloat16)
    schema = PrefixTuningOptions if name == "prefix" else PTuningOptions
    model = build_tuner(schema(**ALL[name])).build(backbone, CONTEXT)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    train(model, kind)
    fp32 = build(ALL[name], kind)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert read_out(fp32(**make_batch(kind))).isfinite().all()


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2", "p_tuning", "ept", "iapt", "adept"])
def test_method_files_have_a_rate_for_every_group(method: str) -> None:
    cfg = compose([f"method={method}"]).method
    tuner = build_tuner(cfg.tuner)
    model = tuner.build(tiny_backbone("llama"), CONTEXT)
    assert cfg.lr.keys() == tuner.param_groups(model).keys() | {HEAD}
