"""Whether a loaded checkpoint is what its config and tokenizer say, before anything is trained on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peftbench.errors import UsageError
from peftbench.models.base import Backbone


def check_weights(model: PreTrainedModel, missing: Iterable[str], unexpected: Iterable[str], what: str) -> None:
    """Whether all of the network came out of the file, and all of the file's network went into it.

    Heads that the network does not have may be left over. Layers beyond the config's, or biases of layers that have
    none there, may not: the network would be another one.

    Raises:
        UsageError: weights would be random, or would be dropped.
    """
    if absent := sorted(missing):
        raise UsageError(
            f"{what} lacks {len(absent)} of the weights of a {type(model).__name__} "
            f"({', '.join(absent[:3])} ...): they would be random. Is it a checkpoint of this architecture, and has it "
            "the head that this formulation needs? Without a network, model=minilm-mlm has a masked-LM head."
        )
    if dropped := sorted(left_out(model, unexpected)):
        raise UsageError(
            f"{what} holds {len(dropped)} weights for which its config.json has no place "
            f"({', '.join(dropped[:3])} ...): it would be another network. Is that config.json of these weights?"
        )


def left_out(model: PreTrainedModel, unexpected: Iterable[str]) -> set[str]:
    """Those of the unexpected names that are further layers of this network, or further parameters of its layers."""
    shapes = {_shape(name) for name, _ in model.named_parameters()}
    layers = {_shape(name) for name, module in model.named_modules() if hasattr(module, "weight")}
    prefix = f"{model.base_model_prefix}."
    own = {name: _shape(name.removeprefix(prefix)) for name in unexpected}
    shapes |= {shape.removeprefix(prefix) for shape in shapes}
    layers |= {layer.removeprefix(prefix) for layer in layers}
    numbered = {name for name, shape in own.items() if shape in shapes and "#" in shape}
    return numbered | {n for n, s in own.items() if s.rpartition(".")[2] == "bias" and s.rpartition(".")[0] in layers}


def _shape(name: str) -> str:
    """A parameter's name whatever layer it is of."""
    return re.sub(r"\b\d+\b", "#", name)


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Whether the tokenizer has words, and each of them a row in the embedding matrix.

    Raises:
        UsageError: it has not.
    """
    ids = tokenizer.get_vocab().values()
    if len(ids) <= len(tokenizer.all_special_ids):
        raise UsageError(f"{what}: its tokenizer knows {len(ids)} tokens, all of them special; every word is unknown.")
    rows = _embedding(model).num_embeddings
    if max(ids) >= rows:
        raise UsageError(
            f"{what}: the tokenizer has {max(ids) + 1} tokens, the embedding matrix {rows} rows. Tokens were added "
            "without `model.resize_token_embeddings(len(tokenizer))`: do that, save the model and use the copy, or "
            "take the tokenizer files of the model it was made from."
        )


def check_length(
    backbone: Backbone, max_length: int, virtual: int = 0, knob: str = "", key: str = "trainer.max_length"
) -> None:
    """Whether inputs of `max_length` tokens, as `key` says, have positions, with the `virtual` ones that `knob` puts
    before them.

    Raises:
        UsageError: they have not.
    """
    limit = backbone.max_positions
    if limit is None or virtual + max_length <= limit:
        return
    if not virtual:
        raise UsageError(
            f"{key}={max_length}, but model={backbone.name} has {limit} positions. Use {key}={limit} or less."
        )
    room = limit - virtual
    way = f"Use trainer.max_length={room} or less, or fewer virtual tokens." if room >= 4 else "Use fewer of them."
    raise UsageError(
        f"{knob}={virtual} and trainer.max_length={max_length} need {virtual + max_length} positions, but "
        f"model={backbone.name} has {limit}. {way}"
    )


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the hidden states; some networks' word embeddings are narrower (ALBERT, small ELECTRA)."""
    config = model.config.get_text_config()
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
    return int(width or embedding_size(model))


@torch.no_grad()
def output_size(model: PreTrainedModel) -> int:
    """Width of what a bare stack returns for two tokens: OPT-350m's is that of its embeddings, for one. No config key
    says it for every architecture."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return int(model(**inputs).last_hidden_state.shape[-1])


def takes(model: nn.Module, keyword: str) -> bool:
    """Whether `model.forward` has a parameter of this name."""
    return keyword in inspect.signature(model.forward).parameters


def check_padding(model: PreTrainedModel, what: str) -> None:
    """Raises UsageError if the network cannot be told where a text ends: its answers would depend on the batch."""
    if not takes(model, "attention_mask"):
        raise UsageError(
            f"{what}: a {type(model).__name__} takes no attention mask, so the padding of a batch would change its "
            "answers. Take a network with attention, such as model=minilm or model=bert-base."
        )


def embedding_size(model: PreTrainedModel) -> int:
    """Width of the word embeddings."""
    return _embedding(model).embedding_dim


def _embedding(model: PreTrainedModel) -> nn.Embedding:
    found = model.get_input_embeddings()
    assert isinstance(found, nn.Embedding)
    return found
