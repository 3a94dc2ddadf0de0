"""The story of one run, from a checked config to one record."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.config.components import RECIPE, stage_of_tasks
from peftbench.config.registry import title
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.files import persist
from peftbench.inputs import InputCache, without_test_labels
from peftbench.measure.clock import PhaseClock
from peftbench.migration import migrate_if_safe
from peftbench.records.fill import base_record, fill_measures
from peftbench.records.leaderboard import catch_up
from peftbench.records.store import Store
from peftbench.run_devices import run_on_devices
from peftbench.session import Session
from peftbench.stages import check_stages, get_stage
from peftbench.training.launch import check_place, find_place

if TYPE_CHECKING:
    from peftbench.formulations.predictions import Prediction
    from peftbench.formulations.robustness import Asked
    from peftbench.records.record import Record
    from peftbench.stages.base import Context, Predictor
    from peftbench.tasks.base import Row
    from peftbench.tasks.protocols import Draw

TRIALS = "trials"
"""Folder under `out_dir` with the runs of searches, which end with a dev score. No view of the results looks there."""


def run(
    cfg: RunConfig, inputs: InputCache | None = None, parent: Callable[[Context, Record], Predictor] | None = None
) -> tuple[Record | None, bool]:
    """Run, or find the finished record of, one config.

    Args:
        inputs: data sets and draws that earlier runs of this process left; None loads them.
        parent: gives what another run has trained (`peftbench.saved.parent`), in the place of a training.

    Returns:
        The record (None on every process but the main one) and whether it is new.

    Raises:
        UsageError: the config, the data or the draw is wrong. Nothing has been written then.
    """
    clock, inputs = PhaseClock(), inputs or InputCache()
    with clock("data"):
        data, drawn, run_id = inputs.load(cfg)

    store, place = store_of(cfg), find_place(os.environ)
    if place is None:
        migrate_if_safe(store)
    known = store.load(run_id)
    if known is not None and known.status == "done" and not cfg.rerun:
        if place is not None and place.rank != 0:
            return None, False
        if cfg.evaluate == "test":
            catch_up(store, known.run_id)
        return known, False
    if place is not None and cfg.method.needs_model:
        check_place(place)
    record = base_record(cfg, data, drawn, run_id, inputs.basis(cfg))
    if cfg.trainer.devices > 1 and place is None and parent is None:
        return run_on_devices(cfg, store, record), True
    if cfg.evaluate == "dev":
        data, drawn = without_test_labels(data, drawn)

    with Session(cfg, data, drawn, record, store, clock) as session:
        if session.is_known:
            return session.known, False
        if parent is None:
            check(session.context, record)
            trained = train(session.context)
        else:
            trained = parent(session.context, record)
        predictor = drawn_by(session.context, trained)
        answers = evaluate(session.context, predictor, record)
        reworded = ask_in_every_way(session.context, predictor, record, answers) if answers else ()
        keep(session, predictor, answers, reworded)
    return (record if session.main else None), True


def store_of(cfg: RunConfig) -> Store:
    """Where the run is filed: `out_dir`, or a folder of its own in it for the trials of searches."""
    return Store(Path(cfg.out_dir, TRIALS) if cfg.evaluate == "dev" else cfg.out_dir)


def check(context: Context, record: Record) -> None:
    """Ask every stage whether it can do its part, and the runs that this one starts from whether they saw test.

    Raises:
        UsageError: a stage cannot, or a row of test was trained on.
    """
    check_stages(context.cfg.method.stages, context)
    if context.cfg.method.init_from is not None:
        from peftbench.init_from import check_sources

        tests = [row for rows in tests_of(context.draw).values() for row in rows]
        with context.clock("data"):
            record.notes += check_sources(context.cfg, tests)


def train(context: Context) -> Predictor:
    """A recipe's stage, then the method's, in order, as far as none diverges. Those that train build their learners
    themselves (`Context.new_learner`). On a sequence of tasks one stage has them done for each."""
    predictor: Predictor | None = None
    if context.cfg.recipe is not None:
        with context.in_stage(-1, RECIPE):
            predictor = get_stage(RECIPE)(context, None)
    for number, name in enumerate([stage_of_tasks()] if context.data.tasks else context.cfg.method.stages):
        with context.in_stage(number, title(name)):
            predictor = get_stage(name)(context, predictor)
        if context.reports[-1].status == "diverged":
            break
    if predictor is None:
        raise UsageError("method.stages: empty; a method needs at least one stage (`none` trains nothing).")
    return predictor


def drawn_by(context: Context, predictor: Predictor) -> Predictor:
    """The predictor, drawing its answers as the method says."""
    if context.cfg.method.inference is None:
        return predictor
    from peftbench.inference.predictor import InferencePredictor

    return InferencePredictor.of(context, predictor)


def evaluate(context: Context, predictor: Predictor, record: Record) -> list[Prediction]:
    """Predict test and, after that, look at its labels, once. Not for a diverged model; a trial has a dev score."""
    from peftbench.tasks.metrics import score

    context.attempt.check()
    context.attempt.progress.show("eval")
    last = context.reports[-1]
    if context.cfg.evaluate == "dev":
        unknown = last.dev_score is None or context.cfg.method.inference is not None
        if (
            unknown and last.status == "done"
        ):  # not chosen by dev (`protocol.select=last`, `shots=0`), or by plain answers
            last.dev_score = context.dev_score(predictor)
        return []
    if any(report.status == "diverged" for report in context.reports):
        return []
    answered: list[Prediction] = []
    for name, rows in tests_of(context.draw).items():
        with context.clock("eval"), context.meter.phase("eval"):
            predictions = predictor.predict(rows)
        own = context.data.extra_metrics.get(name.removeprefix("_"))
        scores = score(context.data, rows, [p.label for p in predictions], own)
        record.scores.update({f"{metric}{name}": value for metric, value in scores.items()})
        answered += predictions
    record.score = record.scores[context.data.main_metric]
    predictor.finish(record)
    return answered


def ask_in_every_way(
    context: Context, predictor: Predictor, record: Record, answers: Sequence[Prediction]
) -> Sequence[Asked]:
    """The test set in each wording, where the formulation has several; what came of it goes into the record."""
    from peftbench.formulations.robustness import summary, wording_facts

    with context.clock("eval"), context.meter.phase("eval"):
        found = predictor.in_every_way(context.draw.test, answers[: len(context.draw.test)])
    record.wordings = wording_facts(context.data, context.draw.test, found)
    record.scores.update(summary(record.wordings))
    return found


def tests_of(drawn: Draw) -> dict[str, Sequence[Row]]:
    """The test set under "", further ones under "_<name>"."""
    return {"": drawn.test, **{f"_{name}": rows for name, rows in drawn.extra_tests.items()}}


def keep(session: Session, predictor: Predictor, answers: Sequence[Prediction], reworded: Sequence[Asked] = ()) -> None:
    """Files first, the record last: once it is there, the run is done and all of it is on disk."""
    from peftbench.records.diagnosis import diagnose
    from peftbench.records.predictions import write_predictions, write_prompts

    record, context = session.record, session.context
    context.attempt.check()
    context.attempt.progress.show("save")
    fill_measures(record, context.reports, context.clock, *session.peaks())
    tested = answers[: len(context.draw.test)]
    record.compute |= {**predictor.costs(), **predictor.answer_facts(context.draw.test[: len(tested)], tested)}
    record.parameters = predictor.counts()
    record.notes += predictor.remarks()
    if not session.main:
        return
    with context.clock("save"), session.results() as folder:
        rows = {row.id: row for tests in tests_of(context.draw).values() for row in tests}
        asked_of, sourced = [rows[p.id] for p in answers], context.data.kind.sourced
        record.predictions = write_predictions(folder, asked_of, answers, sourced=sourced)
        for number, (facts, asked_so) in enumerate(zip(record.wordings, reworded, strict=True)):
            facts["predictions"] = write_predictions(
                folder, context.draw.test, asked_so.predictions, f"wording-{number}.jsonl"
            )
        asked = predictor.prompts()
        if kept := write_prompts(folder, {p.id: asked[p.id] for p in answers if p.id in asked}):
            record.predictions["prompts"] = kept
        record.diagnosis = diagnose(record, [(rows[p.id].target, p.label) for p in answers], predictor.tokenisation())
        record.parameters["adapter_bytes"] = save_adapter(context, predictor, record, folder)
    session.file()


def save_adapter(context: Context, predictor: Predictor, record: Record, folder: Path) -> int:
    """Write what was trained below `folder`, unless that is the whole backbone (`trainer.save=all` keeps that too); its
    bytes."""
    counts, choice = record.parameters, context.cfg.trainer.save
    if choice == "none" or (choice == "auto" and counts["module"] > counts["total"] // 2):
        record.notes.append(f"what was trained was not saved (trainer.save={choice})")
        return 4 * (counts["module"] + counts["head"])
    from peftbench.records import manifest
    from peftbench.saved import card

    home = folder / "adapter"
    persist(partial(predictor.save, home))
    size = sum(f.stat().st_size for f in home.rglob("*") if f.is_file())
    if facts := predictor.manifest(record):
        manifest.write(home, facts)
        card.write(home, record, facts)
    return size
