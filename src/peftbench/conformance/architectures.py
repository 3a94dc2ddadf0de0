"""Tiny networks of many architectures: built from `architectures.yaml`, nothing is downloaded."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from peftbench.config.schema import ModelConfig


@cache
def architectures() -> dict[str, ModelConfig]:
    """model_type -> a model config with random weights."""
    text = files("peftbench.conformance").joinpath("architectures.yaml").read_text(encoding="utf-8")
    return {name: tiny(name, dict(entry)) for name, entry in yaml.safe_load(text).items()}


def tiny(name: str, arch: dict[str, Any]) -> ModelConfig:
    """The model config of one entry."""
    family = arch.pop("family")
    pooling = "last" if family == "causal" else "mean"
    return ModelConfig(
        name=f"tiny-{name}", family=family, source="random", pooling=pooling, arch={"model_type": name, **arch}
    )
