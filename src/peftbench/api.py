"""peftbench in Python: what `import peftbench` offers. Everything heavy is imported when it is used.

The same runs as on the command line, under the same names; errors are exceptions and nothing is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.records.record import Record
from peftbench.records.store import Store

if TYPE_CHECKING:
    import pandas

    from peftbench.config.schema import RunConfig
    from peftbench.records.manifest import Manifest
    from peftbench.saved.answers import Answer
    from peftbench.saved.load import Answerer

CHUNK = 1024
"""Rows between two calls of a progress bar."""


class RunFailed(Exception):
    """A run that Python code asked for did not end well; `record` says how and why."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"run {record.run_id}: {record.status}: {record.reason}")
        self.record = record


class Run:
    """A finished run: its record and, once it is asked, the model that it trained; of a run that has learned several
    tasks, as it answers `task`."""

    def __init__(self, record: Record, out_dir: str | Path = "results", task: str | None = None) -> None:
        self.record = record
        self.out_dir = Path(out_dir)
        self.task = task

    def __repr__(self) -> str:
        score = "none" if self.score is None else f"{self.record.metric} {self.score:.1f}"
        return f"<Run {self.run_id}: {self.record.method} on {self.record.task}/{self.record.subset}, {score}>"

    @property
    def run_id(self) -> str:
        """Names the run, here and on the command line."""
        return self.record.run_id

    @property
    def score(self) -> float | None:
        """The main metric on test, in percent."""
        return self.record.score

    @property
    def folder(self) -> Path:
        """The run's files."""
        return Store(self.out_dir).folder(self.run_id)

    @property
    def adapter_path(self) -> Path:
        """The folder with what was trained.

        Raises:
            UsageError: the run is not done, or what it trained was not saved.
        """
        from peftbench.saved.load import adapter_folder

        return adapter_folder(self.record, self.folder)

    @cached_property
    def manifest(self) -> Manifest:
        """All that it takes, beside the weights, to answer new rows.

        Raises:
            UsageError: nothing was saved, or the run has learned several tasks and `task` is none of them.
        """
        from peftbench.records.manifest import of_task, read

        return of_task(read(self.adapter_path), self.task)

    @cached_property
    def model(self) -> Answerer:
        """What was trained, loaded when it is first asked for."""
        from peftbench.saved.load import load

        return load(self.adapter_path, self.manifest, self.record.config)

    def predict(self, data: Iterable[Any], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers to new rows, in order.

        Args:
            data: texts, pairs of texts, mappings with `text` and `pair`, or a DataFrame with these columns.
            progress: called with the number of rows that are answered, from time to time.

        Raises:
            UsageError: a row is none of these, or the model cannot be loaded.
        """
        from peftbench.saved.answers import answers_of
        from peftbench.saved.rows import new_rows

        rows, found = new_rows(data, self.manifest), []
        size = len(rows) if progress is None else CHUNK
        for start in range(0, len(rows), size or 1):
            found += self.model.predict(rows[start : start + size])
            if progress is not None:
                progress(len(found))
        return answers_of(found, self.manifest)

    def infer(self, *overrides: str, verbose: bool = False) -> Run:
        """Test answered again by what this run has trained, the answers drawn another way: a run of its own, whose
        record names this one. Nothing is trained.

        Args:
            overrides: `method/inference=NAME` and `method.inference.KEY=VALUE`; `rerun=true`.

        Raises:
            UsageError: what was trained is not there, the inference does not fit it, or the data have changed since.
            RunFailed: the run did not end well.
        """
        from peftbench.inputs import InputCache
        from peftbench.runner import run as run_one
        from peftbench.saved.parent import Parent

        parent, inputs = Parent(self.record, self.adapter_path), InputCache()
        cfg = parent.config(overrides, str(self.out_dir))
        parent.check_rows(inputs.load(cfg))
        quiet = replace(cfg, trainer=replace(cfg.trainer, progress=cfg.trainer.progress and verbose))
        record, _ = run_one(quiet, inputs, parent)
        if record is None or record.status != "done":
            raise RunFailed(record or self.record)
        return Run(record, self.out_dir)

    def export(self, folder: str | Path, merge: bool = False) -> Path:
        """Write a folder that plain transformers and peft load; see `peftbench export`."""
        from peftbench.saved.export import export

        return export(Store(self.out_dir), self.record, self.manifest, Path(folder), merge)


class Runs(Sequence[Run]):
    """The runs of a sweep, in its order."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)

    def __getitem__(self, index: Any) -> Any:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._runs))

    def frame(self) -> pandas.DataFrame:
        """A row a run, the columns of `leaderboard.csv`."""
        from peftbench.records.frame import frame_of

        return frame_of([run.record for run in self._runs])


def run(*overrides: str, verbose: bool = False, **axes: Any) -> Run:
    """Do one run, or find it if it is finished already.

    Args:
        overrides: as on the command line, "task.lang=swa".
        verbose: show the progress of the training on standard error.
        axes: the same by name, `method="dept", shots=10`.

    Raises:
        UsageError: the config, the data or the draw is wrong; nothing has been written.
        RunFailed: the run did not end well; the error's `record` says why.
    """
    from peftbench.config.many import compose_remembered

    return _finish(compose_remembered([*overrides, *_texts(axes)]), verbose)


def sweep(choices: Mapping[str, Any], *overrides: str, verbose: bool = False) -> Runs:
    """Do every combination of the choices, one after the other, the last key changing fastest.

    Args:
        choices: key -> a list of values, or a single value.
        overrides: for all of them.

    Returns:
        All runs, also those that did not end well: their `record.status` says so. Of two that are the same, one.

    Raises:
        UsageError: a combination cannot be a run; none has begun then.
    """
    from peftbench.inputs import InputCache
    from peftbench.models.backbone_cache import keep_loaded
    from peftbench.sweeps.jobs import compose_jobs

    inputs = InputCache()
    jobs = compose_jobs([[*overrides, *texts] for texts in _combinations(choices)], inputs)
    for job in jobs:
        if job.error:
            raise UsageError(f"{' '.join(job.overrides)}: {job.error}")
    with keep_loaded():
        return Runs(
            [_finish(job.config, verbose, inputs, strict=False) for job in jobs if job.same_as is None and job.config]
        )


def load_run(run_id: str, out_dir: str | Path = "results", task: str | None = None) -> Run:
    """A run that was done before; the beginning of its id is enough.

    Args:
        task: of a sequence of tasks, the one that it is asked about.

    Raises:
        UsageError: there is no such run, or several.
    """
    from peftbench.records.find import find_run

    return Run(find_run(Store(out_dir), run_id), out_dir, task)


def predict(run_id: str, data: Iterable[Any], out_dir: str | Path = "results", task: str | None = None) -> list[Answer]:
    """`load_run(run_id, out_dir, task).predict(data)`."""
    return load_run(run_id, out_dir, task).predict(data)


def register() -> None:
    """Make the adapter types of peftbench (DEPT, EPT, IAPT, ...) known to peft, for `PeftModel.from_pretrained`."""
    from peftbench import tuners

    tuners.register()


def _finish(cfg: RunConfig, verbose: bool, inputs: Any = None, strict: bool = True) -> Run:
    from peftbench.search.search import run_searched

    quiet = replace(cfg, trainer=replace(cfg.trainer, progress=cfg.trainer.progress and verbose))
    record, _ = run_searched(quiet, inputs)
    if record is None:
        raise UsageError("peftbench.run: this is not the first process of a run of several; use the command line.")
    if strict and record.status != "done":
        raise RunFailed(record)
    return Run(record, cfg.out_dir)


def _texts(axes: Mapping[str, Any]) -> list[str]:
    """Overrides as the command line writes them."""
    from peftbench.config.command import hydra_value

    return [f"{key}={hydra_value(value)}" for key, value in axes.items()]


def _combinations(choices: Mapping[str, Any]) -> Iterator[list[str]]:
    import itertools

    lists = [value if isinstance(value, list | tuple | range) else [value] for value in choices.values()]
    for values in itertools.product(*lists):
        yield _texts(dict(zip(choices, values, strict=True)))
