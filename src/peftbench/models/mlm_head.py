"""A masked-LM head that is shipped apart from its encoder: `model.mlm_head`, made by `scripts/train_mlm_head.py`.

all-MiniLM-L6-v2 and all-mpnet-base-v2 were released without the head of their pre-training. The file holds one trained
anew, with BERT's usual transform and a bias for each token (the vocabulary matrix is the encoder's own), and low-rank
updates of the encoder's linear layers, which are added to the weights here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.models.content import HEAD, RECIPE, UNTRAINED, head_folder, head_revision
from peftbench.models.folder import read_json


@dataclass(frozen=True)
class Layout:
    """Where a network of one architecture with a masked-LM head has its parts.

    Attributes:
        encoder: the stack.
        head: what becomes of its hidden states, up to the logits.
        transform: the linear layer of the head.
        bias: of the logits; the vocabulary matrix stands beside it as `decoder`.
        linear: ends of the names of the linear layers in a block of the encoder.
    """

    encoder: str
    head: str
    transform: str
    bias: str
    linear: tuple[str, ...]

    @property
    def tied(self) -> str:
        """The other name of the bias."""
        return self.bias.removesuffix("bias") + "decoder.bias"


FEED_FORWARD = ("intermediate.dense", "output.dense")
LAYOUTS = {
    "bert": Layout(
        "bert",
        "cls",
        "cls.predictions.transform.dense",
        "cls.predictions.bias",
        ("query", "key", "value", "attention.output.dense", *FEED_FORWARD),
    ),
    "mpnet": Layout(
        "mpnet", "lm_head", "lm_head.dense", "lm_head.bias", ("attn.q", "attn.k", "attn.v", "attn.o", *FEED_FORWARD)
    ),
}
"""Type of a model's config -> its layout."""


def layout_of(model_type: str, name: str) -> Layout:
    """The layout of an architecture.

    Args:
        name: whose head it is, for the message.

    Raises:
        UsageError: no head is made for it.
    """
    if model_type not in LAYOUTS:
        raise UsageError(
            f"model.mlm_head={name}: heads are made for {' and '.join(LAYOUTS)} encoders, not for {model_type}."
        )
    return LAYOUTS[model_type]


def apply(model: PreTrainedModel, name: str) -> set[str]:
    """Put the head into `model` (if it has a place for one) and its low-rank updates into the encoder.

    Args:
        model: BertForMaskedLM or MPNetForMaskedLM, or the bare stack of one.
        name: a folder of `peftbench/assets`, or a folder of the user's, with `head.safetensors` and `recipe.json`; or
            `UNTRAINED`.

    Returns:
        Names of the parameters that now have values.

    Raises:
        UsageError: the folder is not there, or does not fit the model.
    """
    layout = layout_of(model.config.model_type, name)
    if name == UNTRAINED:
        return _start(model, layout)
    head_revision(name)  # says what is absent
    folder = head_folder(name)
    recipe = read_json(folder / RECIPE)
    with safe_open(folder / HEAD, "pt") as opened:
        tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118 - no iterator
    parameters = dict(model.named_parameters())
    given: set[str] = set()
    try:
        for key, tensor in tensors.items():
            if ".lora_A." in key:
                update = tensors[key.replace(".lora_A.", ".lora_B.")] @ tensor
                weight = _own(parameters, key.replace(".lora_A.weight", ".weight"), layout)
                weight.data += recipe["alpha"] / recipe["rank"] * update
            elif ".lora_B." not in key and key in parameters:
                with torch.no_grad():
                    parameters[key].copy_(tensor)
                given |= {key, layout.tied if key == layout.bias else key}
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"model.mlm_head={name}: made for another encoder ({error}).") from None
    return given


def _start(model: PreTrainedModel, layout: Layout) -> set[str]:
    head = {name: p for name, p in model.named_parameters() if name.startswith(f"{layout.head}.")}
    with torch.no_grad():
        for name, parameter in head.items():
            if name == f"{layout.transform}.weight":
                parameter.copy_(torch.eye(len(parameter)))
            elif not name.endswith("decoder.weight"):
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)  # of the norm; else a bias
    return {*head, layout.tied}


def _own(parameters: dict[str, torch.nn.Parameter], key: str, layout: Layout) -> torch.nn.Parameter:
    """A weight of the encoder, which a bare stack names without the prefix."""
    return parameters[key if key in parameters else key.removeprefix(f"{layout.encoder}.")]
