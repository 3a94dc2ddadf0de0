"""A masked-LM head that is shipped apart from its encoder: `model.mlm_head`, made by `scripts/train_mlm_head.py`.

all-MiniLM-L6-v2 was released without the head of its pre-training. The file holds one trained anew, with BERT's usual
transform and a bias for each token (the vocabulary matrix is the encoder's own), and low-rank updates of the encoder's
linear layers, which are added to the weights here.
"""

from __future__ import annotations

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.models.content import HEAD, RECIPE, UNTRAINED, head_folder, head_revision
from peftbench.models.folder import read_json

ENCODER = "bert."


def apply(model: PreTrainedModel, name: str) -> set[str]:
    """Put the head into `model` (if it has a place for one) and its low-rank updates into the encoder.

    Args:
        model: BertForMaskedLM, or the bare BertModel.
        name: a folder of `peftbench/assets`, or a folder of the user's, with `head.safetensors` and `recipe.json`; or
            `UNTRAINED`.

    Returns:
        Names of the parameters that now have values.

    Raises:
        UsageError: the folder is not there, or does not fit the model.
    """
    if name == UNTRAINED:
        return _start(model)
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
                weight = _own(parameters, key.replace(".lora_A.weight", ".weight"))
                weight.data += recipe["alpha"] / recipe["rank"] * update
            elif ".lora_B." not in key and key in parameters:
                with torch.no_grad():
                    parameters[key].copy_(tensor)
                given |= {key, key.replace("predictions.bias", "predictions.decoder.bias")}
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"model.mlm_head={name}: made for another encoder ({error}).") from None
    return given


def _start(model: PreTrainedModel) -> set[str]:
    head = {name: p for name, p in model.named_parameters() if name.startswith("cls.predictions.")}
    with torch.no_grad():
        for name, parameter in head.items():
            if name.endswith("dense.weight"):
                parameter.copy_(torch.eye(len(parameter)))
            elif not name.endswith("decoder.weight"):
                parameter.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    return {*head, "cls.predictions.decoder.bias"}


def _own(parameters: dict[str, torch.nn.Parameter], key: str) -> torch.nn.Parameter:
    """A weight of the encoder, which a bare stack names without the prefix."""
    return parameters[key if key in parameters else key.removeprefix(ENCODER)]
