"""A search: try settings on dev, take the best, and say what it cost.

A trial is a run like any other, but for one thing: it ends with its dev score. It is given no test label, and its
record lies in `out_dir/trials`, apart from the results. Trials are named by their content, so a search that is started
again finds those that are done and goes on from there, whatever ended it; searches that try the same settings share
them.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from peftbench.config.schema import RunConfig, TrackingConfig
from peftbench.config.space import Dimension, declared, read_space, value_at, with_values
from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.inputs import InputCache
from peftbench.records.leases import LeaseHeld
from peftbench.records.record import Record
from peftbench.runner import run, store_of
from peftbench.search.experiment import command, name_of, write_experiment
from peftbench.search.study import Study
from peftbench.training.launch import find_place

REPEATS = 50
"""So many proposals of settings already tried, one after the other, end a search: a space of choices is used up."""


@dataclass
class Trial:
    """Settings that were tried.

    Attributes:
        values: whole key -> value.
        runs: run ids under `out_dir/trials`, one a seed.
        scores: dev score in percent of each run.
        reason: why there is no score, if there is none.
    """

    number: int
    values: dict[str, Any]
    runs: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    reason: str = ""

    @property
    def score(self) -> float | None:
        """Mean dev score over the seeds."""
        return statistics.fmean(self.scores) if self.scores and not self.reason else None


def run_searched(cfg: RunConfig, inputs: InputCache | None = None) -> tuple[Record | None, bool]:
    """`runner.run`, after a search where the config asks for one and it has not been made yet; the backbone is loaded
    once for all trials. Returns and raises as `run`."""
    if cfg.search.name == "none":
        return run(cfg, inputs)
    inputs = inputs or InputCache()
    identity = inputs.run_id(cfg)
    known = store_of(cfg).load(identity)
    is_done = known is not None and known.status == "done" and not cfg.rerun
    if is_done or cfg.tuning.get("study") == identity:
        return run(cfg, inputs)
    from peftbench.models.backbone_cache import keep_loaded

    with keep_loaded():
        return run(tune(cfg, inputs), inputs)


def tune(cfg: RunConfig, inputs: InputCache) -> RunConfig:
    """`cfg` with the values that did best on dev, and what it took to find them in `tuning`.

    Args:
        cfg: a config with a search.
        inputs: data sets and draws that are loaded.

    Raises:
        UsageError: optuna is missing, the draw has no dev rows, or no trial has a score. Trials that are done are kept.
        KeyboardInterrupt: a trial was interrupted.
    """
    if find_place(os.environ) is not None:
        raise UsageError(
            f"search={cfg.search.name} is not for processes that were started together (torchrun, srun): start one "
            "process, and give trainer.devices=N."
        )
    search, store, identity = Search(cfg, inputs), store_of(cfg), inputs.run_id(cfg)
    with store.claim(identity) as folder:
        if cfg.rerun:
            store.supersede(identity)
        search.go(folder / "search.json")
    best = search.best()
    search.print_end(best)
    chosen = replace(with_values(cfg, best.values), search=cfg.search, tuning=search.cost(best), rerun=False)
    chosen.tuning["experiment"] = name_of(chosen)
    print(f"kept as {write_experiment(chosen)}; with another seed: {command(chosen)}", flush=True)
    return chosen


class Search:
    """The trials of one search, one after the other."""

    def __init__(self, cfg: RunConfig, inputs: InputCache) -> None:
        self.cfg, self.inputs = cfg, inputs
        self.space: list[Dimension] = read_space(cfg)
        self.start = {d.key: value_at(cfg, d.key) for d in self.space}
        self.draw = inputs.load(cfg).draw
        self.trials: list[Trial] = []
        if not self.draw.dev:
            raise UsageError(
                f"search={cfg.search.name}: protocol={cfg.protocol.name} with shots={cfg.shots} has no dev rows, and "
                "test is not for choosing. Use protocol.dev=fixed, a protocol with dev rows (default, dept_total, "
                "lm_bff, masakhanews, sciprompt; full with shots=full), or search=none."
            )
        wanted = cfg.search
        self.study = Study(wanted.name, self.space, cfg.seed, wanted.trials, self.start)

    def go(self, report: Path) -> None:
        """Try settings until the budget is used up; `report` always holds the trials so far."""
        repeats = 0
        while self.budget_left() and repeats < REPEATS:
            asked, values = self.study.ask()
            known = next((t for t in self.trials if t.values == values), None)
            repeats = repeats + 1 if known else 0
            trial = known or self.attempt(values)
            self.study.tell(asked, trial.score)
            if not known:
                self.trials.append(trial)
                self.print_trial(trial)
                write_atomic(report, self.to_json().encode(), durable=False)

    def budget_left(self) -> bool:
        """Whether another trial may begin."""
        budget, spent = self.cfg.search, sum(t.seconds for t in self.trials)
        return (budget.trials is None or len(self.trials) < budget.trials) and (
            budget.seconds is None or spent < budget.seconds
        )

    def attempt(self, values: Mapping[str, Any]) -> Trial:
        """One trial: a run for each seed, those that are done taken from their records."""
        trial = Trial(len(self.trials), dict(values))
        for seed in range(self.cfg.seed, self.cfg.seed + self.cfg.search.seeds):
            try:
                record = self.record(trial_config(self.cfg, values, seed, self.draw.data_seed))
            except UsageError as error:  # these settings cannot be: a rank that does not fit the backbone, say
                known_to_work = any(t.score is not None for t in self.trials)
                if not known_to_work or isinstance(error, LeaseHeld) or isinstance(error.__cause__, OSError):
                    raise
                trial.reason = str(error)
                break
            trial.runs.append(record.run_id)
            trial.seconds += record.seconds.get("total", 0.0)
            # imports are made once a process, by whichever trial comes first
            trial.cpu_seconds += sum(s for phase, s in record.cpu_seconds.items() if phase != "import")
            if record.status != "done" or record.dev_score is None:
                trial.reason = f"{record.status}: {record.reason}"
                break
            trial.scores.append(record.dev_score)
        return trial

    def record(self, cfg: RunConfig) -> Record:
        """The record of a trial's run, found or made. A crash or a divergence stands; an interrupted run goes on."""
        record = store_of(cfg).load(self.inputs.run_id(cfg))
        if record is None or record.status == "interrupted":
            record, _ = run(cfg, self.inputs)
        assert record is not None, "a process that stands alone files the record"
        if record.status == "interrupted":
            raise KeyboardInterrupt
        return record

    def best(self) -> Trial:
        """The trial with the highest score; of equal ones the first, which is nearest to the settings as given."""
        scored = [t for t in self.trials if t.score is not None]
        if not scored:
            reason = self.trials[0].reason if self.trials else "no trial was made"
            raise UsageError(f"search={self.cfg.search.name}: no trial has a dev score; the first: {reason}")
        return max(scored, key=lambda t: (t.score, -t.number))

    def cost(self, best: Trial) -> dict[str, Any]:
        """What the record says of the search, see docs/records.md."""
        first = self.trials[0]
        return {
            "sampler": self.cfg.search.name,
            "trials": len(self.trials),
            "failed": sum(t.score is None for t in self.trials),
            "seeds": self.cfg.search.seeds,
            "seconds": sum(t.seconds for t in self.trials),
            "cpu_seconds": sum(t.cpu_seconds for t in self.trials),
            "values": best.values,
            "dev_score": best.score,
            "start_dev_score": first.score if first.values == self.start else None,
            "dev_scores": [t.score for t in self.trials],
            "equal": sum(t.score == best.score for t in self.trials),
            "dev_rows": len(self.draw.dev),
            "dev_selects": self.draw.select == "best",
            "data_seed": self.draw.data_seed,
            "space": declared(asdict(self.cfg)),
            "importances": self.study.importances(),
            "study": self.inputs.run_id(self.cfg),
        }

    def to_json(self) -> str:
        """The trials so far, for people and for `status`."""
        facts = {
            "run_id": self.inputs.run_id(self.cfg),
            "search": {**asdict(self.cfg.search), "space": declared(asdict(self.cfg))},
            "trials": [{**asdict(t), "score": t.score} for t in self.trials],
        }
        return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"

    def print_trial(self, trial: Trial) -> None:
        """A line a trial: score, settings, time."""
        of = f"/{self.cfg.search.trials}" if self.cfg.search.trials else ""
        best = max((t.score for t in self.trials if t.score is not None), default=None)
        score = "no score" if trial.score is None else f"dev {trial.score:.1f} (best {best:.1f})"
        line = f"trial {trial.number + 1}{of}: {score}, {spell(trial.values)}, {trial.seconds:.1f} s"
        print(line + (f"; {trial.reason}" if trial.reason else ""), flush=True)

    def print_end(self, best: Trial) -> None:
        """What was chosen, how it stands against the settings as given, and which keys mattered."""
        cost = self.cost(best)
        rows = f"dev {best.score:.1f} on {cost['dev_rows']} rows"
        lines = [f"chosen: trial {best.number + 1} with {rows}: {spell(best.values)}"]
        if cost["start_dev_score"] is not None:
            lines.append(f"the settings as given: dev {cost['start_dev_score']:.1f}")
        if cost["equal"] > 1:
            lines.append(f"{cost['equal']} trials are equal to it on dev; the first of them was taken")
        if shares := cost["importances"]:
            mattered = ", ".join(f"{short(key)} {share:.0%}" for key, share in shares.items())
            lines.append(f"share in how the dev scores vary: {mattered}")
        print("\n".join(lines), flush=True)


def trial_config(cfg: RunConfig, values: Mapping[str, Any], seed: int, data_seed: int) -> RunConfig:
    """The run of a trial: on the rows of the run to come, without a look at test, and nothing kept but its record.

    Raises:
        UsageError: a value is not valid.
    """
    tried = with_values(cfg, values)
    return replace(
        tried,
        trainer=replace(tried.trainer, save="none", probe=False, progress=False),
        tracking=TrackingConfig(wandb="disabled"),
        seed=seed,
        data_seed=data_seed,
        rerun=False,
        evaluate="dev",
    )


def spell(values: Mapping[str, Any]) -> str:
    """Settings in words, the group left out where it is the method."""
    return ", ".join(f"{short(key)}={value}" for key, value in values.items())


def short(key: str) -> str:
    """`method.lr.lora` as `lr.lora`."""
    return key.removeprefix("method.")
