"""Whether a loaded checkpoint is what its config and tokenizer say, before anything is trained on it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peftbench.errors import UsageError
from peftbench.models.architecture import accepts
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
            "the head that this method needs? Without a network, model=minilm-mlm has a masked-LM head, and "
            "model=e5-small-q4-mlm one that you train (docs/transfer.md)."
        )
    if dropped := sorted(left_out(model, unexpected)):
        raise UsageError(
            f"{what} holds {len(dropped)} weights for which its config.json has no place "
            f"({', '.join(dropped[:3])} ...): it would be another network. Is that config.json of these weights?"
        )


WHOLE = ("I", "U", "BOOL")
"""How safetensors' names of dtypes begin that hold no fractions."""


def check_shapes(mismatched: Iterable[tuple[str, torch.Size, torch.Size]], what: str) -> None:
    """Whether every tensor of the file has the shape that the config says.

    Args:
        mismatched: name, shape in the file, shape of the network.

    Raises:
        UsageError: naming the first that has not.
    """
    if wrong := sorted(mismatched):
        name, found, wanted = wrong[0]
        raise UsageError(
            f"{what}: {len(wrong)} weights have another shape than its config.json says, {name} {list(found)} where "
            f"{list(wanted)} is wanted. Is that config.json of these weights?"
        )


def check_numbers(model: PreTrainedModel, files: Iterable[Path], what: str) -> None:
    """Whether the network consists of finite numbers that are weights as they stand.

    Args:
        files: safetensors that it was read from.

    Raises:
        UsageError: some are NaN or infinite; or whole numbers, of a quantisation that was not undone.
    """
    quantised = getattr(model, "hf_quantizer", None) is not None
    if not quantised and getattr(model.config, "quantization_config", None) is not None:
        raise UsageError(
            f"{what}: its config.json says that the weights are quantised in a way that transformers does not know "
            "here. Use a copy that is not, with model.load=int8 or nf4 if memory is short."
        )
    if not quantised and (whole := whole_numbers(model, files)):
        raise UsageError(
            f"{what}: {whole} holds whole numbers, as a quantised copy has them, and its config.json does not say how "
            "to read them. Use a copy that is not quantised."
        )
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise UsageError(f"{what}: {name} holds NaN or infinity. The copy is damaged, or its training diverged.")


def whole_numbers(model: PreTrainedModel, files: Iterable[Path]) -> str | None:
    """The name of a parameter of the network that a file holds in whole numbers."""
    prefix = f"{model.base_model_prefix}."
    names = {name.removeprefix(prefix) for name, _ in model.named_parameters()}
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no dictionary
                if name.removeprefix(prefix) in names and opened.get_slice(name).get_dtype().startswith(WHOLE):
                    return str(name)
    return None


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


def check_start(model: PreTrainedModel, what: str) -> None:
    """Whether a decoder has a token to begin with.

    Raises:
        UsageError: an encoder-decoder's config names none, or none of the vocabulary.
    """
    start, rows = getattr(model.config, "decoder_start_token_id", None), _embedding(model).num_embeddings
    if model.config.is_encoder_decoder and not (isinstance(start, int) and 0 <= start < rows):
        raise UsageError(
            f"{what}: its config.json has decoder_start_token_id={start}, which must be a token from 0 to {rows - 1}. "
            "T5's is its pad_token_id, BART's its eos_token_id."
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


def check_padding(model: PreTrainedModel, what: str) -> None:
    """Raises UsageError if the network cannot be told where a text ends: its answers would depend on the batch."""
    if not accepts(model, "attention_mask"):
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
