"""full, head_only, LoRA and prompt tuning."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from tiny_models import VOCAB, WORDS, D, make_batch, read_out, real_positions, tiny_backbone
from torch import nn

from peftbench.config import registry
from peftbench.config.catalogue import names
from peftbench.config.schema import TunerConfig
from peftbench.errors import UsageError
from peftbench.tuners import TunerContext, build_tuner
from peftbench.tuners.full import FullOptions
from peftbench.tuners.head_only import HeadOnlyOptions
from peftbench.tuners.lora import LoraOptions
from peftbench.tuners.prompt_tuning import PromptTuningOptions
from peftbench.tuners.soft_prompt_model import adapter_of

CONTEXT = TunerContext(max_length=24, label_words=("sport", "health"), seed=3)
KINDS = ("bert", "roberta", "t5", "llama", "gpt2")
CONFIGS = {
    "full": FullOptions(name="full"),
    "head_only": HeadOnlyOptions(name="head_only"),
    "lora": LoraOptions(name="lora", rank=2, alpha=4),
    "prompt_tuning": PromptTuningOptions(name="prompt_tuning", num_virtual_tokens=5),
}


def build(name: str, kind: str, purpose: str | None = None):
    tuner = build_tuner(CONFIGS[name])
    return tuner, tuner.build(tiny_backbone(kind, purpose), CONTEXT).eval()


def train(model: nn.Module, kind: str, steps: int = 3) -> None:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        read_out(model(**make_batch(kind))).float().square().mean().backward()
        optimiser.step()


def test_an_unknown_tuner_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"method\.tuner\.name: `detp` is no tuner\. Did you mean `dept`"):
        build_tuner(TunerConfig(name="detp"))


def test_every_configured_tuner_can_be_built() -> None:
    assert {*names("method/tuner")} == registry.built_in("tuner")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_groups_and_files(name: str, kind: str, tmp_path) -> None:
    tuner, model = build(name, kind)
    groups = tuner.param_groups(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == tuner.expected_parameters(tiny_backbone(kind), CONTEXT)
    assert sorted(id(p) for ps in groups.values() for p in ps) == sorted(map(id, trainable))
    if name == "head_only":
        tuner.save(model, tmp_path)
        assert json.loads((tmp_path / "tuner.json").read_text())["trained"] == []
        tuner.load(model, tmp_path)
        return
    train(model, kind)
    tuner.save(model, tmp_path)
    fresh_tuner, fresh = build(name, kind)
    batch = make_batch(kind)
    assert not torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    fresh_tuner.load(fresh, tmp_path)
    assert torch.equal(read_out(fresh(**batch)), read_out(model(**batch)))
    train(fresh, kind, steps=1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("kind", "purpose"), [("llama", "lm"), ("gpt2", "lm"), ("gpt2", "features")])
def test_padding_changes_nothing_for_causal_models(name: str, kind: str, purpose: str) -> None:
    tuner, model = build(name, kind, purpose)
    outs = []
    for width in (9, 20):
        batch = make_batch(kind, (6, 9), width)
        outs.append(real_positions(kind, read_out(model(**batch)), batch["attention_mask"], tuner.virtual_tokens))
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_generation_does_not_depend_on_padding(name: str, kind: str) -> None:
    _, model = build(name, kind)
    outs = []
    for width in (9, 20):
        batch = {k: v for k, v in make_batch(kind, (6, 9), width).items() if k != "decoder_input_ids"}
        outs.append(model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None)[:, -5:])
    assert torch.equal(*outs)


def test_head_only_freezes_everything() -> None:
    _, model = build("head_only", "bert")
    assert not any(p.requires_grad for p in model.parameters())


# LoRA


@pytest.mark.parametrize("kind", KINDS)
def test_lora_starts_at_the_base_model_and_merges_to_1e_5(kind: str) -> None:
    _, model = build("lora", kind)
    batch = make_batch(kind, (9, 9))
    torch.testing.assert_close(read_out(model(**batch)), read_out(tiny_backbone(kind).model(**batch)))
    train(model, kind)
    tuned = read_out(model(**batch))
    torch.testing.assert_close(read_out(model.merge_and_unload()(**batch)), tuned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_doubling_alpha_and_halving_b_changes_nothing(rslora: bool) -> None:
    outs = []
    for factor in (1, 2):
        cfg = LoraOptions(name="lora", rank=2, alpha=4 * factor, rslora=rslora)
        model = build_tuner(cfg).build(tiny_backbone("bert"), CONTEXT).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.fill_(0.3 / factor)
        outs.append(read_out(model(**make_batch("bert"))))
    torch.testing.assert_close(*outs)


def test_lora_count_of_dora_and_of_chosen_matrices() -> None:
    cfg = LoraOptions(name="lora", rank=3, dora=True, target_modules=["query", "output.dense"])
    tuner, backbone = build_tuner(cfg), tiny_backbone("bert")
    expected = tuner.expected_parameters(backbone, CONTEXT)
    model = tuner.build(backbone, CONTEXT)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    # two layers: query 16x16, attention output 16x16, feed-forward output 32x16, and 16 magnitudes for each
    assert expected == 2 * (3 * (32 + 32 + 48) + 3 * 16)


def test_lora_initial_values_come_from_the_seed() -> None:
    def first_a(seed: int) -> torch.Tensor:
        model = build_tuner(CONFIGS["lora"]).build(tiny_backbone("bert"), TunerContext(24, (), seed))
        return next(p for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first_a(1), first_a(1))
    assert not torch.equal(first_a(1), first_a(2))


def test_lora_names_a_matrix_that_is_not_there() -> None:
    cfg = LoraOptions(name="lora", target_modules=["query", "valeu"])
    with pytest.raises(UsageError, match=r"is called `valeu`\. Did you mean `value`"):
        build_tuner(cfg).build(tiny_backbone("bert"), CONTEXT)


def test_an_architecture_that_nobody_has_heard_of_needs_no_names() -> None:
    backbone = tiny_backbone("bert")
    backbone.model.config.model_type = "unheard-of"
    model = build_tuner(CONFIGS["lora"]).build(backbone, CONTEXT)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.split(".lora_")[0].rpartition(".")[2] for n in trained} == {"query", "value"}
    assert len(trained) == 2 * 2 * 2


# prompt tuning


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_tuning_trains_l_times_d_numbers_and_is_stored_as_pefts_own(kind: str, tmp_path) -> None:
    tuner, model = build("prompt_tuning", kind)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5 * D
    assert tuner.virtual_tokens == (0 if kind == "t5" else 5)
    train(model, kind)
    tuner.save(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "PROMPT_TUNING"
    theirs = peft.PeftModel.from_pretrained(tiny_backbone(kind).model, tmp_path).eval()
    batch = make_batch(kind, (9, 9))
    assert torch.equal(read_out(model(**batch)), read_out(theirs(**batch)))


def test_prompt_tuning_keeps_the_segments_of_a_pair() -> None:
    _, model = build("prompt_tuning", "bert")
    batch = make_batch("bert", (9, 9))
    types = torch.tensor([[0] * 5 + [1] * 4] * 2)
    assert not torch.allclose(read_out(model(**batch)), read_out(model(**batch, token_type_ids=types)))


def prompt_rows(**changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The first prompt, and the embedding matrix of the backbone."""
    cfg = PromptTuningOptions(name="prompt_tuning", **{"num_virtual_tokens": 5, **changes})
    backbone = tiny_backbone("t5")
    matrix = backbone.model.get_input_embeddings().weight
    return adapter_of(build_tuner(cfg).build(backbone, CONTEXT))[1]["P"], matrix


def test_prompts_start_from_text_labels_vocabulary_or_noise() -> None:
    ids = {word: i + 4 for i, word in enumerate(WORDS)}
    rows, matrix = prompt_rows(init="text", init_text="topic of this")
    assert torch.equal(rows, matrix[[ids[w] for w in ("topic", "of", "this", "topic", "of")]])
    rows, matrix = prompt_rows(init="labels")
    assert torch.equal(rows, matrix[[ids[w] for w in ("sport", "health", "sport", "health", "sport")]])
    rows, matrix = prompt_rows(init="vocab", num_virtual_tokens=30)
    chosen = (rows[:, None] == matrix[None]).all(-1).int().argmax(1).tolist()
    assert torch.equal(rows, matrix[chosen])
    assert len(set(chosen)) == 30
    assert min(chosen) >= 4  # no special token
    rows, matrix = prompt_rows(init="random", num_virtual_tokens=50)
    assert rows.std().item() == pytest.approx(1, abs=0.1)
    rows, _ = prompt_rows(init="vocab", num_virtual_tokens=VOCAB + 10)  # more than there are tokens
    assert len(rows) == VOCAB + 10


def test_labels_that_are_not_there_are_said_to_be_missing() -> None:
    cfg = PromptTuningOptions(name="prompt_tuning", init="labels")
    with pytest.raises(UsageError, match=r"method\.tuner\.init=labels.*no label words.*init=vocab"):
        build_tuner(cfg).build(tiny_backbone("bert"), TunerContext(24, (), 0))
