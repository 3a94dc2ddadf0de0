"""Houlsby, Pfeiffer, parallel, lite, Compacter and convolution adapters: one tuner, several networks and places."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tiers import rest_slow
from tiny_models import D, find_blocks, make_batch, read_out, real_positions, tiny_backbone
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    BertConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
)

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.adapter_blocks import Bottleneck, Compacter, Conformer, Convpass, PhmFactors, convolve
from peftbench.tuners.adapter_tuner import AdapterLayer
from peftbench.tuners.budget import fit_budget
from peftbench.tuners.compacter import CompacterOptions
from peftbench.tuners.conv_adapter import ConvAdapterOptions
from peftbench.tuners.houlsby import HoulsbyOptions
from peftbench.tuners.lite import LiteOptions
from peftbench.tuners.parallel import ParallelOptions
from peftbench.tuners.pfeiffer import PfeifferOptions

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)
KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
TOKEN_WISE = {
    "houlsby": HoulsbyOptions(name="houlsby", bottleneck=3),
    "pfeiffer": PfeifferOptions(name="pfeiffer", bottleneck=3),
    "parallel": ParallelOptions(name="parallel", bottleneck=3),
    "lite": LiteOptions(name="lite", bottleneck=3),
    "compacter": CompacterOptions(name="compacter"),
    "compacter++": CompacterOptions(name="compacter", place="pfeiffer", train_norms=False, phm_dim=2, phm_rank=2),
}
CONVOLUTIONS = {
    f"{block}-{place}-{mode}": ConvAdapterOptions(
        name="conv_adapter", block=block, place=place, mode=mode, bottleneck=3, kernel=3
    )
    for block in ("bottleneck", "conformer", "convpass")
    for place in ("houlsby", "pfeiffer")
    for mode in ("parallel", "sequential")
}
CASES = [(name, kind) for name in TOKEN_WISE for kind in KINDS if name != "compacter++" or kind == "t5"]
CASES += [(name, "bert") for name in CONVOLUTIONS]
CASES += [("conformer-houlsby-parallel", "t5"), ("convpass-pfeiffer-sequential", "t5")]
EACH_ONCE = [("houlsby", "bert"), ("houlsby", "t5"), ("pfeiffer", "llama"), ("parallel", "gpt2"), ("lite", "roberta")]
EACH_ONCE += [("compacter", "t5"), ("compacter++", "t5"), ("conformer-houlsby-parallel", "t5")]
EACH_ONCE += [("bottleneck-houlsby-sequential", "bert"), ("convpass-pfeiffer-sequential", "bert")]


def make(name: str, kind: str, purpose: str | None = None):
    tuner = build_tuner({**TOKEN_WISE, **CONVOLUTIONS}[name])
    return tuner, tuner.build(tiny_backbone(kind, purpose), CONTEXT).eval()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def stir(model: nn.Module, spread: float = 0.3) -> None:
    """Values with which every part of the adapter matters."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in trained(model).values():
            p.add_(torch.randn_like(p) * spread)


def train(model: nn.Module, kind: str, steps: int = 3) -> None:
    optimiser = torch.optim.Adam(trained(model).values(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        out = read_out(model(**make_batch(kind))).float()
        # Uneven targets: behind a LayerNorm the distance to even ones is always the same.
        (out - torch.linspace(-1, 1, out.shape[-1])).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize(("name", "kind"), rest_slow(CASES, EACH_ONCE))
def test_trained_are_the_declared_numbers_and_the_base_stays_bit_for_bit(name: str, kind: str) -> None:
    tuner, model = make(name, kind)
    assert sum(p.numel() for p in trained(model).values()) == tuner.expected_parameters(tiny_backbone(kind), CONTEXT)
    (group,) = tuner.param_groups(model).items()
    assert group[0] == "adapter"
    assert list(map(id, group[1])) == [id(p) for p in trained(model).values()]
    before = {n: p.clone() for n, p in model.named_parameters()}
    train(model, kind, steps=4)
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n
        assert (p.grad is not None) == p.requires_grad, n


@pytest.mark.parametrize(("name", "kind"), rest_slow(CASES, EACH_ONCE))
def test_start_and_switch(name: str, kind: str) -> None:
    tuner, model = make(name, kind)
    batch = make_batch(kind, (9, 9))
    base = read_out(tiny_backbone(kind).model.requires_grad_(False)(**batch))
    out = read_out(model(**batch))
    if tuner.identity_at_start == "base":
        torch.testing.assert_close(out, base, atol=1e-6, rtol=0)
    elif name.startswith(("compacter", "lite")):
        torch.testing.assert_close(out, base, atol=1e-4, rtol=0)
    else:
        assert (out - base).abs().max() > 1e-4
    stir(model)
    assert (read_out(model(**batch)) - base).abs().max() > 1e-3
    switch = tuner.disabled(model)
    assert switch is not None
    with switch:
        assert torch.equal(read_out(model(**batch)), base)


@pytest.mark.parametrize(("name", "kind"), rest_slow(CASES, EACH_ONCE))
def test_saved_and_loaded_it_answers_the_same_and_learns_on(name: str, kind: str, tmp_path) -> None:
    tuner, model = make(name, kind)
    train(model, kind)
    tuner.save(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ADAPTER"
    fresh_tuner, fresh = make(name, kind)
    batch = make_batch(kind)
    assert not torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    train(fresh, kind, steps=1)
    theirs = PeftModel.from_pretrained(tiny_backbone(kind).model, tmp_path).eval()
    assert torch.equal(read_out(theirs(**make_batch(kind, (9, 9)))), read_out(model(**make_batch(kind, (9, 9)))))


@pytest.mark.parametrize(("name", "kind"), rest_slow(CASES, EACH_ONCE))
def test_padding_and_company_change_no_output(name: str, kind: str) -> None:
    _, model = make(name, kind)
    stir(model)
    alone = make_batch(kind, (6,))
    outs = [real_positions(kind, read_out(model(**alone)), alone["attention_mask"], 0)[0]]
    for width in (9, 20):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], 0)[0])
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["houlsby", "parallel", "compacter", "conformer-houlsby-parallel"])
@pytest.mark.parametrize("kind", ["t5", "llama", "gpt2"])
def test_cached_generation_equals_teacher_forcing(name: str, kind: str) -> None:
    if name.startswith("conformer") and kind != "t5":
        pytest.skip("convolutions are for encoders and encoder-decoders")
    _, model = make(name, kind)
    stir(model)
    batch = {k: v for k, v in make_batch(kind, (6, 9), 12).items() if k != "decoder_input_ids"}
    new = model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert torch.equal(
        new, model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None, use_cache=False)
    )
    if kind == "t5":
        logits = model(**batch, decoder_input_ids=new).logits
        assert torch.equal(logits.argmax(-1)[:, :-1], new[:, 1:])
    else:
        mask = F.pad(batch["attention_mask"], (0, 5), value=1)
        logits = model(input_ids=new, attention_mask=mask).logits
        assert torch.equal(logits.argmax(-1)[:, -6:-1], new[:, -5:])


@pytest.mark.parametrize("name", ["houlsby", "parallel", "lite", "compacter", "conformer-houlsby-parallel"])
def test_a_bf16_backbone_with_fp32_adapters_learns(name: str) -> None:
    tuner = build_tuner({**TOKEN_WISE, **CONVOLUTIONS}[name])
    backbone = tiny_backbone("bert")
    backbone.model.to(torch.bfloat16)
    model = tuner.build(backbone, CONTEXT)
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    assert read_out(model(**make_batch("bert"))).dtype == torch.bfloat16
    target = torch.randn(D)
    optimiser = torch.optim.Adam(trained(model).values(), 0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (read_out(model(**make_batch("bert"))).float() - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["parallel", "conformer-houlsby-parallel"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        _, model = make(name, "bert")
        stir(model)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        read_out(model(**make_batch("bert"))).square().mean().backward()
        gradients.append([p.grad for p in trained(model).values()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_deep_copy_does_not_lean_on_its_original() -> None:
    for name in ("parallel", "compacter", "conformer-houlsby-parallel"):
        _, model = make(name, "bert")
        stir(model)
        batch = make_batch("bert")
        out = read_out(model(**batch))
        twin = copy.deepcopy(model)
        stir(model, spread=1.0)
        assert torch.equal(read_out(twin(**batch)), out)
        assert not torch.equal(read_out(model(**batch)), out)


def test_unloading_gives_the_bare_backbone_back() -> None:
    _, model = make("conformer-houlsby-parallel", "bert")
    bare = model.unload()
    assert not any(isinstance(m, AdapterLayer) for m in bare.modules())
    assert not any(m._forward_pre_hooks for m in bare.modules())
    assert torch.equal(
        read_out(bare(**make_batch("bert"))), read_out(tiny_backbone("bert").model(**make_batch("bert")))
    )
    _, model = make("pfeiffer", "bert")
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()


def test_two_adapters_are_switched_and_share_nothing() -> None:
    for name in ("compacter++", "parallel"):
        tuner, model = make(name, "bert")
        stir(model)
        batch = make_batch("bert")
        first = read_out(model(**batch))
        model.add_adapter("second", tuner.adapter(D))
        model.set_adapter("second")
        second = read_out(model(**batch))
        torch.testing.assert_close(second, read_out(tiny_backbone("bert").model(**batch)), atol=1e-4, rtol=0)
        assert not torch.allclose(first, second, atol=1e-3)
        model.set_adapter("default")
        assert torch.equal(read_out(model(**batch)), first)


# Sizes of real networks


def full_size(config, auto=AutoModel, family="encoder", **kwargs) -> Backbone:
    with torch.device("meta"):
        model = auto.from_config(config, **kwargs)
    width = config.d_model if config.model_type == "t5" else config.hidden_size
    return Backbone("full", family, "features", model, None, width, 512, "mean", "", "0", "random")  # type: ignore[arg-type]


ROBERTA_LARGE = RobertaConfig(
    vocab_size=50265, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
)
T5_BASE = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)


@pytest.mark.parametrize(
    ("cfg", "config", "count"),
    [
        (LiteOptions(name="lite"), ROBERTA_LARGE, 12_582_912),
        (PfeifferOptions(name="pfeiffer"), BertConfig(), 894_528),
        (HoulsbyOptions(name="houlsby"), BertConfig(), 2 * 894_528),
        (PfeifferOptions(name="pfeiffer"), T5_BASE, 1_789_056),
        (HoulsbyOptions(name="houlsby"), T5_BASE, 2 * 1_789_056),
        (CompacterOptions(name="compacter"), T5_BASE, 48 * (1_584 + 792) + 64 + 47_616),
        (CompacterOptions(name="compacter", place="pfeiffer", train_norms=False), BertConfig(), 12 * 2_376 + 64),
        *(
            (
                ConvAdapterOptions(name="conv_adapter", block=block, kernel=31, reduction_factor=rate),
                BertConfig(),
                count,
            )
            for rate, conformer, bottleneck in (
                (64, 364_608, 230_544),
                (96, 252_288, 156_768),
                (128, 196_128, 119_880),
            )
            for block, count in (("conformer", conformer), ("bottleneck", bottleneck))
        ),
    ],
)
def test_counts_of_the_papers(cfg, config, count: int) -> None:
    seq2seq = config.model_type == "t5"
    auto, family = (AutoModelForSeq2SeqLM, "seq2seq") if seq2seq else (AutoModel, "encoder")
    backbone = full_size(config, auto, family)
    tuner = build_tuner(cfg)
    assert tuner.expected_parameters(backbone, CONTEXT) == count
    if count < 3_000_000:
        model = tuner.build(backbone, CONTEXT)
        assert sum(p.numel() for p in trained(model).values()) == count


def test_with_the_masked_lm_head_they_are_the_parameters_that_list_trains() -> None:
    """LiST (arXiv 2110.06274) also trains roberta-large's language-model head, all but the tied word embeddings."""
    with torch.device("meta"):
        head = RobertaForMaskedLM(ROBERTA_LARGE).lm_head
    own = sum(p.numel() for name, p in head.named_parameters() if name != "decoder.weight" and name != "decoder.bias")
    adapters = build_tuner(LiteOptions(name="lite")).expected_parameters(full_size(ROBERTA_LARGE), CONTEXT)
    assert adapters + own == 13_684_825


def test_a_budget_sets_the_bottleneck_or_the_rank() -> None:
    tuner = build_tuner(PfeifferOptions(name="pfeiffer"))
    backbone = full_size(BertConfig())
    fit_budget(tuner, 900_000, backbone, CONTEXT)
    assert tuner.cfg.bottleneck == 48
    tuner = build_tuner(CompacterOptions(name="compacter", train_norms=False))
    fit_budget(tuner, 200_000, backbone, CONTEXT)
    assert tuner.expected_parameters(backbone, CONTEXT) == pytest.approx(200_000, rel=0.05)


# The sub-layers


@pytest.mark.parametrize("kind", KINDS)
def test_sublayers_of_every_family(kind: str) -> None:
    model = tiny_backbone(kind).model
    found = anatomy_of(model).sublayers()
    stacks = 2 if kind == "t5" else 1
    assert [s.place for s in found] == ["attention", "ffn"] * 2 * stacks
    assert len(find_blocks(model)) == 2 * stacks
    for s in found:
        inlet, outlet = model.get_submodule(s.inlet), model.get_submodule(s.outlet)
        block = next(name for name in find_blocks(model) if s.inlet.startswith(name + "."))
        assert s.outlet.startswith(block + ".")
        read = {"seen": False}
        inlet.register_forward_pre_hook(lambda m, args, read=read: read.update(seen=True, width=args[0].shape[-1]))
        outlet.register_forward_hook(lambda m, args, out, read=read: read.update(out=out.shape[-1], last=read["seen"]))
        model(**make_batch(kind))
        assert read["width"] == read["out"] == D
        assert read["last"]  # the inlet runs before the outlet


# The blocks


def test_compacter_matrix_is_the_sum_of_kronecker_products_and_the_rule_is_one_tensor() -> None:
    _, model = make("compacter++", "bert")
    stir(model)
    blocks = [m for m in model.modules() if isinstance(m, Compacter)]
    assert len(blocks) == 2
    (name,) = [n for n in trained(model) if ".rule." in n]
    assert "layer.0" in name
    rule = blocks[0]._rule[0].weight
    for block in blocks:
        assert block._rule[0].weight is rule
        for own in (block.down, block.up):
            by_hand = sum(torch.kron(a, s @ t) for a, s, t in zip(rule, own.s, own.t, strict=True))
            torch.testing.assert_close(own.matrix(rule), by_hand)
    rule.data.zero_()
    x = torch.randn(3, D)
    assert all(torch.equal(block(x, None), block.up.bias.expand(3, D)) for block in blocks)


def test_compacter_files_hold_the_rule_once(tmp_path) -> None:
    from safetensors.torch import load_file

    tuner, model = make("compacter++", "bert")
    tuner.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(".rule." in name for name in tensors) == 1
    assert sum(t.numel() for t in tensors.values()) == tuner.expected_parameters(tiny_backbone("bert"), CONTEXT)


def test_where_lite_and_compacter_start() -> None:
    """LiST's released `init_adapter` overwrites its layer's 0.02; Compacter's factors have a gain of sqrt(2)."""
    torch.manual_seed(0)
    lite = build_tuner(LiteOptions(name="lite")).build(tiny_backbone("bert"), CONTEXT)
    assert torch.cat([p.flatten() for p in trained(lite).values()]).std().item() == pytest.approx(2e-4, rel=0.05)
    factors = PhmFactors(768, 24, n=4, rank=1)
    for values, fans in ((factors.s, 192 + 1), (factors.t, 1 + 6)):
        bound = 2**0.5 * (6 / fans) ** 0.5
        assert 0.8 * bound < values.abs().max().item() <= bound


def test_kernel_1_is_token_wise_and_wider_kernels_see_neighbours() -> None:
    x = torch.randn(1, 7, D)
    changed = x.clone()
    changed[0, 3] = torch.randn(D)
    for kernel, reach in ((1, 0), (3, 1), (5, 2)):
        for block in (Conformer(D, 3, kernel, 0.0), Convpass(D, 3, kernel, 0.0)):
            for p in block.parameters():
                nn.init.normal_(p)
            moved = (block(x, None) - block(changed, None)).abs().sum(-1)[0] > 1e-5
            assert moved.nonzero().flatten().tolist() == list(range(3 - reach, 4 + reach))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 6), st.integers(0, 6), st.sampled_from([1, 3, 5, 7]))
def test_padding_on_either_side_is_as_if_the_text_ended(n: int, left: int, right: int, kernel: int) -> None:
    conv = nn.Conv1d(4, 4, kernel, padding=kernel // 2)
    x = torch.randn(1, n, 4)
    padded = F.pad(x, (0, 0, left, right), value=7.0)
    mask = F.pad(torch.ones(1, n, dtype=torch.long), (left, right))
    torch.testing.assert_close(convolve(conv, padded, mask)[:, left : left + n], convolve(conv, x, None))


def test_bottleneck_by_hand() -> None:
    block = Bottleneck(4, 2, "relu")
    for p in block.parameters():
        nn.init.normal_(p)
    x = torch.randn(3, 4)
    by_hand = torch.relu(x @ block.down.weight.T + block.down.bias) @ block.up.weight.T + block.up.bias
    torch.testing.assert_close(block(x, None), by_hand)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("residual", [True, False])
def test_placement_by_hand(mode: str, residual: bool) -> None:
    """At the feed-forward of BERT, with a block that is known."""
    cfg = ConvAdapterOptions(
        name="conv_adapter", block="bottleneck", bottleneck=3, mode=mode, residual=residual, kernel=1
    )
    tuner = build_tuner(cfg)
    assert tuner.identity_at_start == ("base" if residual == (mode == "sequential") else None)
    model = tuner.build(tiny_backbone("bert"), CONTEXT).eval()
    stir(model)
    seen: dict[str, torch.Tensor] = {}
    layer = model.base_model.layers()[0]
    first = model.base_model.model.encoder.layer[0]
    first.intermediate.dense.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    layer.base_layer.register_forward_hook(lambda m, args, out: seen.update(y=out))
    layer.register_forward_hook(lambda m, args, out: seen.update(out=out))
    model(**make_batch("bert"))
    block = layer.adapter_block["default"]
    source = seen["x"] if mode == "parallel" else seen["y"]
    expected = block(source, None) + (source if residual else 0) + (seen["y"] if mode == "parallel" else 0)
    torch.testing.assert_close(seen["out"], expected)


# What cannot work


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (ConvAdapterOptions(name="conv_adapter", kernel=4), r"method\.tuner\.kernel=4: use an odd number, 5"),
        (ConvAdapterOptions(name="conv_adapter", bottleneck=1), r"method\.tuner\.bottleneck=1: .*Use 4 or more"),
        (CompacterOptions(name="compacter", phm_dim=3), r"phm_dim=3 must divide the backbone's width 16"),
        (CompacterOptions(name="compacter", bottleneck=6), r"method\.tuner\.bottleneck=6"),
    ],
)
def test_what_does_not_fit_is_refused(cfg, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_tuner(cfg).build(tiny_backbone("bert"), CONTEXT)


def test_convolutions_are_not_for_causal_models() -> None:
    assert build_tuner(ConvAdapterOptions(name="conv_adapter")).families == {"encoder", "seq2seq"}


def test_a_conformer_keeps_enough_channels_to_say_something() -> None:
    """A LayerNorm over one channel gives a constant and over two a sign: whatever the text, two answers at most."""
    texts = torch.randn(64, 7, D, generator=torch.Generator().manual_seed(0))

    def answers(channels: int) -> int:
        block = Conformer(D, channels, 1, 0.0)
        nn.init.normal_(block.project.weight)
        return len(block(texts, None).detach().flatten(0, 1).mul(1e3).round().unique(dim=0))

    assert (answers(1), answers(4)) == (1, 64 * 7)
    for block, channels in (("conformer", 4), ("convpass", 2)):
        tuner = build_tuner(ConvAdapterOptions(name="conv_adapter", block=block, reduction_factor=32))
        assert tuner.cfg.bottleneck_at(64) == channels
        assert tuner.cfg.bottleneck_at(384) == 12


def test_convolutions_stay_out_of_a_decoder() -> None:
    _, model = make("conformer-houlsby-parallel", "t5")
    names = {n.partition(".adapter_block")[0] for n in trained(model)}
    assert len(names) == 4
    assert all(".encoder." in n for n in names)


def test_every_trained_tensor_is_inside_a_block_or_a_norm() -> None:
    _, model = make("compacter", "llama")
    assert all(".adapter_block." in n or ".modules_to_save." in n for n in trained(model))
