"""Half fine-tuning: which matrices are drawn, what stays, rounds, files."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import find_blocks, make_batch, read_out, tiny_backbone
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, RobertaConfig

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone
from peftbench.training.optim import build_optimizer
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.full import FullOptions
from peftbench.tuners.hft import HftOptions
from peftbench.tuners.hft.tuner import category_of, draw_frozen

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)
KINDS = ("bert", "roberta", "t5", "llama", "gpt2")


def config(**changes) -> HftOptions:
    return HftOptions(name="hft", **changes)


def make(kind: str, seed: int = 3, **changes):
    tuner = build_tuner(config(**changes))
    return tuner, tuner.build(tiny_backbone(kind), TunerContext(24, (), seed)).eval()


def train(model: nn.Module, groups: dict[str, list[nn.Parameter]], kind: str, steps: int = 3) -> torch.optim.Optimizer:
    optimiser = build_optimizer(groups, dict.fromkeys(groups, 0.01), weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        out = read_out(model(**make_batch(kind)))
        (out - torch.linspace(-1, 1, out.shape[-1])).square().mean().backward()
        optimiser.step()
    return optimiser


def by_block(model: nn.Module, frozen: list[str]) -> dict[str, Counter[str]]:
    """Block -> category -> number of frozen modules."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in find_blocks(model)}
    for name in frozen:
        block = next(b for b in anatomy_of(model).blocks() if name.startswith(b.name + "."))
        category = category_of(name, model.get_submodule(name), block)
        assert category is not None
        counts[block.name][category] += 1
    return counts


def llama(layers: int) -> nn.Module:
    """LLaMA-2-7B's shapes, of any depth, without weights."""
    cfg = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(cfg)


@pytest.mark.parametrize("layers", [4, 5])
def test_half_of_every_category_of_a_gated_decoder(layers: int) -> None:
    model = llama(layers)
    counts = by_block(model, draw_frozen(model, config(), seed=1, round=0))
    assert all(c["attention"] == 2 and c["norm"] == 1 for c in counts.values())
    assert sorted(c["ffn"] for c in counts.values()) == [1] * (layers - layers // 2) + [2] * (layers // 2)


def test_share_of_llama_2_7b_and_roberta_base() -> None:
    model = llama(32)
    backbone = Backbone("llama", "causal", "lm", model, None, 4096, 4096, "last", "", "0", "random")  # type: ignore[arg-type]
    assert build_tuner(config()).expected_parameters(backbone, CONTEXT) == pytest.approx(3.50e9, rel=0.002)
    blocks = [p for b in find_blocks(model).values() for p in b.parameters()]
    held = sum(p.numel() for n in draw_frozen(model, config(), 1, 0) for p in model.get_submodule(n).parameters())
    assert held / sum(p.numel() for p in blocks) == pytest.approx(0.5, abs=0.01)
    with torch.device("meta"):
        model = AutoModel.from_config(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
    backbone = Backbone("roberta", "encoder", "features", model, None, 768, 512, "mean", "", "0", "random")  # type: ignore[arg-type]
    assert build_tuner(config()).expected_parameters(backbone, CONTEXT) / 124.6e6 == pytest.approx(0.66, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(kind: str) -> None:
    tuner, model = make(kind)
    held = {n for m in tuner.frozen for n in [f"{m}.{p}" for p, _ in model.get_submodule(m).named_parameters()]}
    assert held == {n for n, p in model.named_parameters() if not p.requires_grad}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == tuner.expected_parameters(
        tiny_backbone(kind), CONTEXT
    )
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimiser = train(model, tuner.param_groups(model), kind)
    names = {p: n for n, p in model.named_parameters()}
    assert not {names[p] for p in optimiser.state} & held
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) == (n in held), n
    if kind == "gpt2":  # c_attn is one matrix, so one of two is frozen
        assert all(c["attention"] == 1 for c in by_block(model, tuner.frozen).values())
    if kind == "t5":
        assert all(c["cross-attention"] == 2 * ("decoder" in b) for b, c in by_block(model, tuner.frozen).items())


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["category", "layer", "model"]),
    st.floats(0, 1).map(lambda x: round(x, 2)),
    st.integers(0, 99),
)
def test_any_ratio_at_any_level_freezes_that_share_of_the_matrices(kind, level, ratio, seed) -> None:
    model = tiny_backbone(kind).model
    frozen = draw_frozen(model, config(level=level, freeze_ratio=ratio), seed, 0)
    everything = draw_frozen(model, config(level=level, freeze_ratio=1.0), seed, 0)
    assert len(set(frozen)) == len(frozen)
    assert set(frozen) <= set(everything)
    pools = {"model": 1, "layer": 4, "category": 16}[level]  # each may round down by less than one
    assert 0 <= ratio * len(everything) - len(frozen) + 1e-9 < pools
    blocks = re.compile("|".join(map(re.escape, find_blocks(model))))
    assert all(blocks.match(name) for name in everything)


def test_ratio_0_is_full_fine_tuning_and_ratio_1_leaves_what_is_outside_the_blocks() -> None:
    results = []
    for tuner in (build_tuner(config(freeze_ratio=0)), build_tuner(FullOptions(name="full"))):
        model = tuner.build(tiny_backbone("bert"), CONTEXT).eval()
        train(model, tuner.param_groups(model), "bert")
        results.append(dict(model.named_parameters()))
    assert all(torch.equal(p, results[1][n]) for n, p in results[0].items())
    _, model = make("llama", freeze_ratio=1)
    left = {n for n, p in model.named_parameters() if p.requires_grad}
    assert left == {"model.embed_tokens.weight", "model.norm.weight"}


def test_the_mask_follows_its_seed_and_its_round() -> None:
    assert make("bert")[0].frozen == make("bert")[0].frozen
    assert make("bert")[0].frozen != make("bert", seed=4)[0].frozen
    assert make("bert", mask_seed=9)[0].frozen == make("bert", seed=4, mask_seed=9)[0].frozen
    assert make("bert")[0].frozen != make("bert", round=1)[0].frozen
    tuner, model = make("bert")
    first = tuner.frozen
    tuner.on_round(model, 1)
    assert tuner.frozen == make("bert", round=1)[0].frozen
    tuner.on_round(model, 0)
    assert tuner.frozen == first
    tuner, model = make("bert", resample="never")
    tuner.on_round(model, 1)
    assert tuner.frozen == first


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_files_hold_what_was_trained_in_any_round(kind: str, tmp_path) -> None:
    tuner, model = make(kind)
    train(model, tuner.param_groups(model), kind)
    tuner.on_round(model, 1)
    train(model, tuner.param_groups(model), kind)
    tuner.save(model, tmp_path)
    batch = make_batch(kind)
    fresh_tuner, fresh = make(kind, seed=8)
    mask = fresh_tuner.frozen
    fresh_tuner.warm_start(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    assert fresh_tuner.frozen == mask
    fresh_tuner, fresh = make(kind, seed=8)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    assert fresh_tuner.frozen == tuner.frozen
    # what was only loaded is written again
    train(fresh, fresh_tuner.param_groups(fresh), kind, steps=1)
    fresh_tuner.save(fresh, tmp_path / "again")
    last_tuner, last = make(kind)
    last_tuner.load(last, tmp_path / "again")
    assert torch.equal(read_out(last(**batch)), read_out(fresh(**batch)))


def test_a_file_of_another_backbone_is_refused(tmp_path) -> None:
    tuner, model = make("bert")
    tuner.save(model, tmp_path)
    other, llama_model = make("llama")
    with pytest.raises(UsageError, match="made from another backbone"):
        other.load(llama_model, tmp_path)


def test_the_record_learns_both_shares() -> None:
    tuner, _ = make("bert")
    assert re.search(r"hft: \d+\.\d% of the blocks' parameters and \d+\.\d% of all are trained", tuner.notes[0])
