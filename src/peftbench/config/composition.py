"""The config files of one run put together by Hydra, without the half of its work that no run sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftbench.config.hydra_source import COMMAND, CONFIG_MODULE, HYDRA_DEFAULTS, RUN


def compose_by_hydra(overrides: Sequence[str]) -> DictConfig:
    """The composed config, Hydra's own section taken out.

    Raises:
        Exception: whatever Hydra and OmegaConf raise for overrides and files that cannot be composed.
    """
    outer = GlobalHydra.instance().hydra  # of a host application, which gets it back
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, **HYDRA_DEFAULTS):
            return _of_the_run(list(overrides)) or whole_command(list(overrides))
    finally:
        GlobalHydra.instance().hydra = outer


def whole_command(overrides: list[str]) -> DictConfig:
    """By `hydra.compose`."""
    return compose(COMMAND, overrides=overrides)


def _of_the_run(overrides: list[str]) -> DictConfig | None:
    """What `hydra.compose` gives, in half its time: its own section (launchers, logging, help), made for each config
    and then thrown away, is left out. None if that section plays a part, be it in a mistake."""
    if any("hydra" in override for override in overrides):
        return None
    try:
        cfg = loaded(RUN, overrides)
    except OmegaConfBaseException as error:
        if "hydra" in str(error):
            return None
        raise ConfigCompositionException() from error
    except ConfigCompositionException as error:
        if "hydra" in f"{error} {error.__cause__}":
            return None
        raise
    return None if "hydra" in cfg else cfg


def loaded(name: str | None, overrides: list[str]) -> DictConfig:
    """The steps of `ConfigLoaderImpl.load_configuration` without Hydra's own files: the config file of that name, or
    none, and the files that overrides choose."""
    loader = cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader())
    parsed, files = loader._parse_overrides_and_create_caching_repo(name, overrides)
    loader.validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=False)
    chosen = create_defaults_list(files, name, parsed, prepend_hydra=False, skip_missing=False)
    cfg = loader._compose_config_from_defaults_list(chosen.defaults, files)
    OmegaConf.set_struct(cfg, True)
    loader._apply_overrides_to_config(chosen.config_overrides, cfg)
    return cfg
