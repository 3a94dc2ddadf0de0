"""Config files of the user's own, beside those of the package: `$PEFTBENCH_CONF`, else `results/conf` if it is there.

The folder is laid out like the package's `conf`: `experiment/NAME.yaml` is found by `+experiment=NAME`. A name that the
package has too is the package's.
"""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from peftbench.errors import UsageError

VARIABLE = "PEFTBENCH_CONF"
DEFAULT = Path("results/conf")
"""Where a search with the default `out_dir` leaves its experiment files."""


def user_folder() -> Path | None:
    """The user's folder, or None. Raises UsageError if the variable names none."""
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser() if named else DEFAULT
    if folder.is_dir():
        return folder.resolve()
    if named:
        raise UsageError(f"{VARIABLE}={named}: no such folder. Make it, or unset {VARIABLE}.")
    return None


class UserFiles(SearchPathPlugin):
    """Puts the user's folder last on Hydra's search path. `peftbench.config.load` registers it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if (folder := user_folder()) is not None:
            search_path.append("peftbench-user", f"file://{folder}")
