"""What a stage is given and what it hands on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.attempt import Attempt
from peftbench.config.registry import imported
from peftbench.records.stage_report import StageReport

__all__ = ["Context", "Predictor", "Stage", "StageReport"]

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.formulations.base import Prediction
    from peftbench.formulations.robustness import Asked
    from peftbench.learner import Learner
    from peftbench.measure.clock import PhaseClock
    from peftbench.measure.memory import MemoryMeter
    from peftbench.records.record import Record
    from peftbench.tasks.base import Row, TaskData
    from peftbench.tasks.protocols import Draw
    from peftbench.training.distributed import Dist


@dataclass(frozen=True)
class Stage:
    """What a stage declares of itself, so that nobody need ask for it by name. The module that makes it, as the
    constant `STAGE`, imports nothing heavy.

    Attributes:
        run: `(context, incoming) -> Predictor`, `incoming` being what the stage before left, or None; or where that
            function is, "module:function", imported when the stage runs.
        options: dataclass of the stage's own options; None if it has none.
        section: where they stand in `method`; two stages may share one section and its dataclass.
        uses: dotted keys and sections of the config, besides its own, that decide what it does.
        results_version: raised when the same keys would give other numbers; renames the runs that have the stage.
        settle: completes the options when the config is composed, as by the hash of a file that they name; raises
            UsageError.
        fits: `fits(config)`, asked when a config is composed; raises UsageError if the rest of it does not go together
            with the stage.
        check: `check(context)`, asked before the first stage trains whether this one can do its part; raises
            UsageError if not. A function or where it is, like `run`.
        contents: `contents(config, data_dir)`, what it reads besides the draw and the backbone: part -> hash of the
            content, for the run's name; raises UsageError. A function or where it is, like `run`.
        several_processes: whether several processes can do it together.
        trains: whether it makes optimiser steps.
        one_training: whether its cost is that of one training as long as the trainer says.
        of_tasks: whether it is the one, named by no method, that has a method's own stage done for each of the tasks
            that the run's task is made of.
        sequential: whether it can go on with the next task of a sequence, from what it has left after the last one.
        calibrates: whether it measures the prior that `method.formulation.calibration` asks for.
        takes_tricks: whether it trains with the method's tricks (`peftbench.stages.tricks`).
        steps_key: the key that sets the length of its last training.
        modules: what it imports sooner or later, besides the module of `run`; or a function of the config that says it,
            or where that is, like `run`.
    """

    run: Callable[[Context, Predictor | None], Predictor] | str
    options: type | None = None
    section: str = ""
    uses: tuple[str, ...] = ()
    results_version: int = 1
    settle: Callable[[Any], None] | None = None
    check: Callable[[Context], None] | str | None = None
    fits: Callable[[RunConfig], None] | None = None
    contents: Callable[[RunConfig, Path | None], dict[str, str]] | str | None = None
    several_processes: bool = True
    trains: bool = True
    one_training: bool = False
    of_tasks: bool = False
    sequential: bool = False
    calibrates: bool = False
    takes_tricks: bool = False
    steps_key: str = "trainer.steps"
    modules: tuple[str, ...] | Callable[[RunConfig], Sequence[str]] | str = ()

    def __call__(self, context: Context, incoming: Predictor | None) -> Predictor:
        """Do the stage."""
        run: Callable[[Context, Predictor | None], Predictor] = imported(self.run)
        return run(context, incoming)

    def check_run(self, context: Context) -> None:
        """Ask whether it can do its part; see `check`."""
        if self.check is not None:
            imported(self.check)(context)

    def contents_of(self, cfg: RunConfig, data_dir: Path | None) -> dict[str, str]:
        """What it reads besides; see `contents`."""
        found: dict[str, str] = imported(self.contents)(cfg, data_dir) if self.contents is not None else {}
        return found

    def needed_modules(self, cfg: RunConfig) -> list[str]:
        """What it imports sooner or later."""
        more = self.modules if isinstance(self.modules, tuple) else imported(self.modules)(cfg)
        return [*more, *([self.run.partition(":")[0]] if isinstance(self.run, str) else [])]


class Predictor(ABC):
    """Something that answers rows: a trained learner, or a classical model."""

    @abstractmethod
    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """One prediction a row, in order, on every process."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Parameters: `module`, `head` and `total`."""

    def remarks(self) -> list[str]:
        """What a reader of the result must know."""
        return []

    def tokenisation(self) -> dict[str, Any]:
        """What became of the texts, for the diagnosis: `max_length`, `cut` and `emptied` (split -> rows with a
        text cut, or cut to nothing; rows in all) and `label_tokens`; empty without a tokenizer."""
        return {}

    def costs(self) -> Mapping[str, float]:
        """What its answers cost besides time, for the record's `compute`."""
        return {}

    def answer_facts(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Numbers about its answers to the labelled test `rows` besides scores, for the record's `compute`."""
        return {}

    def in_every_way(self, rows: Sequence[Row], known: Sequence[Prediction]) -> Sequence[Asked]:
        """The answers to rows in each of several wordings; empty where there is one way to ask. Those in the first,
        which `predict` has given, are `known`."""
        return ()

    def prompts(self) -> Mapping[str, str]:
        """Row id -> the prompt that it was answered from, where prompts are to be kept."""
        return {}

    def finish(self, record: Record) -> None:  # noqa: B027 - most know nothing more
        """Add to the record what this predictor alone knows, once test is scored."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained."""

    def manifest(self, record: Record) -> dict[str, Any] | None:
        """What it takes beside the files of `save` to answer new rows (`records.manifest`); None if nothing can."""
        return None


@dataclass
class Context:
    """What stages share in one run.

    Attributes:
        new_learner: a fresh learner on the run's device, for a context, of its config or of a variation of it (another
            pattern, formulation or seed); the same config gives the same initial values. None for methods without a
            backbone.
        dist: the processes of this run; None for methods without a backbone.
        folder: the run's own folder; only the main process writes to it.
        log: called with `step` and values, for curves while training.
        reports: one entry a stage that ran.
        attempt: this attempt at the run; told to stop, it ends at the next step.
        model_info: facts about the backbone, for the record.
        stage: the present stage's folder below `folder`, "1-supervised"; `last_stage` if none follows.
        earlier: of a task of a sequence, the train rows of the tasks before it, by task in their order.
        finish_if_stopped: writes what the last stage has trained; see `peftbench.stages.ledger`.
    """

    cfg: RunConfig
    data: TaskData
    draw: Draw
    clock: PhaseClock
    meter: MemoryMeter
    folder: Path
    new_learner: Callable[[Context, RunConfig | None], Learner] | None = None
    dist: Dist | None = None
    precision: str = "fp32"
    log: Callable[[dict[str, float]], None] | None = None
    reports: list[StageReport] = field(default_factory=list)
    attempt: Attempt = field(default_factory=Attempt)
    model_info: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    last_stage: bool = True
    earlier: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    finish_if_stopped: Callable[[], None] | None = None

    @contextmanager
    def in_stage(self, number: int, name: str) -> Iterator[None]:
        """The stage of that 0-based number is at work in the block. What it costs is booked under its name, and its
        report, the one that it appends to `reports`, says so. A stage that does not end has one all the same."""
        self.stage, self.last_stage = f"{number + 1}-{name}", number + 1 == len(self.cfg.method.stages)
        self.attempt.progress.show("train", stage=name, step=0)
        earlier = len(self.reports)
        try:
            with self._section(self.stage):
                yield
        except BaseException:
            self.reports[earlier:] = [StageReport(name, status="unfinished", section=self.stage)]
            raise
        if len(self.reports) != earlier + 1:
            raise RuntimeError(f"stage `{name}` left {len(self.reports) - earlier} reports; it must append one")
        self.reports[-1].section = self.stage

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the present stage is at work in the block: from building its learner to what it leaves. Its costs
        are booked under `name`, which its report in the stage's `parts` has too."""
        with self._section(f"{self.stage}/{name}"):
            yield

    @contextmanager
    def _section(self, name: str) -> Iterator[None]:
        before = self.clock.enter(name)
        self.meter.enter(name)
        try:
            yield
        finally:
            self.clock.enter(before)
            self.meter.enter(before)

    def stage_folder(self, part: str | None = None) -> Path:
        """Where the present stage, or a part of it, may keep what a later attempt at the run goes on from."""
        return self.folder / "stages" / self.stage / (part or "")

    def has_pairs(self) -> bool:
        """Whether the task's rows have two texts."""
        return any(row.pair is not None for row in (*self.draw.train, *self.draw.test))

    def processes(self) -> Dist:
        """The processes of a run that has a backbone."""
        assert self.dist is not None, "a method without a backbone has no processes to speak of"
        return self.dist

    def dev_score(self, predictor: Predictor) -> float:
        """Main metric on dev, in percent, its time booked as evaluation."""
        from peftbench.tasks.metrics import score

        with self.clock("eval"), self.meter.phase("eval"):
            predictions = predictor.predict(self.draw.dev)
            return score(self.data, self.draw.dev, [p.label for p in predictions])[self.data.main_metric]
