"""Masked-LM training on unlabelled texts (TAPT, PCP): what the corpus holds, what is trained, and cut-off runs."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_up_configs import compose

from peftbench import session as session_module
from peftbench.errors import UsageError
from peftbench.formulations.patterns import Pattern
from peftbench.formulations.predictions import Prediction
from peftbench.measure.clock import PhaseClock
from peftbench.measure.memory import MemoryMeter
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.base import StageReport
from peftbench.stages.continued_pretraining import training as stage
from peftbench.tasks.base import Row
from peftbench.training import loop
from peftbench.training.distributed import Dist

FAST = [
    "model=tiny-bert",
    "task=demo_news",
    "trainer=debug",
    "tracking.wandb=disabled",
    "shots=2",
    "trainer.probe=false",
]
SHORT = ["texts=40", "steps=4", "batch_size=8", "eval_every=2"]
ARGS = [
    *FAST,
    "trainer.probe=false",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.max_length=48",
    "method.lr.default=1e-3",
]
LABELS = ("health", "politics", "sports")
ROWS = [Row(f"train:{i}", f"Text number {i}\u2028with two\nlines", LABELS[i % 3]) for i in range(12)]


def finish(folder: Path, method: str, *args: str) -> Record:
    short = [f"method.continued_pretraining.{option}" for option in SHORT]
    record, _ = run(compose([*ARGS, f"method={method}", *short, f"out_dir={folder}", *args]))
    assert record is not None
    assert record.status == "done", record.reason
    return record


def corpus(folder: Path, record: Record) -> list[str]:
    text = (Store(folder).folder(record.run_id) / stage.CORPUS).read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


class Oracle:
    """Answers by the row's text alone, with a known confidence."""

    def predict(self, rows: list[Row]) -> list[Prediction]:
        answers = []
        for row in rows:
            number = int(row.text.split()[2])
            scores = dict.fromkeys(LABELS, 0.0) | {LABELS[number % 2]: float(number)}
            answers.append(Prediction(row.id, LABELS[number % 2], scores))
        return answers


def context(folder: Path, rows: list[Row] = ROWS, **options: Any) -> Any:
    """As much of a run's context as the corpus needs."""
    cfg = compose(["method=pcp", "task=demo_news"])
    cfg.method.continued_pretraining = replace(cfg.method.continued_pretraining, **options)
    return SimpleNamespace(
        cfg=cfg,
        data=SimpleNamespace(name="toy", labels=LABELS),
        draw=SimpleNamespace(unlabeled=rows[3:], train=rows[:3], data_seed=42),
        clock=PhaseClock(),
        meter=MemoryMeter(None),
        processes=lambda: Dist(torch.device("cpu")),
        stage_folder=lambda: folder,
    )


def cloze() -> Any:
    pattern = Pattern("{text} Topic: {mask}.")
    return SimpleNamespace(encoder=SimpleNamespace(pattern=pattern), first_word=lambda label: label.upper())


def lines(given: Any, oracle: Any = None) -> list[str]:
    labelled = stage.with_pseudo_labels(given, oracle or Oracle(), stage.texts(given), StageReport("test"))
    return [stage.line(row, cloze()) for row in labelled]


class TestCorpus:
    def test_one_line_a_text_with_the_word_of_its_predicted_class(self, tmp_path):
        made = lines(context(tmp_path))
        assert len(made) == len(ROWS)
        assert all("\n" not in text and len(text.splitlines()) == 1 for text in made)
        assert "Text number 4 with two lines Topic: HEALTH." in made
        words = Counter(text.rpartition("Topic: ")[2].rstrip(".") for text in made)
        assert words == {"HEALTH": 6, "POLITICS": 6}

    def test_gold_labels_are_not_read(self, tmp_path):
        shuffled = [replace(row, target=LABELS[(i * 5 + 1) % 3]) for i, row in enumerate(ROWS)]
        assert [row.target for row in shuffled] != [row.target for row in ROWS]
        assert lines(context(tmp_path / "a")) == lines(context(tmp_path / "b", shuffled))
        assert all(row.target is None for row in stage.texts(context(tmp_path)))

    def test_a_threshold_leaves_out_the_uncertain(self, tmp_path):
        report, given = StageReport("test"), context(tmp_path, threshold=0.9)
        kept = stage.with_pseudo_labels(given, Oracle(), stage.texts(given), report)
        # softmax of (n, 0, 0) reaches 0.9 from n = 3 on
        expected = [n for n in range(12) if math.exp(n) / (math.exp(n) + 2) >= 0.9]
        assert sorted(int(row.id.partition(":")[2]) for row in kept) == expected
        assert report.notes == ["3 of 12 texts are below the threshold of 0.9"]
        assert (report.unlabeled_passes, report.teachers) == (12, 1)
        with pytest.raises(UsageError, match=r"threshold=1\.0"):
            lines(context(tmp_path / "none", threshold=1.0))

    def test_random_labels_need_no_model_and_follow_from_the_seed(self, tmp_path):
        report, given = StageReport("test"), context(tmp_path / "a", pseudo_labels="random")
        rows = stage.with_pseudo_labels(given, None, stage.texts(given), report)
        assert {row.target for row in rows} <= set(LABELS)
        assert report.teachers == report.unlabeled_passes == 0
        again = context(tmp_path / "b", pseudo_labels="random")
        assert [r.target for r in stage.with_pseudo_labels(again, None, stage.texts(again), report)] == [
            r.target for r in rows
        ]

    def test_labels_are_written_down_and_not_predicted_again(self, tmp_path):
        first = lines(context(tmp_path))
        assert lines(context(tmp_path), oracle=SimpleNamespace()) == first  # nobody to ask

    def test_without_a_first_model_it_says_what_to_do(self, tmp_path):
        with pytest.raises(UsageError, match=r"templated needs a model.*supervised"):
            stage.with_pseudo_labels(context(tmp_path), None, ROWS, StageReport("test"))

    def test_texts_are_limited_and_held_out_by_the_data_seed(self, tmp_path):
        few = stage.texts(context(tmp_path, texts=5))
        assert len(few) == len({row.id for row in few}) == 5
        assert few == stage.texts(context(tmp_path, texts=5))
        train, held_out = stage.split(ROWS, 0.25, seed=42)
        assert (len(train), len(held_out)) == (9, 3)
        assert {row.id for row in (*train, *held_out)} == {row.id for row in ROWS}
        assert stage.split(ROWS, 0.0, seed=42) == (ROWS, [])


def test_pcp_files_its_corpus_and_what_it_cost(tmp_path, monkeypatch):
    starts = []
    real = stage.fit

    def look(context, learner, rows, folder, report):
        starts.append({name: p.detach().clone() for name, p in learner.model.named_parameters()})
        return real(context, learner, rows, folder, report)

    trained, lengths = stage.train, []

    def watch(learner, items, *, course, cfg, **given):
        group = course.optimizer.param_groups[0]
        assert (group["betas"], group["eps"], cfg.warmup) == ((0.9, 0.98), 1e-6, 0.06), "as released"
        lengths.append(max(item.length for item in items))
        return trained(learner, items, course=course, cfg=cfg, **given)

    monkeypatch.setattr(stage, "fit", look)
    monkeypatch.setattr(stage, "train", watch)
    record = finish(tmp_path, "pcp", "method/tuner=lora", "method.continued_pretraining.max_length=60")
    assert 48 < lengths[0] <= 60, "the corpus has a length of its own"
    assert [s["name"] for s in record.stages] == ["supervised", "continued_pretraining", "supervised"]
    pretraining = record.stages[1]
    assert (pretraining["steps"], pretraining["teachers"]) == (4, 1)
    assert pretraining["unlabeled_passes"] == 40 + round(4 * 36 / 5)  # labelled once; 4 of 5 steps a pass over 36
    written = corpus(tmp_path, record)
    assert len(written) == 40
    words = ["business", "entertainment", "health", "politics", "religion", "sports", "technology"]
    assert all(line.rpartition(" Topic: ")[2].rstrip(".") in words for line in written)
    assert all(torch.all(p == 0) for name, p in starts[0].items() if "lora_B" in name), "starts from the pre-trained LM"
    pattern = r"masked-LM loss on 4 held-out texts: [\d.]+ after 2 steps, [\d.]+ after [24] steps \(kept\)"
    assert any(re.fullmatch(pattern, note) for note in record.notes), record.notes


def test_a_corpus_longer_than_the_tuners_texts_is_refused(tmp_path):
    """DePT has an offset for each place of `trainer.max_length`."""
    with pytest.raises(UsageError, match=r"max_length=60: .*dept trains something for each of trainer\.max_length=48"):
        finish(tmp_path, "tapt", "method/tuner=dept", "method.continued_pretraining.max_length=60")


def test_tapt_differs_in_the_corpus_alone(tmp_path):
    pcp, tapt = (compose([f"method={name}"]).method for name in ("pcp", "tapt"))
    assert replace(tapt.continued_pretraining, corpus="templated") == pcp.continued_pretraining
    own = ("name", "description", "paper", "stages", "continued_pretraining")
    first, second = ({k: v for k, v in asdict(method).items() if k not in own} for method in (pcp, tapt))
    assert first == second
    record = finish(tmp_path, "tapt", "method/tuner=lora")
    written = corpus(tmp_path, record)
    assert len(written) == 40
    assert not any("Topic:" in line for line in written)
    assert [s["name"] for s in record.stages] == ["continued_pretraining", "supervised"]


def test_a_head_cannot_be_continued(tmp_path):
    with pytest.raises(UsageError, match=r"masked LM of an encoder.*formulation=cloze"):
        finish(tmp_path, "tapt", "method/tuner=lora", "method/formulation=head", "~method.formulation.prefer")


class Killed(BaseException):
    """What no handler of a run takes for a failure."""


@pytest.mark.slow
def test_a_killed_run_goes_on_in_its_corpus(tmp_path, monkeypatch):
    whole = finish(tmp_path / "whole", "pcp", "method/tuner=lora")
    args = ("method/tuner=lora", "trainer.checkpoint_every=1")
    real = loop._Engine.step

    def die(engine, step):
        if engine.cfg.batch_size == 8 and engine.steps == 4 and step == 2:
            raise Killed
        return real(engine, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Engine, "step", die)
        patch.setattr(session_module.Session, "_file_failure", lambda *_: None)
        with pytest.raises(Killed):
            finish(tmp_path / "cut", "pcp", *args)
    (labels,) = (tmp_path / "cut").rglob(stage.LABELS)
    assert len(json.loads(labels.read_text())) == 40
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_pseudo_labels", None)  # must not be asked for again
        patch.setattr(loop._Engine, "step", lambda engine, step: steps.append(step) or real(engine, step))
        cut = finish(tmp_path / "cut", "pcp", *args)
    assert steps[:2] == [2, 3]
    assert corpus(tmp_path / "cut", cut) == corpus(tmp_path / "whole", whole)
    assert (cut.scores, cut.curves, cut.dev_score) == (whole.scores, whole.curves, whole.dev_score)
    assert [s.get("unlabeled_passes") for s in cut.stages] == [s.get("unlabeled_passes") for s in whole.stages]
