"""GGUF files of the user's: converted once, tied as they were, refused in one line when they cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.models.content import TOKENIZER_FILE, content_id

gguf = pytest.importorskip("gguf")
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def network(tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=2001, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, rms_norm_eps=1e-6, tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write(path: Path, model: Qwen2ForCausalLM, output: bool = True) -> None:
    """The network as llama.cpp's converter writes it, in fp32, with the packaged tiny tokenizer."""
    config, tokenizer = model.config, json.loads(TOKENIZER_FILE.read_text("utf-8"))
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    vocabulary = tokenizer["model"]["vocab"]
    pieces = [*sorted(vocabulary, key=vocabulary.__getitem__), "<|endoftext|>"]  # Qwen's end of a text
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(len(vocabulary))
    for name, tensor in model.state_dict().items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if name != "output.weight" or output:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("tied", "output"), [(True, True), (True, False), (False, True)])
def test_the_network_is_what_was_written_and_as_tied(tmp_path: Path, model_config, tied: bool, output: bool) -> None:
    model = network(tied)
    write(tmp_path / "tiny.gguf", model, output)
    cfg = model_config("gguf", path=str(tmp_path / "tiny.gguf"))
    backbone = load_backbone(cfg, "lm")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=0)
    assert (backbone.model.lm_head.weight is backbone.model.model.embed_tokens.weight) == tied
    assert backbone.total_parameters() == sum(p.numel() for p in model.parameters())
    assert backbone.tokenizer.decode(backbone.tokenizer("a word").input_ids) == "a word"
    assert backbone.revision == content_id(cfg)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tiny.gguf").rename(tmp_path / "elsewhere" / "tiny.gguf")
    assert content_id(model_config("gguf", path=str(tmp_path / "elsewhere" / "tiny.gguf"))) == backbone.revision


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, model_config, own_cache: Path) -> None:
    write(tmp_path / "whole.gguf", network(tied=True))
    content = (tmp_path / "whole.gguf").read_bytes()
    for share in (0.02, 0.5, 0.98):
        (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UsageError, match=r"cut\.gguf: cannot be read as a GGUF.*cut off or damaged") as caught:
            load_backbone(model_config("gguf", path=str(tmp_path / "cut.gguf")), "lm")
        assert "\n" not in str(caught.value)
    (tmp_path / "not.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match=r"not a GGUF file"):
        load_backbone(model_config("gguf", path=str(tmp_path / "not.gguf")), "lm")
    with pytest.raises(UsageError, match=r"no such file"):
        load_backbone(model_config("gguf", path=str(tmp_path / "absent.gguf")), "lm")
    assert not [p for p in (own_cache / "models").glob("*") if p.is_dir() and not p.name.startswith(".")]
