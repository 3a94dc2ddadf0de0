"""Shared by the task tests: configs as a run gets them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hydra import initialize_config_module
from omegaconf import OmegaConf

from peftbench.config.composition import loaded
from peftbench.config.hydra_source import CONFIG_MODULE, HYDRA_DEFAULTS
from peftbench.config.schema import ProtocolConfig, TaskConfig
from peftbench.config.sections import build, build_task
from peftbench.config.tasks import adapter_of


@cache
def compose_section(group: str, choice: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_module(CONFIG_MODULE, **HYDRA_DEFAULTS):
        return OmegaConf.to_container(loaded(None, [f"+{group}={choice}", *overrides]), resolve=True)[group]


@pytest.fixture
def task_config():
    """`task_config("trec", "task.subset=mr")`: the composed and checked `TaskConfig`, without the rest of a run."""

    def make(choice: str, *overrides: str) -> TaskConfig:
        section = compose_section("task", choice, *overrides)
        return build(adapter_of(section["adapter"]).config, section, "task")

    return make


@pytest.fixture
def settled_task():
    """`task_config`, as a run gets it: with what the adapter completes when the config is composed."""
    return lambda choice, *overrides: build_task(compose_section("task", choice, *overrides))


@pytest.fixture
def protocol():
    """`protocol("lm_bff")`: the checked section of that name."""

    def make(name: str, **changes: Any) -> ProtocolConfig:
        return build(ProtocolConfig, {**compose_section("protocol", name), **changes}, "protocol")

    return make


@pytest.fixture
def default_protocol(protocol) -> ProtocolConfig:
    return protocol("default")
