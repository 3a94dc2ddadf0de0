"""Networks without pre-trained weights: tiny ones for tests, full-size ones to measure cost without a network.

Both come with the packaged tiny tokenizer. A full-size architecture keeps its own vocabulary size, so its embedding
matrix has the right number of parameters although only the first rows are ever looked up.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from peftbench.errors import UsageError, did_you_mean
from peftbench.models.content import RANDOM_SEED, TOKENIZER_FILE
from peftbench.models.folder import check_sizes

SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
SENTINEL = "<extra_id_0>"
"""What a T5 has in the place of the mask."""
UNDECLARED = {"deberta-v2": ("position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size", "embedding_size")}
"""Keys that a network reads from its config although the config's class does not name them: released checkpoints do."""
LIBRARY_INIT_LIMIT = 10_000_000
"""Parameters up to which transformers' own initialisation is used; drawing a billion normals takes most of a minute."""
NOISE_SIZE, NOISE_PIECE, NOISE_STEP = 1 << 22, 1 << 21, 1_299_709
"""Values drawn, the most that is copied from them at once, and by how much the copied window moves on (a prime)."""
NOISE_STD = 0.02


def build_config(name: str, arch: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """`arch` of the model's YAML as a transformers config that agrees with `tokenizer` on the special ids."""
    values = dict(arch)
    kind = str(values.pop("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise UsageError(
            f"model={name}: model.arch.model_type={kind!r} is unknown. {did_you_mean(kind, CONFIG_MAPPING)}"
        )
    config_class = CONFIG_MAPPING[kind]
    valid = config_class().to_dict() | dict.fromkeys(UNDECLARED.get(kind, ()))
    for key in values.keys() - valid.keys():
        raise UsageError(f"model={name}: model.arch.{key} is not a key of a {kind} config. {did_you_mean(key, valid)}")
    check_sizes(values, f"model={name}: model.arch")
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    try:
        config = config_class(**{"vocab_size": len(tokenizer), **values, **ids})
    except Exception as error:  # transformers checks types and divisibility with errors of many kinds
        raise UsageError(f"model={name}: model.arch does not make a {kind} config: {error}") from error
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
    if config.vocab_size < len(tokenizer):
        raise UsageError(
            f"model={name}: model.arch.vocab_size={config.vocab_size} is below the {len(tokenizer)} needed"
        )
    return config


def build_tokenizer(model_type: str, max_positions: int | None) -> PreTrainedTokenizerFast:
    """The packaged byte-level tokenizer: any Unicode text, no unknown tokens, text as the model family frames it."""
    special = {**SPECIAL, "mask": SENTINEL} if model_type == "t5" else SPECIAL
    tokenizer = Tokenizer.from_str(TOKENIZER_FILE.read_text("utf-8").replace(SPECIAL["mask"], special["mask"]))
    frames = {
        "bert": ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"),
        "t5": ("$A </s>", "$A </s> $B </s>"),
        "llama": ("<s> $A", "<s> $A $B"),
    }
    single, pair = frames.get(model_type, ("<s> $A </s>", "<s> $A </s> </s> $B </s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if model_type == "bert" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{role}_token": token for role, token in SPECIAL.items() if token == special[role]},
        cls_token=SPECIAL["bos"],
        sep_token=SPECIAL["eos"],
        model_max_length=max_positions or 512,
        model_input_names=inputs,
        clean_up_tokenization_spaces=False,
    )


def build_model(auto_class: Any, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
    """`config`'s network with weights that are the same on every call; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        with torch.device("meta"):
            size = sum(p.numel() for p in auto_class.from_config(config, **kwargs).parameters())
        if size <= LIBRARY_INIT_LIMIT:
            return auto_class.from_config(config, dtype=torch.float32, **kwargs)
        with no_init_weights():
            model = auto_class.from_config(config, dtype=torch.float32, **kwargs)
        model.tie_weights()
        fill_with_noise(model)
        return model


@torch.no_grad()
def fill_with_noise(model: nn.Module) -> None:
    """Matrices get N(0, 0.02^2) noise, copied from windows of a few million draws; biases 0, norm weights 1.

    Right for cost, where only shapes count; not an initialisation to learn from.
    """
    start = 0
    noise = torch.randn(NOISE_SIZE, generator=torch.Generator().manual_seed(RANDOM_SEED)) * NOISE_STD
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        for piece in parameter.view(-1).split(NOISE_PIECE):
            piece.copy_(noise[start : start + len(piece)])
            start = (start + NOISE_STEP) % (NOISE_SIZE - NOISE_PIECE)
