"""peftbench: benchmarks of parameter-efficient fine-tuning that people can believe.

    import peftbench

    run = peftbench.run("task.lang=swa", method="dept", task="masakhanews", shots=10)
    run.score, run.predict(["..."])

See docs/python.md. Importing the package costs nothing; what a name needs is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peftbench.version import __version__

__all__ = ["Answer", "Record", "Run", "RunFailed", "Runs", "UsageError", "__version__", "load_run", "predict"]
__all__ += ["records", "register", "run", "sweep"]

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

    from peftbench.api import Run, RunFailed, Runs, load_run, predict, register, run, sweep
    from peftbench.errors import UsageError
    from peftbench.records.record import Record
    from peftbench.saved.answers import Answer

    def records(out_dir: str | Path = "results") -> pandas.DataFrame:
        """Every finished run under `out_dir`, a row a run, with the columns of `leaderboard.csv`."""


_HOME = {
    **dict.fromkeys(("Run", "RunFailed", "Runs", "load_run", "predict", "register", "run", "sweep"), "peftbench.api"),
    "UsageError": "peftbench.errors",
    "Record": "peftbench.records.record",
    "Answer": "peftbench.saved.answers",
}
"""Name -> the module that has it."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "records":  # a room of the package, and a function
        return import_module("peftbench.records")
    raise AttributeError(f"module `peftbench` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
