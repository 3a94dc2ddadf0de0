"""Shows Hydra the user's folder: last on its search path, and each file looked through before it is composed."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf.errors import OmegaConfBaseException

from peftbench.config.user_files import check_settings, user_folder
from peftbench.errors import UsageError

SCHEME = "peftbench-user"


class UserFiles(SearchPathPlugin):
    """Puts the user's folder last on Hydra's search path. `peftbench.config.load` registers it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if (folder := user_folder()) is not None:
            search_path.append("peftbench-user", f"{SCHEME}://{folder}")


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
