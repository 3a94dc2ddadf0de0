"""The masked-LM head of a network: where it is, what of it is its own, and how to run it at chosen places alone.

A vocabulary is large: scores at every position of a batch would cost as much as a small encoder. A hook on the head
hands it the hidden states of the masked places only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

NAMES = ("cls", "lm_head", "lm_predictions", "predictions", "vocab_transform", "head", "generator_predictions")
"""What transformers calls the first module after the encoder's hidden states, by architecture."""


def find_head(model: nn.Module) -> nn.Module:
    """The head of a masked LM, wherever a tuner has wrapped it.

    Raises:
        ValueError: there is none by a known name.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in NAMES:
            return module
    raise ValueError(f"no masked-LM head found in {type(model).__name__} (looked for {', '.join(NAMES)})")


@contextmanager
def at_places(model: nn.Module, places: Tensor, virtual_tokens: int) -> Iterator[None]:
    """Within the block the head sees the states at `places` only: the model's logits are (places, vocabulary).

    Args:
        places: (batch, n) bool.
        virtual_tokens: positions in front of the real ones in the hidden states.
    """

    def select(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[:, virtual_tokens:][places], *rest)

    handle = find_head(model).register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The head's parameters by name, without those that it shares with the word embeddings."""
    shared = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return {name: p for name, p in find_head(model).named_parameters() if id(p) not in shared}


def output_layer(model: nn.Module) -> nn.Module:
    """The last layer of the head, whose `weight` is (vocabulary, d), wherever a tuner has wrapped the model.

    Raises:
        ValueError: there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and getattr(module.get_output_embeddings(), "weight", None) is not None:
            return module.get_output_embeddings()
    raise ValueError(f"{type(model).__name__} has no output layer over the vocabulary")


def output_matrix(model: nn.Module) -> Tensor:
    """(vocabulary, d): the weight of `output_layer`."""
    weight = output_layer(model).weight
    assert isinstance(weight, Tensor)
    return weight


@contextmanager
def states_before_output(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block a forward pass leaves in the list what its output layer is given: (..., d)."""
    seen: list[Tensor] = []
    handle = output_layer(model).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
