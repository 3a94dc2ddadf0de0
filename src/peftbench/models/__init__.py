"""Backbones: `load_backbone` gives a pre-trained network with its tokenizer, wherever the weights come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftbench.config.schema import ModelConfig
    from peftbench.models.architecture import Purpose
    from peftbench.models.base import Backbone


def load_backbone(cfg: ModelConfig, purpose: Purpose, dropout: float | None = None) -> Backbone:
    """Load `cfg`'s network for `purpose`, in eval mode, fp32, on the CPU. Imports torch and transformers.

    Args:
        cfg: a composed `conf/model/*.yaml`.
        purpose: `features` for the bare stack, `lm` for the stack with its language-model head, `mlm` with the one that
            fills masked words.
        dropout: every dropout probability of the network; None keeps the checkpoint's own.

    Raises:
        UsageError: the weights cannot be had, cannot be read, or do not fit `purpose`.
    """
    from peftbench.models.backbone_cache import backbone_cache
    from peftbench.models.load import load_backbone as load

    kept = backbone_cache()
    if kept is None:
        return load(cfg, purpose, dropout)
    return kept.give(cfg, purpose, dropout, lambda: load(cfg, purpose, dropout))
