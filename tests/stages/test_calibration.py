"""The calibration stage: the prior is that of the untouched model, costs are in the record, a killed run goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_configs import compose
from tiers import rest_slow

from peftbench.build import build_learner
from peftbench.errors import Interrupted, UsageError
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.inputs import InputCache
from peftbench.measure.clock import PhaseClock
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.base import Context, Predictor
from peftbench.stages.calibration import prior as calibration
from peftbench.stages.learning import LearnerPredictor
from peftbench.stages.supervised import training as supervised
from peftbench.training import checkpoint

FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2", "method=kpt"]
FAST += ["trainer.device=cpu", "method/tuner=lora", "method.lr.default=1e-2", "method.formulation.drop_unlikely=0.2"]
FAST += ["method.formulation.template='{text} Topic: {mask}.'", "trainer.max_length=64", "trainer.save=all"]
FAST += ["trainer.precision=fp32"]


def finish(folder: Path, *more: str) -> Any:
    record, _ = run(compose([*FAST, f"out_dir={folder}", *more]))
    assert record is not None
    assert record.status == "done", record.reason
    return record


def left_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Context, LearnerPredictor]]:
    """What each calibration stage from now on leaves behind."""
    seen = []
    real = calibration.calibration

    def spy(context: Context, incoming: Predictor | None) -> Predictor:
        predictor = real(context, incoming)
        assert isinstance(predictor, LearnerPredictor)
        seen.append((context, predictor))
        return predictor

    monkeypatch.setattr(calibration, "calibration", spy)
    return seen


def test_the_prior_is_the_mean_over_unlabelled_texts_before_training(tmp_path, monkeypatch):
    seen = left_by(monkeypatch)
    cfg = [*FAST, f"out_dir={tmp_path}", "method.formulation.prior_rows=null"]
    record, _ = run(compose(cfg))
    assert record is not None
    assert record.status == "done", record.reason
    ((_, predictor),) = seen
    inputs = InputCache().load(compose(cfg))
    fresh, _ = build_learner(compose(cfg), inputs.data, PhaseClock(), inputs.draw.train)
    formulation = fresh.eval().formulation
    assert isinstance(formulation, ClozeFormulation)
    rows = [*inputs.draw.train, *inputs.draw.unlabeled]
    rows += [row for row in inputs.draw.dev if row.id.startswith("train:")]
    with torch.no_grad():
        one_by_one = [formulation.word_scores(fresh.model, fresh.collate([item])) for item in fresh.encode(rows)]
    mean = torch.cat(one_by_one).double().mean(0).float()
    formulation.calibrate(fresh.model, mean[None])
    trained = predictor.learner.formulation.kept_state()
    for name, tensor in formulation.kept_state().items():
        torch.testing.assert_close(tensor, trained[name], rtol=1e-4, atol=1e-4)
    first = record.stages[0]
    assert (first["name"], first["unlabeled_passes"], first["steps"]) == ("calibration", len(rows), 0)
    assert any(f"calibration by {len(rows)} texts of the train split" in note for note in record.notes)


def test_prior_rows_limits_the_texts_and_labels_are_never_seen(tmp_path, monkeypatch):
    asked = []
    real = calibration.measure
    monkeypatch.setattr(calibration, "measure", lambda c, p, rows: (asked.append(rows), real(c, p, rows))[1])
    finish(tmp_path, "method.formulation.prior_rows=5")
    finish(tmp_path, "method.formulation.prior_rows=5", "seed=2")
    assert [len(rows) for rows in asked] == [5, 5]
    assert [row.id for row in asked[0]] == [row.id for row in asked[1]], "the texts do not depend on the training seed"
    assert all(row.target is None and row.id.startswith("train:") for rows in asked for row in rows)


def test_contextual_calibration_uses_inputs_without_content(tmp_path, monkeypatch):
    seen = left_by(monkeypatch)
    record = finish(tmp_path, "method.formulation.calibration=contextual", "method.formulation.drop_unlikely=0")
    assert record.stages[0]["unlabeled_passes"] == 3
    ((_, predictor),) = seen
    cfg = predictor.context.cfg
    fresh, _ = build_learner(cfg, predictor.context.data, PhaseClock())
    formulation = fresh.eval().formulation
    assert isinstance(formulation, ClozeFormulation)
    like = predictor.context.draw.train[0]
    rows = [calibration.without_content(like, text, n) for n, text in enumerate(("N/A", "", "[MASK]"))]
    with torch.no_grad():
        scores = formulation.word_scores(fresh.model, fresh.collate(fresh.encode(rows)))
    flat = formulation.verbalizer.words(scores)
    p = flat.masked_fill(~formulation.verbalizer.words.mask, -torch.inf).flatten(1).softmax(-1).mean(0)
    prior = predictor.learner.formulation.kept_state()["verbalizer.prior"].flatten()
    torch.testing.assert_close(prior.exp(), p, rtol=1e-4, atol=1e-6)


def test_without_training_the_calibrated_model_answers(tmp_path):
    record = finish(tmp_path, "shots=0")
    assert record.score is not None
    assert record.stages[0]["name"] == "calibration"


def test_the_soft_variant_loses_unlikely_words_and_is_trained(tmp_path):
    record = finish(tmp_path, "method.formulation.verbalizer=soft", "method.formulation.learn_weights=false")
    assert record.parameters["head"] % 64 == 0
    assert record.parameters["head"] > 0


def stop(*_args: Any, **_more: Any) -> None:
    raise Interrupted(signal.SIGTERM)


def stops_after_two_steps(save: Callable[..., None]) -> Callable[..., None]:
    def stopping(folder: Path, step: int, *rest: Any) -> None:
        save(folder, step, *rest)
        if step == 2:
            stop()

    return stopping


@pytest.mark.parametrize("when", rest_slow(["between the stages", "in training"], ["in training"]))
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, monkeypatch, when):
    steps = ["trainer.steps=4", "trainer.checkpoint_every=1", "trainer.eval_every=4"]
    whole = finish(tmp_path / "whole", *steps)
    measured = []
    real = calibration.measure
    monkeypatch.setattr(calibration, "measure", lambda *args: (measured.append(1), real(*args))[1])
    cut = compose([*FAST, f"out_dir={tmp_path / 'cut'}", *steps])
    with monkeypatch.context() as patch:
        if when == "in training":
            patch.setattr(checkpoint, "save", stops_after_two_steps(checkpoint.save))
        else:
            patch.setattr(supervised, "fit", stop)
        with pytest.raises(Interrupted):
            run(cut)
    again = finish(tmp_path / "cut", *steps)
    assert measured == [1], "the prior of the first attempt is taken"
    assert again.run_id == whole.run_id
    assert again.score == whole.score
    assert again.curves["loss"] == whole.curves["loss"]
    assert again.stages[0]["unlabeled_passes"] == whole.stages[0]["unlabeled_passes"]
    first, second = (
        (Store(tmp_path / name).folder(whole.run_id) / "adapter" / "head.safetensors").read_bytes()
        for name in ("whole", "cut")
    )
    assert first == second
    json.dumps(again.stages)  # plain data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method.stages=[supervised]"], "no stage measures the prior"),
        (["method.formulation.calibration=none", "method.formulation.drop_unlikely=0"], "has nothing to calibrate"),
    ],
)
def test_stage_and_formulation_have_to_agree(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        run(compose([*FAST, f"out_dir={tmp_path}", *changes]))


def test_a_head_has_nothing_to_calibrate(tmp_path):
    with pytest.raises(UsageError, match="has nothing to calibrate"):
        run(compose(["model=tiny-bert", "task=demo_news", "trainer=debug", "shots=2", "method=lora",
                     "method.stages=[calibration,supervised]", f"out_dir={tmp_path}"]))  # fmt: skip


def test_each_set_of_demonstrations_is_a_pass(tmp_path, monkeypatch):
    seen = left_by(monkeypatch)
    options = ["method.formulation.demonstrations=2", "method.formulation.prior_rows=4", "trainer.max_length=384"]
    record = finish(tmp_path, *options)
    assert record.stages[0]["unlabeled_passes"] == 8
    ((context, predictor),) = seen
    one = calibration.mean_scores(context, predictor.learner, predictor.encode(context.draw.dev[:1]))
    every = calibration.all_scores(context, predictor.learner, predictor.encode(context.draw.dev[:1]))
    assert (one[1], every[1]) == (2, 2)
    torch.testing.assert_close(one[0][0], every[0].mean(0))
