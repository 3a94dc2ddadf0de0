"""Names of runs without loading their data again: what a draw gave is kept for as long as the data's files stay.

For `peftbench plan` alone. A run reads its data, whatever is remembered of them.
"""

from __future__ import annotations

from pathlib import Path

from peftbench.cache import Cache, code_stamp, stamp
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.tasks.base import DataSource, TaskData
from peftbench.version import __version__


class RememberedInputs(InputCache):
    """An `InputCache` that knows the hashes of draws which earlier commands made."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = Cache("draws")
        self._code = [__version__, code_stamp("tasks")]

    def run_id(self, cfg: RunConfig) -> str:
        """See `InputCache.run_id`."""
        data_key, draw_key = self._keys(cfg)
        if draw_key in self._hashes:
            return super().run_id(cfg)
        known = self._memory.get([*self._code, *draw_key])
        if known is not None and known["files"] == stamp(Path(path) for path, *_ in known["files"]):
            self._hashes[draw_key] = known["data"], known["draw"]
            return super().run_id(cfg)
        name = super().run_id(cfg)
        self._keep(data_key, draw_key)
        return name

    def _keep(self, data_key: tuple, draw_key: tuple) -> None:
        """Remember a draw that has just been made, if it can be seen whether its files are still the same."""
        data, hashes = self._data.get(data_key), self._hashes[draw_key]
        if not isinstance(data, TaskData) or isinstance(hashes, UsageError):
            return
        paths = files_of(data.source)
        files = None if paths is None else stamp(paths)
        if files is not None:
            self._memory.put([*self._code, *draw_key], {"data": hashes[0], "draw": hashes[1], "files": files})


def files_of(source: DataSource) -> list[Path] | None:
    """The files that data came from, with their folders, where another file may appear; None if that is not known."""
    if source.kind == "packaged":
        return []  # part of the code
    if source.kind != "local":
        return None
    files = [Path(source.where, name).absolute() for name in source.files]
    return [*files, *sorted({path.parent for path in files})]
