"""Shows Hydra the config files: those of the package, each read once, and those of the user's folder, last on its
search path and looked through before they are composed."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import ClassVar

import yaml
from hydra import __version__ as hydra_version
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf.errors import OmegaConfBaseException

from peftbench.config.user_files import check_settings, user_folder
from peftbench.errors import UsageError

CONFIG_MODULE = "peftbench.conf"
RUN, COMMAND = "config", "command"
"""What a run is, and around it how Hydra does what a command asks for."""
SCHEME = "peftbench-user"
PACKAGED = "peftbench-packaged"
HYDRA_DEFAULTS: dict[str, str] = {"version_base": "1.3"} if hydra_version.startswith("1.3.") else {}
"""Hydra 1.3 wants to be told that its own defaults are meant; later ones have no others, and warn of the parameter."""


class ConfigFiles(SearchPathPlugin):
    """Has the package's files read by `PackagedSource`, and puts the user's folder last on Hydra's search path.
    `peftbench.config.load` registers it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.path == f"pkg://{CONFIG_MODULE}":
                element.path = f"{PACKAGED}://{CONFIG_MODULE}"
        if (folder := user_folder()) is not None:
            search_path.append("peftbench-user", f"{SCHEME}://{folder}")


class PackagedSource(ImportlibResourcesConfigSource):
    """Reads the package's files for Hydra. One config takes some twenty of them, the next one mostly the same ones, and
    to parse them is a quarter of what it costs to compose."""

    _known: ClassVar[dict[str, ConfigResult]] = {}

    @staticmethod
    def scheme() -> str:
        return PACKAGED

    def load_config(self, config_path: str) -> ConfigResult:
        """Called by Hydra, which changes what it gets."""
        if config_path not in self._known:
            self._known[config_path] = super().load_config(config_path)
        return copy.deepcopy(self._known[config_path])


class UserSource(FileConfigSource):
    """Reads the files of the user's folder for Hydra."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Called by Hydra. Raises UsageError if the file is no settings file."""
        path = Path(self.path, self._normalize_file_name(config_path))
        if "hydra" in os.path.normpath(config_path).split(os.sep)[:-1]:
            raise UsageError(f"{path}: a file of your own cannot stand in for one of Hydra's.")
        check_settings(path)
        try:
            return super().load_config(config_path)
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise UsageError(f"{path}: {next(iter(str(error).splitlines()), type(error).__name__)}") from None
