"""What a checkpoint must be before anything is trained on it, and what is never read."""

import json
import os
from pathlib import Path

import pytest
import torch
from made_up_configs import compose
from safetensors.torch import load_file, save_file
from tiers import rest_slow
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, ElectraConfig, ElectraModel

from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.models.random_init import build_tokenizer
from peftbench.runner import run

SIZES = {
    "vocab_size": 2000,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture
def save(tmp_path):
    """`save(BertConfig, BertModel, ...)`: the folder of a tiny network with its tokenizer."""

    def make(config: type, network: type, positions: int = 64, **sizes: int) -> Path:
        torch.manual_seed(0)
        network(config(**SIZES, max_position_embeddings=positions, **sizes)).save_pretrained(tmp_path / "net")
        build_tokenizer("bert", positions).save_pretrained(tmp_path / "net")
        return tmp_path / "net"

    return make


@pytest.fixture
def bert(save) -> Path:
    return save(BertConfig, BertModel)


@pytest.fixture
def refused(model_config):
    """`refused(folder, message)`: the folder is not loaded, and the message says why."""

    def check(folder: Path, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_backbone(model_config("local", path=str(folder)), "features")

    return check


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_no_tokenizer(bert, refused):
    """It trained on unknown words only."""
    (bert / "tokenizer.json").unlink()
    refused(bert, r"no tokenizer files \(tokenizer\.json, .*save_pretrained")
    (bert / "tokenizer_config.json").unlink()
    refused(bert, "no tokenizer files")


def test_tokenizer_larger_than_the_matrix(bert, refused):
    tokenizer = build_tokenizer("bert", 64)
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(bert)
    refused(bert, r"the tokenizer has 2002 tokens, the embedding matrix 2000 rows")


def test_leftover_adapter(bert, refused):
    """transformers would load it on top without a word."""
    (bert / "adapter_config.json").write_text("{}")
    refused(bert, "holds adapter_config.json beside the weights")


@pytest.mark.parametrize(("changed", "message"), [
    ({"num_hidden_layers": 1}, r"16 weights for which its config\.json has no place \(encoder\.layer\.1\."),
    ({"num_hidden_layers": 3}, "lacks 16 of the weights"),
    ({"intermediate_size": 128}, r"6 weights have another shape .*dense\.bias \[64\] where \[128\] is wanted"),
    ({"hidden_act": "nosuch"}, r"KeyError: 'nosuch'\. A damaged copy"),
    ({"quantization_config": {"quant_method": "nosuch"}}, "quantised in a way that transformers does not know"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is more than 1,000"),
    ({"transformers_weights": "weights.bin"}, r"transformers_weights names 'weights\.bin'"),
])  # fmt: skip
def test_config_of_another_network(changed, message, bert, refused):
    change(bert / "config.json", **changed)
    refused(bert, message)


@pytest.mark.parametrize(("changed", "message"), [
    (lambda weight: weight.to(torch.int8), "holds whole numbers"),
    (lambda weight: weight.index_fill(0, torch.tensor([3]), torch.nan), "holds NaN or infinity"),
    (lambda weight: weight.index_fill(0, torch.tensor([3]), torch.inf), "holds NaN or infinity"),
])  # fmt: skip
def test_weights_that_are_no_weights(changed, message, bert, refused):
    state = load_file(bert / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    save_file(state | {name: changed(state[name])}, bert / "model.safetensors", metadata={"format": "pt"})
    refused(bert, rf"encoder\.layer\.1\.output\.dense\.weight {message}")


def test_generation_is_ours_and_starts_with_a_token(tmp_path, model_config):
    """Lengths, forced words and penalties beside a checkpoint changed answers without a word."""
    made = load_backbone(compose(["method=lora", "model=tiny-t5"]).model, "lm")
    made.model.generation_config.min_length, made.model.generation_config.forced_bos_token_id = 50, 9
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    local = model_config("local", path=str(tmp_path), family="seq2seq")
    settings = load_backbone(local, "lm").model.generation_config
    assert (settings.min_length, settings.forced_bos_token_id) in ((0, None), (None, None))
    assert settings.decoder_start_token_id == made.model.config.decoder_start_token_id
    change(tmp_path / "config.json", decoder_start_token_id=10**6)
    with pytest.raises(UsageError, match=r"decoder_start_token_id=1000000, which must be a token from 0"):
        load_backbone(local, "lm")


def test_biases_without_a_place(save, model_config):
    """A Llama with biases, loaded as one without, is another network."""
    from transformers import LlamaConfig, LlamaModel

    folder = save(LlamaConfig, LlamaModel, attention_bias=True)
    change(folder / "config.json", attention_bias=False)
    with pytest.raises(UsageError, match=r"has no place \(layers\.0\.self_attn\.k_proj\.bias"):
        load_backbone(model_config("local", path=str(folder), family="causal"), "features")


@pytest.mark.parametrize(
    "named", ["weights.bin", "../elsewhere.safetensors", "/tmp/w.safetensors", "absent.safetensors"]
)
def test_index_that_names_what_is_not_read(named, bert, refused):
    """An index may send the reader to a pickle, or out of the folder."""
    state = load_file(bert / "model.safetensors")
    save_file(state, bert.parent / "elsewhere.safetensors", metadata={"format": "pt"})
    (bert / "model.safetensors").rename(bert / "decoy.safetensors")
    (bert / "weights.bin").write_bytes(b"\x80\x04.")
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, named)}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(bert, rf"model\.safetensors\.index\.json names '?{named}")


def test_what_is_no_file_and_what_has_no_end(bert, refused):
    os.mkfifo(bert / "vocab.txt")
    refused(bert, r"vocab\.txt is no regular file")
    (bert / "vocab.txt").unlink()
    (bert / "vocab.txt").symlink_to("vocab.txt")
    refused(bert, r"vocab\.txt: cannot be read")
    (bert / "vocab.txt").unlink()
    (bert / "vocab.txt").symlink_to("/dev/zero")
    refused(bert, r"vocab\.txt is no regular file")
    (bert / "vocab.txt").unlink()
    (bert / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    refused(bert, r"config\.json is nested too deeply")
    (bert / "config.json").write_text("[]")
    refused(bert, r"config\.json holds a list, not a JSON object")


def command(folder: Path, *more: str) -> list[str]:
    return ["model=local", f"model.path={folder}", "task=demo_news", "shots=2", "trainer=debug", "trainer.probe=false",
            "tracking.wandb=disabled", f"out_dir={folder.parent / 'out'}", *more]  # fmt: skip


@pytest.mark.parametrize(("method", "message"), [
    ("lora", r"trainer\.max_length=32, but model=\S+ has 16 positions\. Use trainer\.max_length=16 or less"),
    ("frozen_lr", r"trainer\.max_length=32, but"),
    ("prompt_tuning", r"num_virtual_tokens=20 and trainer\.max_length=32 need 52 positions, but .* has 16\."),
])  # fmt: skip
def test_length_beyond_the_positions(method, message, save):
    folder = save(BertConfig, BertModel, positions=16)
    with pytest.raises(UsageError, match=message):
        run(compose(command(folder, f"method={method}", "trainer.max_length=32")))
    assert not list((folder.parent / "out").glob("records/*")), "nothing was trained"


def test_more_virtual_tokens_than_positions(save):
    """The advice was a negative length."""
    folder = save(BertConfig, BertModel, positions=16)
    with pytest.raises(UsageError, match=r"num_virtual_tokens=20 .* need 32 positions.* has 16\. Use fewer of them\.$"):
        run(
            compose(
                command(folder, "method=prompt_tuning", "trainer.max_length=12", "method.tuner.num_virtual_tokens=20")
            )
        )


@pytest.mark.parametrize(("config", "network"), [(AlbertConfig, AlbertModel), (ElectraConfig, ElectraModel)])
@pytest.mark.parametrize(
    "method", rest_slow(["head_only", "frozen_lr", "prompt_tuning", "dept", "lora"], ["head_only", "dept"])
)
def test_narrow_embeddings_train(config, network, method, save):
    """ALBERT and ELECTRA-small: the head has the width of the hidden states, a soft prompt that of the embeddings."""
    folder = save(config, network, embedding_size=16)
    record, _ = run(compose(command(folder, f"method={method}", "trainer.max_length=32")))
    assert record is not None
    assert record.status == "done", record.reason
    assert record.model_info["hidden_size"] == 32
