"""`method=peft` and the method files made of it: types, options, target modules, counts; and AdaLoRA."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from made_up_configs import compose
from tiny_models import make_batch, read_out, tiny_backbone
from torch import nn

from peftbench.errors import UsageError
from peftbench.records.ids import run_id
from peftbench.tuners import Tuner, TunerContext, build_tuner
from peftbench.tuners.adalora import AdaLoraOptions
from peftbench.tuners.adalora.tuner import distance_from_orthogonality
from peftbench.tuners.budget import fit_budget
from peftbench.tuners.peft import PeftTypeOptions
from peftbench.tuners.peft.tuner import _refuse_slow_patterns

CONTEXT = TunerContext(max_length=24, label_words=("sport", "health"), seed=3)
SMALL = {
    "LORA": {"r": 2, "use_dora": True},
    "BEFT": {},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "DELORA": {"r": 2},
    "FOURIERFT": {"n_frequency": 9},
    "HIRA": {"r": 2},
    "HRA": {"r": 2},
    "IA3": {},
    "LN_TUNING": {},
    "LOHA": {"r": 2},
    "LOKR": {"r": 1, "decompose_factor": 2},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "RANDLORA": {"r": 3},
    "ROAD": {"variant": "road_2", "group_size": 8},
    "TRAINABLE_TOKENS": {"token_indices": [4, 5, 6]},
    "VERA": {"r": 3},
}
"""Every type with a formula, with options that fit the widths of 8, 16 and 32 in the test networks."""


def tuner_of(kind: str, **options: object) -> Tuner:
    return build_tuner(PeftTypeOptions(name="peft", type=kind, options=options))


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "llama"])
@pytest.mark.parametrize("name", SMALL)
def test_the_count_is_the_formulas(name: str, kind: str) -> None:
    tuner, backbone = tuner_of(name, **SMALL[name]), tiny_backbone(kind)
    expected = tuner.expected_parameters(backbone, CONTEXT)
    model = tuner.build(backbone, CONTEXT)
    assert trainable(model) == expected == tuner.expected_parameters(backbone, CONTEXT)
    assert list(tuner.param_groups(model)) == ["adapter"]


@pytest.mark.parametrize("name", ["LORA", "IA3", "VERA", "LN_TUNING", "TRAINABLE_TOKENS"])
def test_transposed_matrices_are_counted_the_right_way_round(name: str) -> None:
    tuner, backbone = tuner_of(name, **SMALL[name]), tiny_backbone("gpt2")
    expected = tuner.expected_parameters(backbone, CONTEXT)
    assert trainable(tuner.build(backbone, CONTEXT)) == expected


def test_ia3_by_its_convention_on_t5() -> None:
    """Keys and values of all three kinds of attention and the inner activation of each feed-forward: the paper's
    vectors, 2 d + d_ff in each encoder layer and 4 d + d_ff in each decoder layer."""
    assert tuner_of("IA3").expected_parameters(tiny_backbone("t5"), CONTEXT) == 2 * (2 * 16 + 32) + 2 * (4 * 16 + 32)


@pytest.mark.parametrize("name", ["LORA", "LN_TUNING", "BOFT"])
def test_a_relative_with_the_same_module_names_gives_the_targets(name: str) -> None:
    known, unknown = tiny_backbone("roberta"), tiny_backbone("roberta")
    unknown.model.config.model_type = "unheard-of"
    counts = [trainable(tuner_of(name, **SMALL[name]).build(b, CONTEXT)) for b in (known, unknown)]
    assert counts[0] == counts[1]


def test_ia3_has_the_papers_vectors_where_peft_has_no_convention() -> None:
    """peft's own for RoBERTa have one more a layer: its `output.dense` is the attention's, too."""
    known, unknown = tiny_backbone("roberta"), tiny_backbone("roberta")
    unknown.model.config.model_type = "unheard-of"
    counts = [trainable(tuner_of("IA3").build(b, CONTEXT)) for b in (known, unknown)]
    assert counts == [2 * (3 * 16 + 32), 2 * (2 * 16 + 32)]


def test_an_architecture_without_relatives_is_adapted_in_all_linear_maps() -> None:
    backbone = tiny_backbone("bert")
    backbone.model.config.model_type = "unheard-of"
    for layer in backbone.model.encoder.layer:
        layer.attention.self.one, layer.attention.self.two = layer.attention.self.query, layer.attention.self.value
        del layer.attention.self.query, layer.attention.self.value
    tuner = tuner_of("MISS", r=4)
    expected = tuner.expected_parameters(backbone, CONTEXT)
    # 2 layers: four maps of 16 x 16, one of 16 to 32 and one back; r numbers for each row out
    assert trainable(tuner.build(backbone, CONTEXT)) == expected == 2 * 4 * (4 * 16 + 32 + 16)
    with pytest.raises(UsageError, match=r"parts of the architecture `unheard-of` cannot be read.*anatomy\.yaml"):
        tuner_of("IA3").expected_parameters(backbone, CONTEXT)


def test_the_tokens_that_are_trained_by_default() -> None:
    backbone = tiny_backbone("bert")
    vocabulary = backbone.tokenizer.get_vocab()
    config = tuner_of("TRAINABLE_TOKENS").peft_config(backbone, CONTEXT)  # type: ignore[attr-defined]
    assert config.token_indices == sorted(vocabulary[t] for t in ("<s>", "</s>", "sport", "health"))


def test_options_are_values_of_pefts_own_config() -> None:
    model = tuner_of("lora", r=3, target_modules=["key"]).build(tiny_backbone("bert"), CONTEXT)
    assert {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad} == {"key"}
    assert trainable(model) == 2 * 3 * (16 + 16)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("vrea", {}, r"type=vrea: peft .* has no such type\. Did you mean `VERA`"),
        ("VERA", {"rr": 3}, r"options\.rr: peft's VeraConfig has no such option to set\. Did you mean `r`"),
        ("VERA", {"task_type": "x"}, r"options\.task_type"),
        ("dept", {}, r"it is ours: use method=dept"),
        ("ADALORA", {}, r"use method=adalora"),
        ("PREFIX_TUNING", {}, r"soft prompts have methods of their own"),
        ("XLORA", {}, r"trained before"),
    ],
)
def test_what_does_not_exist_or_does_not_fit_is_said_early(kind: str, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tuner_of(kind, **options)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("LORA", {"r": -1}, r"LORA on model=tiny-bert: peft .* refuses it|does not accept them"),
        ("C3A", {"block_size": 7}, r"C3A on model=tiny-bert: peft .* refuses it"),
        ("LORA", {"target_modules": ["valeu"]}, r"refuses it: .*valeu"),
        ("ADAPTION_PROMPT", {}, r"refuses it: .*bert"),
    ],
)
def test_what_peft_refuses_is_passed_on_in_one_message(kind: str, options: dict, words: str) -> None:
    for ask in (tuner_of(kind, **options).check, tuner_of(kind, **options).build):
        with pytest.raises(UsageError, match=words):
            ask(tiny_backbone("bert"), CONTEXT)


@pytest.mark.parametrize("kind", ["LOHA", "LOKR", "BOFT", "OFT", "ROAD", "LILY"])
def test_matrices_stored_the_other_way_round_are_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(UsageError, match=rf"{kind} on model=tiny-gpt2: .*transposed.*Conv1D.* such as LORA"):
        tuner_of(kind).check(tiny_backbone("gpt2"), CONTEXT)


@pytest.mark.parametrize("kind", ["LORA", "BOFT", "SHIRA", "UNILORA"])
def test_a_start_that_reads_weights_is_no_refusal_before_there_are_any(kind: str) -> None:
    from peftbench.conformance.architectures import architectures
    from peftbench.models.outline import outline

    tuner_of(kind).check(outline(architectures()["bert"], "features"), CONTEXT)


def test_pissa_starts_at_the_base_and_does_not_claim_to_give_it_back() -> None:
    tuner = build_tuner(compose(["method=pissa", "method.tuner.options.r=2"]).method.tuner)
    backbone = tiny_backbone("bert")
    batch = make_batch("bert")
    before = read_out(backbone.model(**batch))
    model = tuner.build(backbone, CONTEXT).eval()
    torch.testing.assert_close(read_out(model(**batch)), before, atol=1e-5, rtol=1e-5)
    assert tuner.identity_at_start == "base"
    assert tuner.disabled(model) is None


def test_a_random_start_is_not_claimed_to_be_the_base() -> None:
    assert tuner_of("FOURIERFT").identity_at_start is None
    assert tuner_of("FOURIERFT", init_weights=True).identity_at_start == "base"
    assert tuner_of("LORA", init_lora_weights=False).identity_at_start is None


def test_both_spellings_are_the_same_run() -> None:
    short = compose(["method=peft", "method.type=VERA"])
    long = compose(["method=peft", "method.type=VERA", "method.tuner.type=VERA"])
    assert short.method.tuner.type == "VERA"
    assert short.method.name == "peft_VERA"
    vera = asdict(compose(["method=vera"]))
    named = {**vera, "method": {**vera["method"], "type": "VERA"}}
    assert run_id(vera, "d", "d") == run_id(named, "d", "d")
    assert run_id(asdict(short), "d", "d") == run_id(asdict(long), "d", "d")
    with pytest.raises(UsageError, match=r"method\.type.*needs one"):
        compose(["method=peft"])


@pytest.mark.parametrize(("method", "knob"), [("vera", "r"), ("loha", "r"), ("fourierft", "n_frequency")])
def test_a_budget_sets_the_option_that_decides_the_size(method: str, knob: str) -> None:
    tuner, backbone = build_tuner(compose([f"method={method}"]).method.tuner), tiny_backbone("bert")
    fit_budget(tuner, 1024, backbone, CONTEXT)
    reached = trainable(tuner.build(backbone, CONTEXT))
    assert reached == pytest.approx(1024, rel=0.05)
    assert f"options.{knob}={tuner.cfg.options[knob]}, which trains {reached} parameters" in tuner.notes[0]
    with pytest.raises(UsageError, match="cannot be derived from a budget"):
        fit_budget(tuner_of("IA3"), 1000, backbone, CONTEXT)


# AdaLoRA


def adalora(**changes: object) -> Tuner:
    return build_tuner(AdaLoraOptions(name="adalora", **{"init_rank": 4, "target_rank": 2, **changes}))


def train(tuner: Tuner, model: nn.Module, steps: int, start: int = 0) -> None:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for step in range(start, steps):
        read_out(model(**make_batch("bert"))).square().mean().backward()
        tuner.before_step(model, step, steps)
        optimiser.step()
        tuner.after_step(model, step, steps)
        optimiser.zero_grad()


def values(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().flatten() for n, p in model.named_parameters() if ".lora_E." in n]


def test_adalora_ends_with_the_target_rank_on_average(tmp_path) -> None:
    tuner, backbone = adalora(), tiny_backbone("bert")
    expected = tuner.expected_parameters(backbone, CONTEXT)
    model = tuner.build(backbone, CONTEXT)
    assert trainable(model) == expected == 4 * 4 * (16 + 16 + 1)  # query and value of 2 layers
    train(tuner, model, 20)
    left = [int((e != 0).sum()) for e in values(model)]
    assert sum(left) == 2 * len(left)
    tuner.save(model, tmp_path)
    again = adalora()
    fresh = again.build(tiny_backbone("bert"), CONTEXT)
    again.load(fresh, tmp_path)
    batch = make_batch("bert")
    assert torch.equal(read_out(fresh.eval()(**batch)), read_out(model.eval()(**batch)))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ADALORA"


def test_the_penalty_pulls_the_factors_towards_orthogonality() -> None:
    def distance(weight: float) -> float:
        tuner = adalora(orthogonality=weight)
        model = tuner.build(tiny_backbone("bert"), CONTEXT)
        train(tuner, model, 20)
        factors = [p for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n]
        return float(torch.stack([distance_from_orthogonality(p) for p in factors]).mean())

    assert distance(1.0) < 0.5 * distance(0.0)


def test_distance_from_orthogonality_is_zero_for_orthonormal_sides_of_either_orientation() -> None:
    square, _ = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    for factor in (square, square.T):
        assert float(distance_from_orthogonality(factor)) < 1e-5
        assert float(distance_from_orthogonality(2 * factor)) == pytest.approx(3 * 3**0.5, rel=1e-5)


@pytest.mark.parametrize("changes", [{"target_rank": 4}, {"warmup": 0.5, "final": 0.5}])
def test_adalora_needs_something_to_choose(changes: dict) -> None:
    with pytest.raises(UsageError, match=r"method\.tuner"):
        adalora(**changes)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*x|y*)*", "((a*))+", "(a{1,9}b){2,}", "q" * 1001])
def test_a_pattern_that_may_take_for_ever_is_refused(pattern):
    with pytest.raises(UsageError, match=r"options\.target_modules=.*may take for ever"):
        _refuse_slow_patterns({"target_modules": pattern})


def test_usual_patterns_are_taken():
    for pattern in (r".*\.(q|v)(_proj)?", r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", r"layer\.[0-9]+\.q"):
        _refuse_slow_patterns({"target_modules": pattern, "r": 8})
