"""`load_backbone`: from a model config to a `Backbone`, one way for every source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.models import anatomy, checks, content, formats, mlm_head, random_init, sources
from peftbench.models.architecture import Family, Purpose, accepts, auto_class_of, check_family, check_head, no_pooler
from peftbench.models.base import Backbone


@dataclass(frozen=True)
class _Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str
    source: str


def load_backbone(cfg: ModelConfig, purpose: Purpose, dropout: float | None = None) -> Backbone:
    """See `peftbench.models.load_backbone`."""
    auto_class = auto_class_of(cfg, purpose)
    with quiet():
        load = _random if cfg.source == "random" else _pretrained
        loaded = load(cfg, auto_class, dropout)
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    # what adapters say they belong to: a name that means something elsewhere, not a folder of this machine
    model.name_or_path = model.config._name_or_path = str(cfg.path) if cfg.source == "hub" else cfg.name
    checks.check_padding(model, f"model={cfg.name}")
    _set_padding(model, tokenizer, cfg.family)
    if not accepts(model, "token_type_ids"):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    limit = max_positions(model)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return Backbone(
        name=cfg.name,
        family=cfg.family,  # type: ignore[arg-type]
        purpose=purpose,
        model=model,
        tokenizer=tokenizer,
        hidden_size=checks.hidden_size(model),
        embedding_size=checks.embedding_size(model),
        output_size=checks.output_size(model) if purpose == "features" else 0,
        max_positions=limit,
        pooling=cfg.pooling,  # type: ignore[arg-type]
        prefix=cfg.prefix,
        revision=loaded.revision,
        source=loaded.source,
    )


def _random(cfg: ModelConfig, auto_class: Any, dropout: float | None) -> _Loaded:
    kind = str(cfg.arch.get("model_type", ""))
    tokenizer = random_init.build_tokenizer(kind, None)
    config = random_init.build_config(cfg.name, cfg.arch, tokenizer)
    check_family(cfg, config)
    check_head(cfg, config, auto_class)
    set_dropout(config, dropout)
    model = random_init.build_model(auto_class, config, **no_pooler(auto_class, config))
    model.to(formats.arguments(cfg.load)["dtype"])
    return _Loaded(model, tokenizer, content.random_revision(cfg.arch), f"random weights, {kind} architecture")


def _pretrained(cfg: ModelConfig, auto_class: Any, dropout: float | None) -> _Loaded:
    checkpoint = sources.locate(cfg)
    folder, what = checkpoint.folder(cfg.name), f"model={cfg.name}: {checkpoint.source}"
    with readable(cfg, checkpoint.source, folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_family(cfg, config)
    check_head(cfg, config, auto_class)
    set_dropout(config, dropout)
    with readable(cfg, checkpoint.source, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, report = auto_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named by `check_shapes`
            **formats.arguments(cfg.load),
            **no_pooler(auto_class, config),
        )
    checks.check_shapes(report["mismatched_keys"], what)
    anatomy.describe(model, folder)
    missing = set(report["missing_keys"])
    source = checkpoint.source
    if cfg.mlm_head is not None:
        missing -= mlm_head.apply(model, cfg.mlm_head)
        source += f", masked-LM head {cfg.mlm_head}"
    checks.check_weights(model, missing, report["unexpected_keys"], what)
    checks.check_numbers(model, sorted(folder.glob("*.safetensors")), what)
    checks.check_tokenizer(model, tokenizer, what)
    checks.check_start(model, what)
    return _Loaded(model, tokenizer, content.content_id(cfg), source)


@contextmanager
def readable(cfg: ModelConfig, source: str, folder: Path) -> Iterator[None]:
    """Turns what the libraries raise over a damaged or foreign checkpoint into one message."""
    try:
        yield
    except Exception as error:  # tokenizers raises bare Exception
        reason = " ".join(str(error).split())[:300].rstrip(".")
        if "custom code" in reason or "remote_code" in reason:
            way = "A model with code of its own: not supported, remote code is never run"
        elif cfg.source == "hub":  # its files were compared with the hub's hashes
            way = "Its files are those of the hub: try another commit (model.revision=COMMIT)"
        else:
            way = "A damaged copy: get the checkpoint again"
        raise UsageError(
            f"model={cfg.name}: cannot read {source} in {folder}: {type(error).__name__}: {reason}. {way}."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports from transformers while a checkpoint is read; missing weights are an error."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def set_dropout(config: PreTrainedConfig, probability: float | None) -> None:
    """Set every dropout probability of `config`; the field's names for it are many (`*dropout*`, GPT-2's `*pdrop`)."""
    if probability is None:
        return
    for key, value in config.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, int | float) and value is not True:
            setattr(config, key, probability)


def _set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: Family | str) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "left" if family == "causal" else "right"
    if family == "causal":
        model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config = plain_generation(model, tokenizer)


def plain_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The token ids that generation needs and nothing else: lengths, forced or forbidden words and penalties that lie
    beside a checkpoint (generation_config.json) would change the answers without a word."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )


def max_positions(model: PreTrainedModel) -> int | None:
    """Positions that the network can take; None where positions are relative without a limit (T5).

    RoBERTa-likes number positions from their padding index + 1, so that many rows of the table are never used.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else None
