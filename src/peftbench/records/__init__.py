"""The truth about runs: one record a run, and all that stands around it. Free of torch.

`peftbench.records("results")` is a function of the API and the name of this room as well, so the module can be called.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


class _Records(ModuleType):
    def __call__(self, out_dir: str | Path = "results") -> pandas.DataFrame:
        """Every finished run under `out_dir`, a row a run, with the columns of `leaderboard.csv`."""
        from peftbench.records.frame import frame_of
        from peftbench.records.store import Store

        return frame_of(Store(out_dir).all())


sys.modules[__name__].__class__ = _Records
