"""Rows in prompts behind demonstrations: what is left out and counted, calibration, candidates, runs, files."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from tiny_answers import disturbed, learner, task, texts

import peftbench
from peftbench.errors import UsageError
from peftbench.formulations.base import PROMPT_TEXT
from peftbench.records.predictions import read_prompts
from peftbench.tasks.base import Row

SHOTS = [Row(f"train:{n}", f"{word} " * 4, label) for n, (word, label) in enumerate(
    [("goal", "sports"), ("law", "politics"), ("doctor", "health"), ("water", "politics")])]  # fmt: skip


def prompted(*overrides, shots=SHOTS, method="icl", **more):
    return disturbed(learner("model=tiny-llama", f"method={method}", "method.formulation.max_length=200",
                             *overrides, shots=shots, **more))  # fmt: skip


def texts_of(net, rows):
    return [item.data[PROMPT_TEXT] for item in net.encode(rows)]


def test_the_nearest_demonstration_stands_last_and_the_row_is_asked():
    net = prompted("method.select=bm25", "method.k=2")
    (prompt,) = texts_of(net, [Row("test:0", "the doctor of the law law", None)])
    assert prompt.index("text: doctor") < prompt.index("text: law"), "`law` stands twice in the row"
    assert prompt.count("answer:") == 3
    assert prompt.endswith("text: the doctor of the law law\nanswer:")


def test_whole_demonstrations_go_before_the_rows_own_text_and_both_are_counted():
    net = prompted("method.k=4")
    short, long = Row("test:0", "water", None), Row("test:1", "water and wine " * 80, None)
    items = net.encode([short, long])
    assert all(item.length <= 200 for item in items)
    assert len(net.formulation.notes) == 1
    assert (
        "test: 4 of 8 demonstrations did not fit into 198 tokens and were left out, in 1 of 2 prompts"
        in (net.formulation.notes[0])
    )
    assert items[0].data[PROMPT_TEXT].count("answer:") == 5
    assert items[1].data[PROMPT_TEXT].count("answer:") == 1
    assert (items[0].cut, items[1].cut) == (0, 1)
    assert items[1].data[PROMPT_TEXT].startswith("Answer with one of"), "the instruction stays"
    (one,) = texts_of(prompted("method.k=4", "method.formulation.budget=25"), [short])
    assert 1 < one.count("answer:") < 5


def test_a_prompt_that_leaves_no_room_and_k_without_rows_are_refused():
    with pytest.raises(UsageError, match=r"Set method\.formulation\.max_length"):
        prompted("method.formulation.max_length=16", "method.k=0").encode(texts())
    with pytest.raises(UsageError, match=r"k=2: shots=0 leaves no labelled row.*zero_shot"):
        prompted("method.k=2", shots=()).encode(texts())


def test_scores_are_those_of_the_prompt_as_a_text():
    """The same prompt through the network alone, label by label."""
    net = prompted("method.k=2")
    with torch.no_grad():
        (item,) = net.encode([Row("test:0", "water", None)])
        (found,) = net.predict(net.collate([item]))
        for label, score in found.scores.items():
            prompt = net.formulation.tokenizer(item.data[PROMPT_TEXT])["input_ids"]
            answer = [
                *net.formulation.tokenizer(f" {label}", add_special_tokens=False)["input_ids"],
                net.formulation.eos,
            ]
            logits = net.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            by_hand = [logits[len(prompt) - 1 + n, token] for n, token in enumerate(answer)]
            assert score == pytest.approx(float(torch.stack(by_hand).mean()), abs=1e-4)


def test_a_free_answer_is_the_first_label_it_names_and_several_are_noted(monkeypatch):
    net = prompted("method.k=0", "method.formulation.by=generate")
    assert net.formulation.answer_length == 8
    written = ["It is Sports, not politics", "Category: health.", "nothing"]
    monkeypatch.setattr(net.formulation.tokenizer, "batch_decode", lambda *_, **__: written)
    found = net.predict(net.collate(net.encode(texts())))
    assert [p.label for p in found] == ["sports", "health", None]
    assert [p.answer for p in found] == written
    assert net.formulation.notes == ["1 answers named several labels; the first counts"]


def scoring(*overrides, data=None):
    return disturbed(learner("model=tiny-gpt2", "method=lora", "method/formulation=score", *overrides, data=data))


def scores_of(net):
    with torch.no_grad():
        return [p.scores for p in net.predict(net.collate(net.encode(texts())))]


def test_normalisation_by_tokens_bytes_or_not_at_all():
    mean, total, byte = (scores_of(scoring(f"method.formulation.likelihood={x}")) for x in ("mean", "sum", "byte"))
    lengths = {label: len(ids) for label, ids in scoring().formulation.label_ids.items()}
    for m, t, b in zip(mean, total, byte, strict=True):
        for label in m:
            assert t[label] == pytest.approx(m[label] * lengths[label], rel=1e-4)
            assert b[label] == pytest.approx(t[label] / len(label.encode()), rel=1e-4)


def test_the_likeliest_candidate_counts_for_its_label(tmp_path):
    words = {"health": ["medicine", "doctors"], "politics": ["law"], "sports": ["goals", "sports"]}
    file = tmp_path / "words.json"
    file.write_text(json.dumps(words))
    found = scores_of(scoring(f"method.formulation.candidates={file}"))
    flat = [word for own in words.values() for word in own]
    single = scores_of(scoring(data=task(flat)))
    for scores, each in zip(found, single, strict=True):
        for label, own in words.items():
            assert scores[label] == pytest.approx(max(each[word] for word in own), abs=1e-4)
    file.write_text(json.dumps({**words, "sports": ["law"]}))
    with pytest.raises(UsageError, match="`law` stands there twice"):
        scoring(f"method.formulation.candidates={file}")
    with pytest.raises(UsageError, match="neither a file nor `terms`"):
        scoring("method.formulation.candidates=nowhere.yaml")


def test_calibration_divides_by_the_mean_share_of_the_labels():
    net = scoring("method.formulation.calibration=contextual", "method.stages=[calibration,supervised]")
    with pytest.raises(UsageError, match="no prior yet"):
        scores_of(net)
    plain = scores_of(scoring())
    shares = [{k: math.exp(v) / sum(map(math.exp, s.values())) for k, v in s.items()} for s in plain]
    net.formulation.calibrate(net.model, torch.tensor([list(s.values()) for s in shares]))
    for scores, share in zip(scores_of(net), shares, strict=True):
        for label, value in scores.items():
            prior = sum(s[label] for s in shares) / len(shares)
            assert value == pytest.approx(math.log(share[label] / prior), abs=1e-4)


RUN = {"task": "demo_news", "model": "tiny-llama", "trainer": "debug", "trainer.progress": False, "shots": 2}


def test_a_run_keeps_what_was_asked_and_can_be_asked_again(tmp_path):
    run = peftbench.run(**RUN, method="icl", **{"method.select": "bm25"}, out_dir=str(tmp_path))
    record = run.record
    assert record.status == "done"
    kept = record.predictions["prompts"]
    prompts = read_prompts(tmp_path / "runs" / record.run_id / kept["file"], kept["sha256"])
    assert len(prompts) == kept["count"] == record.predictions["count"]
    assert all(text.endswith("answer:") for text in prompts.values())
    assert record.parameters["module"] == record.compute["steps"] == 0
    from peftbench.figures.report.detail import detail
    from peftbench.records.store import Store

    shown = detail(Store(tmp_path), record)["errors"]
    assert shown
    assert all(error[5] == prompts[error[0]] for error in shown)


@pytest.mark.slow
def test_prompts_of_a_file_travel_with_the_run(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("prompts: [{example: '{text} is about {answer}'}]\n")
    run = peftbench.run(
        **RUN, method="icl", **{"method.formulation.prompts": str(file)}, out_dir=str(tmp_path / "runs")
    )
    file.unlink()
    moved = peftbench.load_run(run.record.run_id, out_dir=str(tmp_path / "runs"))
    assert moved.predict(["The team won the cup"])[0].label in run.record.data["labels"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("{prompts: [{example: '{aspect} {answer}'}]}", r"rows of task demo_news have no field \{aspect\}"),
        ("{words: {sports: S}, prompts: [{example: '{text} {answer}'}]}", "has no word for the label `"),
    ],
)
def test_prompts_that_do_not_fit_the_task_cost_no_load_of_a_backbone(tmp_path, monkeypatch, prompts, message):
    monkeypatch.setattr("peftbench.models.load_backbone", None)
    with pytest.raises(UsageError, match=message):
        peftbench.run(**{**RUN, "method": "icl", "method.formulation.prompts": prompts}, out_dir=str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("more", [
    {"method": "zero_shot", "shots": 0, "method.stages": ["calibration", "none"],
     "method.formulation.calibration": "contextual", "method.formulation.prompts": "masakhanews"},
    {"method": "icl", "shots": "full", "method.k": 3, "method.select": "hybrid", "model": "tiny-t5",
     "method.formulation.by": "generate", "method.formulation.constrain": "labels"},
    {"method": "prompt_tuning", "method/formulation": "prompted", "method.formulation.k": 2, "trainer.max_length": 256},
])  # fmt: skip
def test_other_runs(tmp_path, more):
    run = peftbench.run(**{**RUN, **more}, out_dir=str(tmp_path))
    assert run.record.status == "done"
    assert run.record.predictions["invalid"] == 0
    assert run.record.predictions["prompts"]["count"] == 105
    answers = run.predict(["The team won the cup", "Parliament passed a law"])
    assert all(a.label in run.record.data["labels"] for a in answers)


def test_another_prompt_or_choice_is_another_run_and_a_neutral_one_is_not():
    from peftbench.config import compose
    from peftbench.records.ids import content

    def name(*overrides):
        return json.dumps(content(asdict(compose(["model=tiny-llama", "task=demo_news", *overrides]))), sort_keys=True)

    icl = ["method=icl", "shots=4"]
    assert name(*icl) == name(*icl, "method.k=4")
    names = {name(*icl, more) for more in ("method.select=bm25", "method.k=3", "method.formulation.balance=true",
                                           "method.formulation.prompts=masakhanews")}  # fmt: skip
    assert len({*names, name(*icl)}) == 5
    score = ["method=lora", "method/formulation=score"]
    assert name(*score) == name(*score, "method.formulation.likelihood=mean")
