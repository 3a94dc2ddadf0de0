"""load_backbone on random weights and local folders: families, determinism, padding, errors."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_networks import save_backbone

from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.models.random_init import build_tokenizer

TINY = [("tiny-bert", "features"), ("tiny-roberta", "features"), ("tiny-t5", "lm"), ("tiny-llama", "lm")]
TEXTS = ["Rain stops the cup final in Kumasi", "Ẹ káàárọ̀", "ሰላም 🎉", ""]


def weights_hash(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def run(backbone, texts=TEXTS) -> torch.Tensor:
    batch = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    if backbone.family == "seq2seq":
        batch["labels"] = batch["input_ids"]
    with torch.no_grad():
        return backbone.model(**batch)[1 if backbone.family == "seq2seq" else 0]


@pytest.mark.parametrize(("choice", "purpose"), TINY)
def test_tiny_models_are_the_same_on_every_call(choice, purpose, model_config):
    torch.manual_seed(1)
    first = load_backbone(model_config(choice), purpose)
    after_first = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after_first, torch.rand(1)), "loading moved the global random state"
    torch.manual_seed(2)
    second = load_backbone(model_config(choice), purpose)
    assert weights_hash(first.model) == weights_hash(second.model)
    assert first.revision == second.revision
    assert torch.equal(run(first), run(second))


@pytest.mark.parametrize(("choice", "purpose"), TINY)
def test_backbone_keeps_its_promises(choice, purpose, model_config):
    backbone = load_backbone(model_config(choice), purpose)
    assert not backbone.model.training
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert {p.device.type for p in backbone.model.parameters()} == {"cpu"}
    assert backbone.tokenizer.is_fast
    assert backbone.tokenizer.pad_token_id == backbone.model.config.pad_token_id
    assert backbone.tokenizer.padding_side == ("left" if backbone.family == "causal" else "right")
    assert backbone.hidden_size == 64
    assert backbone.total_parameters() < 400_000


def test_features_have_no_pooler_and_lm_has_a_head(model_config):
    assert load_backbone(model_config("tiny-bert"), "features").model.pooler is None
    assert load_backbone(model_config("tiny-llama"), "lm").model.lm_head is not None
    assert type(load_backbone(model_config("tiny-llama"), "features").model).__name__ == "LlamaModel"


@pytest.mark.parametrize(
    ("choice", "purpose", "limit"),
    [
        ("tiny-bert", "features", 512),
        ("tiny-roberta", "features", 512),
        ("tiny-t5", "lm", None),
        ("tiny-llama", "lm", 1024),
    ],
)
def test_max_positions_is_the_longest_input_that_runs(choice, purpose, limit, model_config):
    backbone = load_backbone(model_config(choice), purpose)
    assert backbone.max_positions == limit
    if choice in ("tiny-bert", "tiny-roberta"):  # a table of learned positions: one more breaks
        backbone.model(input_ids=torch.full((1, limit), 9))
        with pytest.raises((IndexError, RuntimeError)):
            backbone.model(input_ids=torch.full((1, limit + 1), 9))


def test_gpt2_positions(model_config):
    arch = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 77}
    backbone = load_backbone(model_config("tiny-llama", arch=arch), "features")
    assert backbone.max_positions == 77


@pytest.mark.parametrize(("choice", "purpose"), TINY[:2])
def test_padding_does_not_change_hidden_states(choice, purpose, model_config):
    backbone = load_backbone(model_config(choice), purpose)
    alone, padded = run(backbone, TEXTS[:1]), run(backbone, [*TEXTS[:1], TEXTS[0] * 3])
    assert torch.allclose(alone[0], padded[0, : alone.shape[1]], atol=1e-5)


@given(st.text())
def test_tiny_tokenizer_takes_any_text(text):
    tokenizer = TOKENIZER
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids or "<unk>" in text
    if not any(t in text for t in tokenizer.all_special_tokens):
        assert tokenizer.decode(ids).removeprefix(" ") == text.removeprefix(" ")


TOKENIZER = build_tokenizer("roberta", 512)


def test_tokenizer_frames_are_those_of_the_family(model_config):
    def tokens(choice, purpose, *texts):
        tokenizer = load_backbone(model_config(choice), purpose).tokenizer
        encoded = tokenizer(*texts)
        return encoded, [t for t in tokenizer.convert_ids_to_tokens(encoded["input_ids"]) if t in ("<s>", "</s>")]

    bert, frame = tokens("tiny-bert", "features", "a b", "c")
    assert frame == ["<s>", "</s>", "</s>"]
    assert set(bert["token_type_ids"]) == {0, 1}
    assert tokens("tiny-roberta", "features", "a", "b")[1] == ["<s>", "</s>", "</s>", "</s>"]
    assert tokens("tiny-t5", "lm", "a")[1] == ["</s>"]
    assert tokens("tiny-llama", "lm", "a")[1] == ["<s>"]


@pytest.mark.parametrize(("choice", "purpose"), TINY)
@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_dropout_override_reaches_every_module(choice, purpose, probability, model_config):
    backbone = load_backbone(model_config(choice), purpose, dropout=probability)
    found = {m.p for m in backbone.model.modules() if isinstance(m, torch.nn.Dropout)}
    found |= {m.attention_dropout for m in backbone.model.modules() if hasattr(m, "attention_dropout")}
    assert found == {probability}


def test_dropout_none_keeps_the_checkpoints_own(model_config):
    backbone = load_backbone(model_config("tiny-bert"), "features", dropout=None)
    assert {m.p for m in backbone.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_architecture_above_the_limit_gets_fast_reproducible_weights(model_config):
    arch = {"model_type": "roberta", "vocab_size": 50265, "hidden_size": 256, "num_hidden_layers": 1}
    arch |= {"num_attention_heads": 4, "intermediate_size": 512, "max_position_embeddings": 514, "type_vocab_size": 1}
    first = load_backbone(model_config("tiny-roberta", arch=arch), "features")
    second = load_backbone(model_config("tiny-roberta", arch=arch), "features")
    assert first.total_parameters() > 13_000_000
    assert weights_hash(first.model) == weights_hash(second.model)
    table = first.model.get_input_embeddings().weight
    assert table.std().item() == pytest.approx(0.02, rel=0.01)
    assert torch.unique(table[:20_000, 0]).numel() > 16_000, "rows repeat"
    attention = first.model.encoder.layer[0].attention.self
    assert not torch.equal(attention.query.weight, attention.key.weight)
    assert run(first).isfinite().all()


def test_refused_pairs_say_what_works(model_config):
    with pytest.raises(UsageError, match=r"model=tiny-llama .*model=minilm-mlm"):
        load_backbone(model_config("tiny-llama"), "mlm")
    with pytest.raises(UsageError, match=r"model=tiny-bert .*formulation head"):
        load_backbone(model_config("tiny-bert"), "lm")


def test_family_that_contradicts_the_architecture(model_config):
    with pytest.raises(UsageError, match=r"model\.family=causal.*Set model\.family=encoder"):
        load_backbone(model_config("tiny-bert", family="causal"), "lm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "brt"}, r"Did you mean `bert`"),
        ({"num_layer": 3}, r"model\.arch\.num_layer is not a key of a bert config.*num_hidden_layers"),
        ({"vocab_size": 10}, r"below the 2000 needed"),
        ({"hidden_size": "wide"}, r"model\.arch does not make a bert config"),
    ],
)
def test_bad_arch(change, message, model_config):
    arch = model_config("tiny-bert").arch | change
    with pytest.raises(UsageError, match=message):
        load_backbone(model_config("tiny-bert", arch=arch), "features")


@pytest.fixture
def saved(tmp_path, model_config):
    """`saved("tiny-bert")`: the folder of a tiny model written by save_pretrained."""

    def saved(choice: str):
        backbone = load_backbone(model_config(choice), dict(TINY)[choice])
        return save_backbone(backbone, tmp_path / choice), backbone

    return saved


@pytest.mark.parametrize(("choice", "purpose"), TINY)
def test_local_folder_round_trip(choice, purpose, saved, model_config):
    folder, original = saved(choice)
    cfg = model_config("local", path=str(folder), family=original.family)
    loaded = load_backbone(cfg, purpose)
    assert weights_hash(loaded.model) == weights_hash(original.model)
    assert torch.equal(run(loaded), run(original))
    assert loaded.tokenizer(TEXTS).input_ids == original.tokenizer(TEXTS).input_ids
    assert loaded.revision.startswith("sha256:")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert load_backbone(cfg, purpose).revision != loaded.revision


def test_local_folder_errors(tmp_path, saved, model_config):
    def fails_with(message, path):
        with pytest.raises(UsageError, match=message):
            load_backbone(model_config("local", path=str(path)), "features")

    fails_with("no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails_with("holds no config.json", tmp_path / "empty")
    folder, _ = saved("tiny-bert")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"\xff" * 1000)
    fails_with("cannot read local folder", folder)
    weights.rename(folder / "pytorch_model.bin")
    fails_with(r"holds no \*\.safetensors.*never read here", folder)
    weights.write_bytes(content)
    (folder / "tokenizer.json").write_text("{}")
    fails_with("cannot read local folder", folder)


def test_missing_weights_are_an_error_not_random(tmp_path, saved, model_config):
    from safetensors.torch import load_file, save_file

    folder, _ = saved("tiny-bert")
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 of the weights.*encoder\.layer\.1\.output\.dense\.weight"):
        load_backbone(model_config("local", path=str(folder)), "features")


def test_remote_code_is_refused(tmp_path, saved, model_config):
    import json

    folder, _ = saved("tiny-bert")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match="remote code is never run"):
        load_backbone(model_config("local", path=str(folder)), "features")
    assert not (tmp_path / "ran").exists()


def test_package_that_is_not_installed(model_config):
    with pytest.raises(UsageError, match=r"model=minilm .*no-such-package.*peftbench\[offline\].*model=tiny-bert"):
        load_backbone(model_config("minilm", path="no-such-package"), "features")


def test_package_without_the_file(model_config):
    with pytest.raises(UsageError, match=r"the installed pytest .* has no nowhere\.gguf"):
        load_backbone(model_config("smollm2-135m", path="pytest", file="nowhere.gguf"), "lm")


def test_checkpoint_with_a_masked_lm_head_and_old_norm_names_gives_its_encoder(tmp_path, model_config):
    """bert-base on the hub is saved with its pre-training heads, and with LayerNorm.gamma/beta."""
    from safetensors.torch import load_file, save_file
    from transformers import BertForMaskedLM

    tiny = load_backbone(model_config("tiny-bert"), "features")
    original = BertForMaskedLM(tiny.model.config)
    original.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = load_file(tmp_path / "model.safetensors")
    for new_name, old_name in old.items():
        state = {k.replace(new_name, old_name): v for k, v in state.items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_backbone(model_config("local", path=str(tmp_path)), "features")
    assert weights_hash(loaded.model) == weights_hash(original.bert)


def test_causal_checkpoint_without_head_or_pad_token(tmp_path, model_config):
    """gpt2 on the hub is saved without its tied head, in whatever precision, and pads with its end-of-text token."""
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=2000)).half().save_pretrained(tmp_path)
    tokenizer = build_tokenizer("gpt2", 512)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_backbone(model_config("local", path=str(tmp_path), family="causal"), "lm")
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight
    assert loaded.model.dtype == torch.float32
    assert loaded.tokenizer.pad_token == "</s>"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.eos_token_id
    assert loaded.max_positions == 1024


def test_a_checkpoints_settings_for_generation_do_not_count(tmp_path, model_config):
    """Qwen's instruction-tuned models come with a repetition penalty, which greedy decoding would apply."""
    source = load_backbone(model_config("tiny-llama"), "lm")
    source.model.generation_config.update(
        repetition_penalty=1.3, do_sample=True, temperature=0.7, no_repeat_ngram_size=2
    )
    source.model.save_pretrained(tmp_path)
    source.tokenizer.save_pretrained(tmp_path)
    loaded = load_backbone(model_config("local", path=str(tmp_path), family="causal"), "lm").model
    found = loaded.generation_config
    assert (found.repetition_penalty or 1.0) == 1.0
    assert not found.do_sample
    assert not found.no_repeat_ngram_size
    assert found.eos_token_id == source.tokenizer.eos_token_id


def test_a_tokenizer_without_an_end_cannot_answer(tmp_path, model_config):
    from peftbench.config import compose
    from peftbench.formulations.generate.formulation import GenerateFormulation

    backbone = load_backbone(model_config("tiny-llama"), "lm")
    tokenizer = backbone.tokenizer
    tokenizer.eos_token = None
    cfg = compose(["model=tiny-llama", "method=lora"]).method.formulation
    with pytest.raises(UsageError, match=r"model=tiny-llama: its tokenizer has no end-of-sequence.*formulation=head"):
        GenerateFormulation(backbone, None, 32, cfg)
