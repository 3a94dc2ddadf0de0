"""Tiny random backbones, made in milliseconds, and batches for them."""

from __future__ import annotations

import os

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone

os.environ.setdefault("HF_HUB_OFFLINE", "1")

D = 16
VOCAB = 64
WORDS = ("news", "sport", "health", "politics", "topic", "of", "this", "text")
SMALL = {"vocab_size": VOCAB, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tiny_tokenizer(side: str) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = [*special, *WORDS, *(f"w{i}" for i in range(VOCAB - len(special) - len(WORDS)))]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side=side,
    )


def tiny_model(kind: str, purpose: str) -> torch.nn.Module:
    if kind == "bert":
        return BertModel(BertConfig(**SMALL, **NO_DROPOUT, max_position_embeddings=64), add_pooling_layer=False)
    if kind == "roberta":
        config = {**SMALL, "pad_token_id": 1, "bos_token_id": 0}
        return RobertaModel(
            RobertaConfig(**config, **NO_DROPOUT, max_position_embeddings=66, type_vocab_size=2),
            add_pooling_layer=False,
        )
    if kind == "t5":
        config = T5Config(
            vocab_size=VOCAB,
            d_model=D,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
        return T5ForConditionalGeneration(config)
    if kind == "llama":
        config = LlamaConfig(**SMALL, num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True)
        return LlamaModel(config) if purpose == "features" else LlamaForCausalLM(config)
    config = GPT2Config(vocab_size=VOCAB, n_embd=D, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    return GPT2Model(config) if purpose == "features" else GPT2LMHeadModel(config)


FAMILY = {"bert": "encoder", "roberta": "encoder", "t5": "seq2seq", "llama": "causal", "gpt2": "causal"}
LIMIT = {"bert": 64, "roberta": 64, "t5": None, "llama": 128, "gpt2": 64}


def tiny_backbone(kind: str, purpose: str | None = None) -> Backbone:
    """Weights with a spread of 0.3 instead of 0.02, so that what goes in visibly changes what comes out."""
    family = FAMILY[kind]
    purpose = purpose or ("features" if family == "encoder" else "lm")
    torch.manual_seed(0)
    model = tiny_model(kind, purpose).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    tokenizer = tiny_tokenizer("left" if family == "causal" else "right")
    return Backbone(
        name=f"tiny-{kind}",
        family=family,
        purpose=purpose,
        model=model,
        tokenizer=tokenizer,
        hidden_size=D,
        max_positions=LIMIT[kind],
        pooling="mean",
        prefix="",
        revision="0",
        source="random",
    )


def make_batch(kind: str, lengths: tuple[int, ...] = (6, 9), width: int | None = None) -> dict[str, torch.Tensor]:
    """Texts of fixed content for each row, padded to `width` on the family's side; T5 also gets decoder ids."""
    width = width or max(lengths)
    pad = 1 if kind == "roberta" else 0
    ids = torch.full((len(lengths), width), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        tokens = torch.randint(4, VOCAB, (length,), generator=torch.Generator().manual_seed(row))
        where = slice(width - length, width) if FAMILY[kind] == "causal" else slice(0, length)
        ids[row, where], mask[row, where] = tokens, 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if kind == "t5":
        batch["decoder_input_ids"] = torch.tensor([[0, 5, 6]] * len(lengths))
    return batch


def read_out(outputs: object) -> torch.Tensor:
    """Logits of a language model, hidden states of a bare stack."""
    return outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state  # type: ignore[attr-defined]


def real_positions(kind: str, out: torch.Tensor, mask: torch.Tensor, virtual: int) -> list[torch.Tensor]:
    """Outputs of each row's real tokens; T5's decoder positions are all real."""
    if kind == "t5":
        return list(out)
    return [row[virtual:][m.bool()] for row, m in zip(out, mask, strict=True)]


def find_blocks(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Full name -> block, in the order of computation."""
    return {block.name: model.get_submodule(block.name) for block in anatomy_of(model).blocks()}
