"""The mix-and-match adapter is prefix tuning and parallel adapters on one backbone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_batch, read_out, real_positions, tiny_backbone
from torch import nn

from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.mam import MamOptions
from peftbench.tuners.parallel import ParallelOptions
from peftbench.tuners.prefix_tuning import PrefixTuningOptions

CONTEXT = TunerContext(max_length=24, label_words=(), seed=3)
KINDS = ("bert", "t5", "llama", "gpt2")
KNOBS = {"num_virtual_tokens": 4, "init": "random"}
MAM = MamOptions(name="mam", bottleneck=3, **KNOBS)


def make(kind: str, cfg: MamOptions = MAM):
    tuner = build_tuner(cfg)
    return tuner, tuner.build(tiny_backbone(kind), CONTEXT).eval()


def stir(parameters: list[nn.Parameter]) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn_like(p) * 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_both_parts_are_trained_and_the_backbone_is_not(kind: str, tmp_path) -> None:
    tuner, model = make(kind)
    groups = tuner.param_groups(model)
    assert {name: len(ps) for name, ps in groups.items()} == {"prefix": 1, "adapter": 4 * (4 if kind == "t5" else 2)}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for ps in groups.values() for p in ps} == {id(p) for p in trained}
    assert sum(p.numel() for p in trained) == tuner.expected_parameters(tiny_backbone(kind), CONTEXT)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.Adam(trained, 0.02)
    for _ in range(3):
        optimiser.zero_grad()
        out = read_out(model(**make_batch(kind)))
        (out - torch.linspace(-1, 1, out.shape[-1])).square().mean().backward()
        optimiser.step()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n
    tuner.save(model, tmp_path)
    fresh_tuner, fresh = make(kind)
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**make_batch(kind))), read_out(model(**make_batch(kind))))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_with_the_adapters_at_their_start_it_is_prefix_tuning_and_without_the_prefix_parallel(kind: str) -> None:
    batch = make_batch(kind)
    tuner, model = make(kind)
    prefix = build_tuner(PrefixTuningOptions(name="prefix_tuning", **KNOBS))
    expected = read_out(prefix.build(tiny_backbone(kind), CONTEXT).eval()(**batch))
    torch.testing.assert_close(read_out(model(**batch)), expected)
    stir(tuner.param_groups(model)["adapter"])
    parallel = build_tuner(ParallelOptions(name="parallel", bottleneck=3))
    alone = parallel.build(tiny_backbone(kind), CONTEXT).eval()
    stir(parallel.param_groups(alone)["adapter"])
    with tuner.prefix.disabled(model.prefixed):
        torch.testing.assert_close(read_out(model(**batch)), read_out(alone(**batch)))
    with tuner.disabled(model):
        torch.testing.assert_close(read_out(model(**batch)), read_out(tiny_backbone(kind).model(**batch)))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_output_and_no_generated_token(kind: str) -> None:
    tuner, model = make(kind)
    stir([p for ps in tuner.param_groups(model).values() for p in ps])
    outs, new = [], []
    for width in (9, 20):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], 0))
        if kind != "bert":
            batch.pop("decoder_input_ids", None)
            new.append(model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None)[:, -5:])
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert not new or torch.equal(*new)
