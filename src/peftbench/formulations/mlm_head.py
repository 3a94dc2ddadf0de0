"""The masked-LM head of a network: where it is, what of it is its own, and how to run it at chosen places alone.

Found by structure, for any masked LM of transformers: the head is what such a network has besides its encoder (its
`base_model`). It is one module (BERT, MPNet), several (ELECTRA's generator, DistilBERT, ModernBERT), or one that is
given the word embeddings in the call (DeBERTa's new head).

A vocabulary is large: scores at every position of a batch would cost as much as a small encoder. A hook on the encoder
hands on the hidden states of the masked places only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import UsageError


def masked_lm(model: nn.Module) -> PreTrainedModel:
    """The masked LM, wherever a tuner has wrapped it.

    Raises:
        ValueError: there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.base_model is not module:
            return module
    raise ValueError(f"no masked-LM head in {type(model).__name__}: it is a bare stack")


@contextmanager
def at_places(model: nn.Module, places: Tensor, virtual_tokens: int) -> Iterator[None]:
    """Within the block the head sees the states at `places` only: the model's logits are (places, vocabulary).

    Args:
        places: (batch, n) bool.
        virtual_tokens: positions in front of the real ones in the hidden states.
    """

    def select(_encoder: nn.Module, _inputs: Any, output: Any) -> Any:
        chosen = output[0][:, virtual_tokens:][places]
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output[next(iter(output))] = chosen
        return output

    handle = masked_lm(model).base_model.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The masked LM's own children by name, the encoder left out."""
    network = masked_lm(model)
    return {name: child for name, child in network.named_children() if child is not network.base_model}


def prefix(model: nn.Module) -> str:
    """What `own_parameters` leaves out in front of its names: the name of a head that is one module."""
    trained = [name for name, module in head_modules(model).items() if any(True for _ in module.parameters())]
    return f"{trained[0]}." if len(trained) == 1 else ""


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The head's parameters by name, without those that it shares with the encoder."""
    network, left_out = masked_lm(model), prefix(model)
    encoder = {id(parameter) for parameter in network.base_model.parameters()}
    return {name.removeprefix(left_out): p for name, p in network.named_parameters() if id(p) not in encoder}


def output_layer(model: nn.Module) -> nn.Module | None:
    """The last layer of the head, whose `weight` is (vocabulary, d), wherever a tuner has wrapped the model. None if
    the head multiplies by the word embeddings itself."""
    network = masked_lm(model)
    layer = network.get_output_embeddings()
    rows = network.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr, index]
    weight = getattr(layer, "weight", None)
    return layer if weight is not None and len(weight) == rows else None


def output_matrix(model: nn.Module) -> Tensor:
    """(vocabulary, d): what the scores are the products with."""
    layer = output_layer(model)
    weight = (masked_lm(model).get_input_embeddings() if layer is None else layer).weight
    assert isinstance(weight, Tensor)
    return weight


def output_bias(model: nn.Module) -> Tensor | None:
    """(vocabulary,): what is added to the products; None if nothing is."""
    layer = output_layer(model)
    if layer is not None:
        return getattr(layer, "bias", None)
    rows = len(output_matrix(model))
    return next((p for p in own_parameters(model).values() if p.shape == (rows,)), None)


@contextmanager
def states_before_output(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block a forward pass leaves in the list's last place what `output_matrix` is multiplied by: (..., d).

    Raises:
        UsageError: at the end of the block, if nothing of that width was seen.
    """
    seen: list[Tensor] = []
    layer, width = output_layer(model), output_matrix(model).shape[1]
    if layer is not None:
        handles = [layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))]
    else:  # what the last of the head's modules gives
        parts = [part for module in head_modules(model).values() for part in module.modules()]
        handles = [part.register_forward_hook(lambda _module, _inputs, given: seen.append(given)) for part in parts]
    try:
        yield seen
        seen[:] = [states for states in seen if states.shape[-1] == width]
        if not seen:
            raise UsageError(
                f"a {type(masked_lm(model)).__name__} does not multiply states by one vocabulary matrix, so trained "
                "label words have no place there. Use method.formulation.verbalizer=manual and soft_pattern=false."
            )
    finally:
        for handle in handles:
            handle.remove()
