"""A masked-LM head that is shipped apart from its encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from peftbench.errors import UsageError
from peftbench.models import mlm_head

CONFIG = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, pad_token_id=0
)
IDS = torch.tensor([[2, 7, 9, 3], [2, 5, 6, 3]])


def fresh(seed: int = 0) -> BertForMaskedLM:
    torch.manual_seed(seed)
    return BertForMaskedLM(CONFIG).eval()


@pytest.fixture
def trained(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """A masked LM with a LoRA-tuned encoder and its own head, and the files that hold what was trained."""
    model = get_peft_model(fresh(), LoraConfig(r=3, lora_alpha=6, target_modules=["query", "intermediate.dense"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or (".cls." in name and "decoder.weight" not in name):
                parameter.normal_()
    tensors = {
        name.removeprefix("base_model.model.").replace(".default", ""): p.detach().clone()
        for name, p in model.named_parameters()
        if "lora_" in name or (".cls." in name and "decoder.weight" not in name)
    }
    save_file(tensors, tmp_path / "head.safetensors")
    (tmp_path / "recipe.json").write_text(json.dumps({"rank": 3, "alpha": 6}))
    return model.eval(), tmp_path


def test_the_head_and_the_low_rank_updates_give_the_logits_that_were_trained(trained) -> None:
    model, folder = trained
    loaded = fresh()
    given = mlm_head.apply(loaded, str(folder))
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)
    head = {name for name, _ in loaded.named_parameters() if name.startswith("cls.")}
    assert head - {"cls.predictions.decoder.weight"} <= given


def test_a_bare_encoder_takes_the_updates_alone(trained) -> None:
    model, folder = trained
    bare = BertModel(CONFIG, add_pooling_layer=False).eval()
    bare.load_state_dict(fresh().bert.state_dict())
    mlm_head.apply(bare, str(folder))
    expected = model.get_base_model().bert(IDS).last_hidden_state
    torch.testing.assert_close(bare(IDS).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_an_architecture_without_a_layout_is_refused() -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    with pytest.raises(UsageError, match="bert and mpnet encoders, not for roberta"):
        mlm_head.apply(RobertaForMaskedLM(RobertaConfig(**sizes, num_hidden_layers=1)), "minilm-mlm")


def test_the_untrained_head_scores_words_by_their_embeddings() -> None:
    model = fresh()
    given = mlm_head.apply(model, "untrained")
    assert {name for name, _ in model.named_parameters() if name.startswith("cls.")} <= given
    hidden = model.bert(IDS).last_hidden_state
    states = torch.nn.functional.layer_norm(torch.nn.functional.gelu(hidden), (16,), eps=CONFIG.layer_norm_eps)
    expected = states @ model.bert.embeddings.word_embeddings.weight.T
    torch.testing.assert_close(model(IDS).logits, expected)


def test_a_folder_that_is_not_there_is_one_message() -> None:
    with pytest.raises(UsageError, match=r"model\.mlm_head=nowhere: .* is not there"):
        mlm_head.apply(fresh(), "nowhere")


def test_a_head_of_another_encoder_is_refused(trained) -> None:
    _, folder = trained
    other = BertForMaskedLM(BertConfig(**{**CONFIG.to_dict(), "hidden_size": 32}))
    with pytest.raises(UsageError, match="made for another encoder"):
        mlm_head.apply(other, str(folder))
