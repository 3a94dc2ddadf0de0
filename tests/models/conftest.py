"""Shared by the model tests: model configs as a run gets them, and an empty cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import peftbench.conf
from peftbench.config.schema import ModelConfig
from peftbench.config.sections import build

MODELS = Path(peftbench.conf.__file__).parent / "model"


@pytest.fixture
def model_config():
    """`model_config("tiny-bert", path=...)`: the checked `ModelConfig` of a YAML with some values replaced."""

    def make(choice: str, **changes) -> ModelConfig:
        section = yaml.safe_load((MODELS / f"{choice}.yaml").read_text()) | changes
        if str(section["name"]).startswith("$"):
            section["name"] = section["path"]
        section["family"] = section["family"] or "encoder"  # null: read off a checkpoint
        return build(ModelConfig, section, "model")

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test touches the user's cache; returns the folder."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
