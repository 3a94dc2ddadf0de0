"""Tricks in whole runs: what they leave alone, are given and cost, and that a death changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cut_off_runs
import numpy as np
import pytest
import torch
from cut_off_runs import Killed, killed_at
from made_up_configs import compose
from tiers import rest_slow

from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.records import leaderboard
from peftbench.records.naming import method_names
from peftbench.records.record import Record
from peftbench.records.seen import TEXTS, remarks
from peftbench.records.store import Store
from peftbench.stages.pseudo_labels import fitted_temperature, softmax
from peftbench.stages.tricks.self_calibrated import SelfCalibratedOptions, folds
from peftbench.stages.tricks.transductive import TransductiveOptions, pseudo

FAST = (*cut_off_runs.FAST, "method=lora")
CALIBRATED = ["+method/trick=self_calibrated", "method.trick.self_calibrated.folds=2"]
SEMI = ["+method/trick=transductive", "method.trick.transductive.threshold=0", "method.trick.transductive.pool=12"]
TWO = "'+method/trick=[self_calibrated,adversarial]'"


def finish(folder: Path, *overrides: str, inputs: Any = None) -> tuple[Record, dict[str, bytes]]:
    """The record of a run of LoRA, unless another method is named, and its files."""
    return cut_off_runs.finish(folder, "method=lora", *overrides, inputs=inputs)


def assert_equal(one: tuple[Record, dict[str, bytes]], other: tuple[Record, dict[str, bytes]]) -> None:
    assert one[0].curves == other[0].curves
    assert one[0].scores == other[0].scores
    for name in ("predictions.jsonl", "adapter/adapter_model.safetensors", "adapter/head.safetensors"):
        assert one[1][name] == other[1][name], name


@pytest.mark.parametrize(
    ("trick", "strength"),
    [
        ("adversarial", "alpha=0"),
        ("adversarial", "epsilon=0"),
        ("freelb", "epsilon=0"),
        ("r_drop", "alpha=0"),
        ("label_smoothing", "share=0"),
        ("ema", "decay=0"),
        ("child_tuning", "reserve=1"),
        ("self_calibrated", "lambda_max=0 lambda_min=0"),
        ("transductive", "threshold=1.01"),
        ("transductive", "weight=0"),
    ],
)
def test_a_trick_without_strength_is_the_plain_run(trick: str, strength: str) -> None:
    label = "adversarial" if trick == "freelb" else trick
    off = compose([*FAST, f"+method/trick={trick}", *(f"method.trick.{label}.{word}" for word in strength.split())])
    assert off == compose(FAST)
    assert InputCache().run_id(off) == InputCache().run_id(compose(FAST))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method/trick=ema"], r"\+method/trick=ema"),
        (["method.trick.ema.decay=0.5"], r"\+method/trick=ema"),
        (["+method/trick=ema", "method.trick.ema.deca=0.5"], r"method\.trick\.ema\.deca: no such key. Did you mean"),
        (["+method/trick=emo"], "Did you mean `ema`"),
        (["+method.trick.emo.decay=1"], "`emo` is no trick. Did you mean `ema`"),
        (["+method/trick=ema", "+method/trick=r_drop"], "given twice; several as"),
        (["+method/trick=ema", "+method.trick.mean={name: ema}"], "`ema` stands there twice"),
        (["+method/trick=ema", "method=tfidf_lr"], "belong to the stage supervised, and method=tfidf_lr has classical"),
        (["+method/trick=ema", "shots=0"], "shots=0 trains nothing"),
        (["+method/trick=r_drop"], r"nothing is dropped out \(trainer\.dropout=0\)"),
        (["+method/trick=adversarial", "model=tiny-t5"], "works on a row's class scores"),
        (["'+method/trick=[freelb,r_drop]'", "trainer.dropout=0.1"], "no clean pass"),
        (["+method/trick=adversarial", "method=recurrence"], "method=recurrence does not look its words up"),
        (["+method/trick=freelb", "method=trainable_tokens"], "method=trainable_tokens does not look its words up"),
        (["+method/trick=self_calibrated", "task=stsb"], "made for classification"),
        (["+method/trick=child_tuning", "method=child_tuning"], "is Child-Tuning itself"),
        (["+method/trick=ema", "method.trick.ema.decay=2"], "must be at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_composed(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compose([*FAST, *(word.strip("'") for word in overrides)])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*CALIBRATED, "shots=1"], "single train row"),
        ([*SEMI, "shots=full", "protocol=full"], "no unlabelled rows are left"),
    ],
)
def test_what_the_data_do_not_give_is_refused_before_anything_is_trained(
    overrides: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        finish(tmp_path, *overrides)


def test_tricks_are_at_work_in_their_order_and_cost_what_the_record_says(tmp_path: Path) -> None:
    args = ["shots=4", "trainer.probe=true", "protocol.dev=fixed", "protocol.dev_per_class=1", "protocol.noise=0.2"]
    plain, _ = finish(tmp_path, *args)
    names = "self_calibrated,adversarial,ema,label_smoothing,transductive"
    tricked, _ = finish(tmp_path, *args, f"+method/trick=[{names}]", *CALIBRATED[1:], *SEMI[1:])
    (stage,) = tricked.stages
    assert [part["name"] for part in stage["parts"]] == ["fold-1", "fold-2", "training", "transductive"]
    assert stage["teachers"] == 3
    assert stage["steps"] == 2 + 2 + 2 + 1
    assert stage["unlabeled_passes"] >= 12
    assert tricked.compute["steps"] == 7
    flops = tricked.compute["step_flops"]
    assert flops is not None
    assert plain.compute["step_flops"] is not None
    assert flops > 2 * plain.compute["step_flops"]
    notes = " ".join(tricked.notes)
    assert "labels are contradicted by held-out predictions; of the" in notes
    assert "12 unlabelled rows are learned from" in notes or "of 12 unlabelled rows are learned from" in notes
    assert tricked.run_id != plain.run_id


def test_over_all_weights_the_trick_is_the_method(tmp_path: Path) -> None:
    """`method=child_tuning`, bit for bit."""
    args = ["method.formulation.head_init_scale=1", "trainer.save=none", "method.lr.backbone=1e-3"]
    method, one = finish(tmp_path, "method=child_tuning", *args)
    trick, other = finish(
        tmp_path, "method=full", *args, "+method/trick=child_tuning", "method.trick.child_tuning.variant=D"
    )
    assert trick.curves == method.curves
    assert one["predictions.jsonl"] == other["predictions.jsonl"]
    assert any(note.startswith("child network") for note in trick.notes)


def test_no_model_judges_a_row_that_it_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    judged: list[set[str]] = []
    train, scores = folds.train_on, folds.class_scores

    def note_train(context: Any, learner: Any, items: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append({item.id for item in items})
        return train(context, learner, items, *args, **kwargs)

    def note_scores(context: Any, predictor: Any, rows: Any) -> Any:
        judged.append({row.id for row in rows})
        return scores(context, predictor, rows)

    monkeypatch.setattr(folds, "train_on", note_train)
    monkeypatch.setattr(folds, "class_scores", note_scores)
    record, _ = finish(tmp_path, *CALIBRATED)
    everything = set.union(*judged)
    assert len(judged) == 2
    assert not judged[0] & judged[1]
    assert len(everything) == record.draw["rows"]["train"]
    assert [own | other for own, other in zip(seen, judged, strict=True)] == [everything] * 2
    assert not any(own & other for own, other in zip(seen, judged, strict=True))


def test_shares_folds_and_temperature() -> None:
    options = SelfCalibratedOptions(name="", folds=2, lambda_max=0.7, lambda_min=0.1, threshold=0.9, temperature=None)
    q = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.85, 0.15]])
    shares = folds.shares(q, torch.tensor([0, 1, 1]), options)
    assert shares.tolist() == pytest.approx([0.1, 0.7, 0.1])
    assert float(0.3 * 1 + 0.7 * q[1, 1]) < 0.5, "of a wrong label that is contradicted less than half is believed"
    labels = ["a"] * 7 + ["b"] * 3
    dealt = folds.stratified(labels, 5, 1)
    assert sorted(np.bincount(dealt)) == [2] * 5
    for label, most in (("a", 2), ("b", 1)):
        assert max(np.bincount([f for f, own in zip(dealt, labels, strict=True) if own == label])) <= most
    assert dealt != folds.stratified(labels, 5, 2)
    # half of the answers are right, so both classes deserve 1/2 wherever the logits say 0.99
    sure = np.array([[4.6, 0.0]] * 10, np.float32)
    assert fitted_temperature(sure, [0, 1] * 5) == pytest.approx(20, rel=0.01)
    three = np.array([[2.0, 0.0]] * 4, np.float32)
    at = fitted_temperature(three, [0, 0, 0, 1])
    assert softmax(three, at)[0, 0] == pytest.approx(0.75, abs=1e-3)


def test_confident_rows_and_their_balance() -> None:
    p = np.array([[0.99, 0.01], [0.95, 0.05], [0.97, 0.03], [0.5, 0.5], [0.08, 0.92]], np.float32)
    given = {"mode": "semi", "weight": 0.5, "pool": None, "temperature": 1.0, "length": 0.3, "lr": 0.5}
    every = TransductiveOptions(name="", threshold=0.9, balanced=False, **given)
    assert pseudo.confident(p, every) == ([0, 1, 2, 4], [0, 0, 0, 1])
    even = TransductiveOptions(name="", threshold=0.9, balanced=True, **given)
    assert pseudo.confident(p, even) == ([0, 2, 4], [0, 0, 1])
    assert pseudo.confident(p, TransductiveOptions(name="", threshold=1.0, balanced=True, **given)) == ([], [])


def test_no_label_of_test_is_read_and_every_table_says_what_was(tmp_path: Path) -> None:
    class Relabelled(InputCache):
        """Test rows with other labels."""

        def load(self, cfg: Any) -> Any:
            from dataclasses import replace

            data, drawn, run_id = super().load(cfg)
            test = tuple(replace(row, target=data.labels[0]) for row in drawn.test)
            return data, replace(drawn, test=test), run_id

    args = [*SEMI, "method.trick.transductive.mode=transductive", "trainer.save=none"]
    record, _ = finish(tmp_path / "real", *args)
    other, _ = finish(tmp_path / "other", *args, inputs=Relabelled())
    assert other.curves == record.curves
    assert other.stages[0]["parts"][1]["unlabeled_passes"] == record.stages[0]["parts"][1]["unlabeled_passes"]
    assert record.data["test_texts"] == ["transductive"]
    assert any("texts of test" in note for note in record.notes)
    (row,) = leaderboard.current_rows(Store(tmp_path / "real"))
    assert (row["test_texts"], row["tricks"], row["noise"]) == ("transductive", "transductive", 0)
    (remark,) = remarks([row])
    assert remark.startswith(f"{TEXTS} method=lora was trained with the texts")
    semi, _ = finish(tmp_path / "real", "+method/trick=[ema,transductive]", *SEMI[1:], "trainer.save=none")
    assert "test_texts" not in semi.data
    store = Store(tmp_path / "real")
    names = method_names(store, leaderboard.current_rows(store)).values()
    assert sorted(names) == ["lora tricks=ema+transductive", "lora tricks=transductive"]


EVERYTHING = "+method/trick=[self_calibrated,adversarial,ema,child_tuning,transductive]"


@pytest.mark.parametrize(
    ("part", "step"), rest_slow([("fold-2", 1), ("training", 1), ("transductive", 1)], [("training", 1)])
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    part: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [EVERYTHING, *CALIBRATED[1:], *SEMI[1:], "method.trick.transductive.length=1", "trainer.dropout=0.1"]
    args += ["trainer.checkpoint_every=1", "protocol.dev=fixed", "protocol.dev_per_class=1"]
    whole = finish(tmp_path / "whole", *args)
    with killed_at(monkeypatch, part, step), pytest.raises(Killed):
        finish(tmp_path / "cut", *args)
    assert_equal(finish(tmp_path / "cut", *args), whole)


@pytest.mark.slow
@pytest.mark.parametrize("trick", ["adversarial", "freelb", "r_drop", "label_smoothing", "ema"])
@pytest.mark.parametrize(
    "posed",
    [
        ["model=tiny-roberta", "method/formulation=cloze"],
        ["model=tiny-t5", "method/formulation=head"],
        ["model=tiny-gpt2", "method/formulation=head"],
        ["method=dept"],
    ],
    ids=" ".join,
)
def test_every_family_has_word_embeddings_that_can_be_changed(trick: str, posed: list[str], tmp_path: Path) -> None:
    record, _ = finish(tmp_path, f"+method/trick={trick}", "trainer.dropout=0.1", *posed)
    assert record.status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-t5", "tiny-gpt2"])
def test_answers_in_words_take_freelb(model: str, tmp_path: Path) -> None:
    record, _ = finish(tmp_path, f"model={model}", "+method/trick=freelb")
    assert (record.status, record.model_info["formulation"] == "head") == ("done", False)


@pytest.mark.slow
@pytest.mark.parametrize("trick", ["adversarial", "r_drop"])
def test_a_regression_takes_those_that_compare_answers(trick: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = "".join(f"{split} word {i % 7} {i},{i % 5}\n" for i in range(60))
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows)
    args = ["task=file", f"task.path={tmp_path}", "task.problem=regression", "trainer.dropout=0.1"]
    record, _ = finish(tmp_path / "out", *args, f"+method/trick={trick}")
    assert record.status == "done"
