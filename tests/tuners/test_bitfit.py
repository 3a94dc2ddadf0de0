"""BitFit: existing biases, added ones, counts, files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import VOCAB, D, make_batch, read_out, real_positions, tiny_backbone
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, BertConfig, RobertaConfig, T5Config

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tables import commands, spec
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.bitfit import BitfitOptions

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)
KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
PLAIN = BitfitOptions(name="bitfit")
ADDED = BitfitOptions(name="bitfit", add_missing=True)
SMALL = BitfitOptions(name="bitfit", biases="query_mlp", add_missing=True)


def make(kind: str, cfg: BitfitOptions = ADDED):
    tuner = build_tuner(cfg)
    return tuner, tuner.build(tiny_backbone(kind), CONTEXT).eval()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def train(model: nn.Module, kind: str, steps: int = 3) -> None:
    optimiser = torch.optim.Adam(trained(model).values(), 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        out = read_out(model(**make_batch(kind)))
        (out - torch.linspace(-1, 1, out.shape[-1])).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("cfg", [ADDED, SMALL], ids=["all", "query_mlp"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_biases_move_and_the_start_is_the_backbone(kind: str, cfg: BitfitOptions) -> None:
    tuner, model = make(kind, cfg)
    expected = tuner.expected_parameters(tiny_backbone(kind), CONTEXT)
    assert sum(p.numel() for p in trained(model).values()) == expected
    assert tuner.expected_parameters(Backbone(**{**vars(tiny_backbone(kind)), "model": model}), CONTEXT) == expected
    batch = make_batch(kind, (9, 9))
    base = read_out(tiny_backbone(kind).model(**batch))
    torch.testing.assert_close(read_out(model(**batch)), base, atol=1e-5, rtol=0)
    ((group, members),) = tuner.param_groups(model).items()
    assert (group, list(map(id, members))) == ("bias", [id(p) for p in trained(model).values()])
    before = {n: p.clone() for n, p in model.named_parameters()}
    train(model, kind)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert all(n.endswith(".bias") for n in moved)
    # a key's bias shifts all scores of a query alike, so softmax gives it no gradient
    assert {n for n in trained(model) if not any(k in n for k in ("key.bias", "k.bias", "k_proj.bias"))} <= moved


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_answers_the_same(kind: str, tmp_path) -> None:
    tuner, model = make(kind)
    train(model, kind)
    tuner.save(model, tmp_path)
    assert sum(t.numel() for t in load_file(tmp_path / "backbone_part.safetensors").values()) == sum(
        p.numel() for p in trained(model).values()
    )
    fresh_tuner, fresh = make(kind)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**make_batch(kind))), read_out(model(**make_batch(kind))))
    other, small = make(kind, SMALL)
    with pytest.raises(UsageError, match="made from another backbone or with other settings"):
        other.load(small, tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        other.load(small, tmp_path / "absent")


@pytest.mark.parametrize("kind", ["t5", "llama", "gpt2"])
def test_padding_changes_no_output_and_no_generated_token(kind: str) -> None:
    _, model = make(kind)
    train(model, kind)
    outs, new = [], []
    for width in (9, 20):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], 0))
        batch.pop("decoder_input_ids", None)
        new.append(model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None)[:, -5:])
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert torch.equal(*new)


def full_size(config, auto=AutoModel, **kwargs) -> Backbone:
    with torch.device("meta"):
        model = auto.from_config(config, **kwargs)
    return Backbone("full", "encoder", "features", model, None, 768, 512, "mean", "", "0", "random")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cfg", "config", "auto", "kwargs", "count"),
    [
        (PLAIN, BertConfig(), AutoModel, {}, 102_912),
        (PLAIN, RobertaConfig(vocab_size=50265), AutoModel, {"add_pooling_layer": False}, 102_144),
        (BitfitOptions(name="bitfit", biases="query_mlp"), BertConfig(), AutoModel, {}, 12 * (768 + 3072)),
        # 250,368 of the stacks and 32,128 of the head: the literature's 280K
        (ADDED, T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12), AutoModelForSeq2SeqLM, {}, 282_496),
    ],
)
def test_counts_of_the_papers(cfg, config, auto, kwargs, count: int) -> None:
    backbone = full_size(config, auto, **kwargs)
    tuner = build_tuner(cfg)
    assert tuner.expected_parameters(backbone, CONTEXT) == count
    assert sum(p.numel() for p in trained(tuner.build(backbone, CONTEXT)).values()) == count


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_backbone_without_biases_is_refused_unless_they_may_be_added(kind: str) -> None:
    with pytest.raises(UsageError, match=r"has no bias to train\. Set method\.tuner\.add_missing=true"):
        make(kind, PLAIN)


@pytest.mark.parametrize(("table", "kind"), [("dept-glue", "t5"), ("iapt", "llama")])
def test_rows_of_the_tables_can_be_built(table: str, kind: str) -> None:
    """Their backbones, t5-base and llama-2-7b, have no biases of their own."""
    row = next(row for row in spec.load(table).rows if row.label == "BitFit")
    cfg = compose([f"{key}={commands.value(value)}" for key, value in row.run.items()]).method.tuner
    model = build_tuner(cfg).build(tiny_backbone(kind), CONTEXT)
    assert any(p.requires_grad for p in model.parameters())


def test_added_biases_are_one_vector_each_and_do_what_a_bias_does() -> None:
    _, model = make("t5")
    linear = model.encoder.block[0].layer[1].DenseReluDense.wi
    norm = model.encoder.block[0].layer[0].layer_norm
    assert [tuple(p.shape) for p in trained(linear).values()] == [(32,)]
    x = torch.randn(2, 3, D)
    before = [linear(x), norm(x), model.lm_head(x)]
    with torch.no_grad():
        for module in (linear, norm, model.lm_head):
            module.bias += 2
    for module, old in zip((linear, norm, model.lm_head), before, strict=True):
        torch.testing.assert_close(module(x), old + 2)
    assert model.lm_head.weight is model.shared.weight  # still tied, still frozen
    assert not model.shared.weight.requires_grad
    assert model.lm_head.bias.shape == (VOCAB,)
