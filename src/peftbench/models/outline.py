"""A backbone without its weights: the network of its config on torch's meta device, to ask what fits it before anything
is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from peftbench.config.schema import ModelConfig
from peftbench.models import anatomy, checks, random_init
from peftbench.models.architecture import Purpose, auto_class_of, check_family, no_pooler
from peftbench.models.base import Backbone
from peftbench.models.load import max_positions, quiet, readable
from peftbench.models.sources import config_folder


def outline(cfg: ModelConfig, purpose: Purpose) -> Backbone:
    """`load_backbone`'s result with parameters that have shapes and no values, and without a tokenizer.

    Of a model on the hub only its config.json is fetched.

    Raises:
        UsageError: the config cannot be had, or does not fit `purpose`.
    """
    auto_class = auto_class_of(cfg, purpose)
    with quiet():
        config, folder = _config(cfg)
        check_family(cfg, config)
        return outline_of(config, cfg, purpose, auto_class, folder)


def outline_of(
    config: PreTrainedConfig, cfg: ModelConfig, purpose: Purpose, auto_class: Any, folder: Path | None = None
) -> Backbone:
    """The same of a config at hand; `folder` may hold the user's own anatomy.yaml."""
    with torch.device("meta"):
        model = auto_class.from_config(config, dtype=torch.float32, **no_pooler(auto_class, config)).eval()
    model.name_or_path = model.config._name_or_path = cfg.name
    if folder is not None:
        anatomy.describe(model, folder)
    return Backbone(
        name=cfg.name,
        family=cfg.family,  # type: ignore[arg-type]
        purpose=purpose,
        model=model,
        tokenizer=None,  # type: ignore[arg-type]
        hidden_size=checks.hidden_size(model),
        embedding_size=checks.embedding_size(model),
        max_positions=max_positions(model),
        pooling=cfg.pooling,  # type: ignore[arg-type]
        prefix=cfg.prefix,
        revision="",
        source="its config alone",
    )


def _config(cfg: ModelConfig) -> tuple[PreTrainedConfig, Path | None]:
    if cfg.source == "random":
        kind = str(cfg.arch.get("model_type", ""))
        return random_init.build_config(cfg.name, cfg.arch, random_init.build_tokenizer(kind, None)), None
    folder = config_folder(cfg)
    with readable(cfg, "its config.json", folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False), folder
