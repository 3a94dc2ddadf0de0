"""Embeddings and head, or the last block: parts of the backbone trained where they are."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import SMALL, VOCAB, D, make_batch, read_out, real_positions, tiny_backbone
from torch import nn
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, RobertaConfig

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.embed_head import EmbedHeadOptions
from peftbench.tuners.last_layer import LastLayerOptions

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)
KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
CONFIGS = {
    "embed_head": EmbedHeadOptions(name="embed_head"),
    "last_layer": LastLayerOptions(name="last_layer"),
}
GROUPS = {"embed_head": "embedding", "last_layer": "last_layer"}
TRAINED = {
    ("embed_head", "bert"): ("embeddings.word_embeddings.",),
    ("embed_head", "roberta"): ("embeddings.word_embeddings.",),
    ("embed_head", "t5"): ("shared.",),
    ("embed_head", "llama"): ("model.embed_tokens.",),
    ("embed_head", "gpt2"): ("transformer.wte.",),
    ("last_layer", "bert"): ("encoder.layer.1.",),
    ("last_layer", "roberta"): ("encoder.layer.1.",),
    ("last_layer", "t5"): ("decoder.block.1.",),
    ("last_layer", "llama"): ("model.layers.1.",),
    ("last_layer", "gpt2"): ("transformer.h.1.",),
}


def make(name: str, kind: str):
    tuner = build_tuner(CONFIGS[name])
    return tuner, tuner.build(tiny_backbone(kind), CONTEXT).eval()


def train(model: nn.Module, kind: str, steps: int = 3) -> None:
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        out = read_out(model(**make_batch(kind)))
        (out - torch.linspace(-1, 1, out.shape[-1])).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize(("name", "kind"), TRAINED)
def test_only_the_named_tensors_are_trained(name: str, kind: str, tmp_path) -> None:
    tuner, model = make(name, kind)
    batch = make_batch(kind, (9, 9))
    base = read_out(tiny_backbone(kind).model(**batch))
    torch.testing.assert_close(read_out(model(**batch)), base, atol=1e-5, rtol=0)
    chosen = {n for n, p in model.named_parameters() if p.requires_grad}
    assert chosen == {n for n, _ in model.named_parameters() if n.startswith(TRAINED[name, kind])}
    ((group, members),) = tuner.param_groups(model).items()
    assert group == GROUPS[name]
    assert sum(p.numel() for p in members) == tuner.expected_parameters(tiny_backbone(kind), CONTEXT)
    before = {n: p.clone() for n, p in model.named_parameters()}
    train(model, kind)
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) == (n not in chosen) or n.endswith(("key.bias", "relative_attention_bias")), n
    tuner.save(model, tmp_path)
    assert load_file(tmp_path / "backbone_part.safetensors").keys() == chosen
    fresh_tuner, fresh = make(name, kind)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_changes_no_output(name: str, kind: str) -> None:
    _, model = make(name, kind)
    train(model, kind)
    outs = []
    for width in (9, 20):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], 0))
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_counts_on_roberta_base() -> None:
    with torch.device("meta"):
        config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        model = AutoModel.from_config(config, add_pooling_layer=False)
    backbone = Backbone("roberta-base", "encoder", "features", model, None, 768, 512, "mean", "", "0", "random")  # type: ignore[arg-type]
    counts = {name: build_tuner(cfg).expected_parameters(backbone, CONTEXT) for name, cfg in CONFIGS.items()}
    assert counts == {"embed_head": 50_265 * 768, "last_layer": 7_087_872}


def test_rows_of_words_that_do_not_occur_stay_where_they_are() -> None:
    _, model = make("embed_head", "bert")
    before = model.get_input_embeddings().weight.clone()
    train(model, "bert")
    seen = make_batch("bert")["input_ids"].unique()
    moved = (model.get_input_embeddings().weight != before).any(1).nonzero().flatten()
    assert set(moved.tolist()) <= set(seen.tolist())
    assert len(moved) >= len(seen) - 1  # the padding row is looked up, but nothing depends on it


def test_an_untied_head_is_trained_with_the_embeddings() -> None:
    backbone = tiny_backbone("llama")
    backbone.model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False))
    tuner = build_tuner(CONFIGS["embed_head"])
    assert tuner.expected_parameters(backbone, CONTEXT) == 2 * VOCAB * D
    model = tuner.build(backbone, CONTEXT)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }


def test_more_blocks_than_there_are() -> None:
    tuner = build_tuner(LastLayerOptions(name="last_layer", layers=2))
    model = tuner.build(tiny_backbone("t5"), CONTEXT)
    assert {n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {"0", "1"}
    assert not any(p.requires_grad for p in model.encoder.parameters())
    with pytest.raises(UsageError, match=r"method\.tuner\.layers=3: the encoder of model=tiny-bert has 2 blocks"):
        build_tuner(LastLayerOptions(name="last_layer", layers=3)).build(tiny_backbone("bert"), CONTEXT)
