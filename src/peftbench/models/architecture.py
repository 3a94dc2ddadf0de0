"""What kind of network an architecture is: its family, what it takes, and the class that serves a purpose."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)

from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError

Family = Literal["encoder", "seq2seq", "causal"]
Purpose = Literal["features", "lm", "mlm"]
"""`features`: the bare stack that returns hidden states (AutoModel; of an encoder-decoder both halves); `lm`: with
its language-model head;
`mlm`: with the head that fills masked words (an encoder-decoder fills its sentinels with its language-model head)."""

AUTO_CLASSES = {
    ("encoder", "features"): AutoModel,
    ("causal", "features"): AutoModel,
    ("causal", "lm"): AutoModelForCausalLM,
    ("seq2seq", "features"): AutoModel,
    ("seq2seq", "lm"): AutoModelForSeq2SeqLM,
    ("encoder", "mlm"): AutoModelForMaskedLM,
    ("seq2seq", "mlm"): AutoModelForSeq2SeqLM,
}
REFUSED = {
    ("encoder", "lm"): "an encoder has no left-to-right language model: use formulation head (or auto), or a causal or "
    "encoder-decoder model such as model=smollm2-135m or model=flan-t5-base for generate and score",
    (
        "causal",
        "mlm",
    ): "a causal model fills no masked words: use formulation generate or score (or auto), or a model with "
    "a masked-LM head such as model=minilm-mlm or model=roberta-large for cloze",
}


def auto_class_of(cfg: ModelConfig, purpose: Purpose) -> Any:
    """The class of transformers that builds the network. Raises UsageError if the family does not serve `purpose`."""
    if (cfg.family, purpose) in REFUSED:
        raise UsageError(f"model={cfg.name} (family {cfg.family}): {REFUSED[cfg.family, purpose]}.")
    return AUTO_CLASSES[cfg.family, purpose]


def family_of(config: PreTrainedConfig) -> Family:
    """What the architecture is, whatever the YAML says. BERT-likes that can also decode count as encoders."""
    if config.is_encoder_decoder:
        return "seq2seq"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
        config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        return "causal"
    return "encoder"


def check_family(cfg: ModelConfig, config: PreTrainedConfig) -> None:
    """Raises UsageError if `model.family` contradicts the architecture."""
    found = family_of(config)
    if found != cfg.family:
        raise UsageError(
            f"model={cfg.name}: model.family={cfg.family}, but a {config.model_type} network is of family {found}. "
            f"Set model.family={found}."
        )


def check_head(cfg: ModelConfig, config: PreTrainedConfig, auto_class: Any) -> None:
    """Raises UsageError if transformers has no network of this architecture with the head that is asked for."""
    if type(config) in auto_class._model_mapping:
        return
    if auto_class is AutoModelForMaskedLM:
        lacks, way = "masked-LM head", "method/formulation=head, or a masked LM such as model=minilm-mlm for cloze"
    elif auto_class is AutoModel:
        lacks, way = "bare stack", "method/formulation=generate or score"
    else:
        lacks, way = "language-model head", "method/formulation=head"
    raise UsageError(f"model={cfg.name}: transformers has no {lacks} for a {config.model_type} network. Use {way}.")


def no_pooler(auto_class: Any, config: PreTrainedConfig) -> dict[str, bool]:
    """Pooling is ours (`Backbone.pooling`): BERT's extra dense layer on [CLS] is left out where the class allows."""
    if auto_class is not AutoModel or type(config) not in MODEL_MAPPING:
        return {}
    model_class = MODEL_MAPPING[type(config)]
    has_pooler = not isinstance(model_class, tuple | list) and (
        "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    )
    return {"add_pooling_layer": False} if has_pooler else {}


def accepts(module: nn.Module, keyword: str) -> bool:
    """Whether `module.forward` has a parameter of this name."""
    return keyword in inspect.signature(module.forward).parameters
