"""Several subtasks of ABSA as one task: what a row keeps of its subtask, what test's sake leaves out, and a run."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import peftbench
from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.records.predictions import read_predictions
from peftbench.tasks import load_task
from peftbench.tasks.metrics import score
from peftbench.training.batching import plan_batches

APC = "the {} $T$ .\nfood\nPositive\nno {} $T$ here .\nwine\nNegative\n"
ASTE = "the {} food .####[([2], [1], 'POS')]\nno {} thing .####[([2], [0], 'NEG')]\n"
UABSA = "the {} food .####[([2], 'POS')]\nno {} thing .####[]\n"
SPLITS = {"train": "good fresh tasty", "dev": "warm cool", "test": "big small"}


@pytest.fixture
def reviews(tmp_path):
    """apc, aste and uabsa of rest14, whose sentences differ by an adjective; aste's train holds a sentence of uabsa's
    test, spelled otherwise, and lap14's test one of apc's train."""
    for subtask, form in (("apc", APC), ("aste", ASTE), ("uabsa", UABSA)):
        folder = tmp_path / "data" / "absa" / subtask / "rest14"
        folder.mkdir(parents=True)
        for split, words in SPLITS.items():
            name = {"apc": f"{split}.raw", "aste": f"{split}_triplets.txt", "uabsa": f"{split}.txt"}[subtask]
            (folder / name).write_text("".join(form.format(w, w) for w in words.split()), "utf-8")
    with (tmp_path / "data/absa/aste/rest14/train_triplets.txt").open("a") as file:
        file.write("The big food.####[([2], [1], 'POS')]\n")
    folder = tmp_path / "data" / "absa" / "aste" / "lap14"
    folder.mkdir(parents=True)
    (folder / "test_triplets.txt").write_text("no fresh wine here .####[]\n", "utf-8")
    return tmp_path / "data"


def task(*overrides: str):
    return compose(["task=absa_all", *overrides]).task


SUBTASKS = "task.subtask=[alsc,aste,uabsa]"


@pytest.fixture
def data(reviews):
    return load_task(task(SUBTASKS), reviews)


def test_rows_keep_what_their_subtask_asks_for(data):
    assert (data.subset, data.problem, data.domains) == (
        "apc+aste+uabsa_rest14",
        "mixture",
        ("apc_rest14", "aste_rest14", "uabsa_rest14"),
    )
    rows = {row.id: row for row in data.test}
    polarity, triplet = rows["test:apc_rest14/0"], rows["test:aste_rest14/0"]
    assert (polarity.pair, polarity.target) == ("food", (("positive",),))
    assert triplet.target == (("food", "big", "positive"),)
    assert polarity.group == triplet.group, "a sentence is one group, whatever is asked of it"
    part = data.part("apc_rest14")
    assert part.kind.write(polarity.target, part, "words") == '["positive"]'
    assert part.kind.parse('["positive"]', part, "words") == (("positive",),)
    assert part.instruction.startswith("Say the polarity")
    assert not part.train


def test_no_sentence_of_any_test_set_is_trained_on_and_they_are_counted(data):
    texts = {row.text for row in data.train}
    assert "The big food." not in texts, "uabsa asks for it in test"
    assert "no fresh wine here ." not in texts, "lap14's test has it, although only rest14 is asked for"
    assert "train: 2 of 19 rows left out, whose sentences stand in one of 4 test sets" in data.notes
    assert "dev: 0 of 12 rows left out, whose sentences stand in one of 4 test sets" in data.notes


def test_scores_are_given_for_all_rows_and_by_part(data):
    wrong = [row.target if row.domain != "aste_rest14" else () for row in data.test]
    found = score(data, data.test, wrong)
    assert found["f1_tuples_aste_rest14"] == 0
    assert found["f1_tuples_apc_rest14"] == 100
    assert found["f1_tuples_mean"] == pytest.approx(200 / 3)
    asked = {part: sum(len(r.target) for r in data.test if r.domain == part) for part in data.domains}
    right = sum(asked.values()) - asked["aste_rest14"]
    assert found["f1_tuples"] == pytest.approx(100 * 2 * right / (right + sum(asked.values())))


def test_shares_follow_the_sizes_to_a_power(data):
    """Raffel et al., JMLR 2020, section 3.5.2: rates r_m = n_m^(1/T) / sum."""
    sizes = {part: sum(row.domain == part for row in data.train) for part in data.domains}
    for exponent in (0.0, 0.5, 1.0):
        mixture = type(data.mixture)(data.mixture.parts, exponent)
        total = {}
        for row, share in zip(data.train, mixture.shares(data.train), strict=True):
            total[row.domain] = total.get(row.domain, 0) + share
        powers = np.array([n**exponent for n in sizes.values()])
        assert list(total.values()) == pytest.approx(list(len(data.train) * powers / powers.sum()))


def test_a_pass_holds_each_item_as_often_as_its_share():
    shares = [2.5, 1.0, 0.25, 0.25]
    plan = plan_batches([5, 6, 7, 8], 1, 8000, seed=3, shares=shares)
    counts = np.bincount([i for batch in plan for i in batch]) / len(plan) * 4
    assert counts == pytest.approx(shares, abs=0.05)
    assert plan_batches([5, 6, 7], 2, 9, seed=1, shares=[1.0] * 3) != []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.domain=rest99"], r"task\.domain: absa has no `rest99`\. Did you mean `rest1[456]`"),
        (["task.subtask=astee"], r"task\.subtask: absa has no `astee`\. Did you mean `aste`"),
        (["task.domain=lap14", "task.subtask=[aste,quad]"], r"task\.subtask: asqp is not there for lap14"),
        (["task.domain=[rest14,lap14,mams]", "task.subtask=aste"], r"task\.domain: mams is not there for aste"),
        (["task.mixing=2"], r"task\.mixing"),
        (["task.domain=mams"], r"only apc of mams is left, which is no mixture.*task=absa task\.subtask=apc"),
        (["task.subset=aste_rest14"], r"task\.subset=aste_rest14: absa_all takes task\.subtask and task\.domain"),
    ],
)
def test_what_there_is_not_is_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        task(*overrides)


RUN = ("task=absa_all", SUBTASKS, "model=tiny-llama", "tracking.wandb=disabled", "trainer.max_length=192")


def test_a_run_is_scored_by_part_and_asked_again(reviews, tmp_path):
    run = peftbench.run(
        *RUN, f"data_dir={reviews}", "shots=2", "trainer.steps=4", "trainer.batch_size=4", "protocol.dev=none",
        "method/formulation=generate", "method.formulation.answer_tokens=12", method="lora", out_dir=tmp_path / "out",
    )  # fmt: skip
    record = run.record
    assert {"f1_tuples", "f1_tuples_mean", "f1_tuples_apc_rest14", "recall_tuples_aste_rest14"} <= record.scores.keys()
    assert record.draw["rows"]["train"] == 6, "shots=2 is two rows of each part"
    assert any("rows left out, whose sentences" in note for note in record.notes)
    stored = {item.id: item for item in read_predictions(run.folder / "predictions.jsonl")}
    rows = [
        {"text": "the big food .", "pair": "food", "domain": "apc_rest14"},
        {"text": "the big food .", "pair": None, "domain": "aste_rest14"},
    ]
    wanted = [stored[id_].answer for id_ in ("test:apc_rest14/0", "test:aste_rest14/0")]
    assert [answer.text for answer in run.predict(rows)] == wanted
    with pytest.raises(UsageError, match=r"row 0: `domain` has to say which part of absa_all.*aste_rest14"):
        run.predict(["the big food ."])
    with pytest.raises(UsageError, match=r"row 0: the task has pairs of texts \(sentence, aspect\)"):
        run.predict([{"text": "the big food .", "domain": "apc_rest14"}])
    _asked_by_file(run, tmp_path, rows, wanted)


def _asked_by_file(run, tmp_path, rows, wanted):
    from peftbench.inspect.predict_command import predict_command

    lines = [{k: v for k, v in row.items() if v} for row in rows]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    asked = [run.run_id, "--file", str(tmp_path / "new.jsonl"), "--output", str(tmp_path / "out.csv")]
    assert predict_command([*asked, "--out-dir", str(tmp_path / "out")]) == 0
    with (tmp_path / "out.csv").open() as file:
        assert [row["answer"] for row in csv.DictReader(file)] == wanted


def test_demonstrations_and_heads_do_not_do_a_mixture(reviews, tmp_path):
    for method in ("icl", "head_only"):
        with pytest.raises(UsageError, match="mixture targets"):
            peftbench.run(
                *RUN, f"data_dir={reviews}", "shots=2", "protocol.dev=none", method=method, out_dir=tmp_path / "out"
            )


@pytest.mark.data
@pytest.mark.slow
def test_real_rest14(real_data):
    data = load_task(task("task.domain=rest14"), real_data)
    assert len(data.domains) == 7
    assert "train: 145 of 15118 rows left out, whose sentences stand in one of 17 test sets" in data.notes
