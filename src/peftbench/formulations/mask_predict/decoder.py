"""A decoder made of a masked LM: all of its weights, and cross-attention that starts from its self-attention
(Yoshida's thesis, arXiv 2408.16241). It stays bidirectional: every token of the answer sees every other.

Of networks whose blocks in transformers may have cross-attention behind their self-attention (BERT, RoBERTa, XLM-R,
CamemBERT, ELECTRA and others of that build).
"""

from __future__ import annotations

import copy

from torch import nn
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.models.architecture import accepts
from peftbench.models.load import quiet

CROSS = "crossattention"


def decoder_of(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """A decoder with the weights of `model`, which stays as it is.

    Raises:
        UsageError: the network has no place for cross-attention.
    """
    unfit = UsageError(
        f"model={name}: a {type(model).__name__} has no place for cross-attention, which "
        "method/formulation=mask_predict needs. Use a BERT or RoBERTa network with a masked-LM head, such as "
        "model=minilm-mlm or model=roberta-base."
    )
    if not accepts(model, "encoder_hidden_states"):
        raise unfit
    config = copy.deepcopy(model.config)
    config.is_decoder, config.add_cross_attention = True, True
    with quiet():  # a masked LM with is_decoder is unusual, and warned of
        decoder = type(model)(config)
    decoder.load_state_dict(model.state_dict(), strict=False)
    blocks = [module for module in decoder.modules() if hasattr(module, CROSS)]
    if not blocks:
        raise unfit
    for block in blocks:
        getattr(block, CROSS).load_state_dict(block.get_submodule("attention").state_dict())
    for module in decoder.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]
    decoder.config.is_decoder = False  # of it the stack would make a causal mask
    decoder.to(next(model.parameters()).dtype).requires_grad_(True)  # type: ignore[call-arg, arg-type]
    return decoder.train(model.training)


def cross_attentions(decoder: nn.Module) -> list[nn.Module]:
    """Of each block."""
    return [getattr(module, CROSS) for module in decoder.modules() if hasattr(module, CROSS)]
