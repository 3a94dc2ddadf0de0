"""A run on tags from data to record: what is kept of a sentence, and what reads it afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import peftbench
from peftbench import statistics
from peftbench.figures.report.detail import detail
from peftbench.inspect.predict_command import columns
from peftbench.records.store import Store
from peftbench.tasks.problems.tags import entities

NAMES, PLACES = ("Musa", "Amina", "Bello", "Zainab", "Umar"), ("Kano", "Abuja", "Jos", "Zaria")
FAST = ["task=masakhaner", "model=tiny-bert", "trainer=debug", "trainer.probe=false", "tracking.wandb=disabled",
        "trainer.save=all", "protocol.dev_per_class=3"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for lang, verb in (("hau", "tafi"), ("swa", "alienda")):
        for split, count in (("train", 12), ("dev", 4), ("test", 6)):
            sentences = [
                f"{NAMES[i % 5]} B-PER\n{split}{i} I-PER\n{verb} O\n{PLACES[i % 4]} B-LOC\n. O\n" for i in range(count)
            ]
            path = folder / f"more/african/masakhaner2/{lang}/{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(sentences))
    return folder


def finish(data: Path, out: Path, *overrides: str) -> peftbench.Run:
    return peftbench.run(*FAST, f"data_dir={data}", f"out_dir={out}", *overrides)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> peftbench.Run:
    rates = ["method.lr.lora=0.05", "method.lr.head=0.05", "trainer.steps=20", "trainer.batch_size=6"]
    return finish(data, tmp_path_factory.mktemp("out"), "method=lora", "shots=8", *rates)


def kept(run: peftbench.Run) -> list[dict]:
    path = Path(run.record.config["out_dir"], "runs", run.run_id, run.record.predictions["file"])
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tags_are_kept_by_sentence_and_give_the_recorded_f1(run):
    items = kept(run)
    assert [len(item["prediction"]) for item in items] == [5] * 6
    right = sum(len({*entities(i["target"])} & {*entities(i["prediction"])}) for i in items)
    both = sum(len([*entities(i[side])]) for i in items for side in ("target", "prediction"))
    assert run.record.score == pytest.approx(100 * 2 * right / both)
    assert run.record.score > 0
    assert run.record.data["problem"] == "tags"
    assert run.record.draw["counts"]["test"] == {"LOC": 6, "PER": 6}


def test_statistics_resample_sentences(run):
    cell = statistics.load_cell(Store(run.record.config["out_dir"]), [run.record])
    assert (cell.n_items, cell.runs[0].score) == (6, pytest.approx(run.record.score))
    found = statistics.summarise(cell)
    assert found.low is None or found.low <= run.record.score <= found.high


def test_the_report_has_each_entity_type(run):
    page = detail(Store(run.record.config["out_dir"]), run.record)
    assert [row[:2] for row in page["classes"]] == [["LOC", 6], ["PER", 6]]
    assert page["confusion"] is None
    assert page["items"] == 6


def test_a_loaded_run_tags_new_texts(run):
    found = peftbench.load_run(run.run_id, run.record.config["out_dir"])
    answers = found.predict(["Musa train1 tafi Kano .", "Amina"])
    assert [len(answer.label) for answer in answers] == [5, 1]
    assert answers[0].probabilities == {}
    assert columns(answers[0], " ".join) == {"prediction": " ".join(answers[0].label)}


def test_an_exported_run_tags_alike(run, tmp_path):
    import runpy

    peftbench.load_run(run.run_id, run.record.config["out_dir"]).export(tmp_path / "x")
    texts = ["Musa test0 tafi Kano .", "Zaria"]
    alone = runpy.run_path(str(tmp_path / "x" / "inference.py"))["predict"](texts)
    assert [tuple(a["label"]) for a in alone] == [a.label for a in run.predict(texts)]


def test_transfer_of_tags_is_named_by_both_languages(data, tmp_path):
    run = finish(data, tmp_path, "method=head_only", "task.source_lang=swa", "shots=0", "trainer.steps=2")
    record = run.record
    assert (record.subset, record.shots, record.draw["rows"]["train"]) == ("swa-to-hau", 0, 12)
    assert record.compute["steps"] == 2
    assert record.dev_score is not None


TUNERS = [
    "adalora",
    "adept",
    "bitfit",
    "boft",
    "c3a",
    "compacter",
    "conv_adapter",
    "dept",
    "dora",
    "embed_head",
    "ept",
    "fourierft",
    "full",
    "hft",
    "houlsby",
    "hra",
    "ia3",
    "iapt",
    "last_layer",
    "lite",
    "ln_tuning",
    "loha",
    "lokr",
    "mam",
    "miss",
    "oft",
    "p_tuning",
    "p_tuning_v2",
    "parallel",
    "pfeiffer",
    "pissa",
    "prefix_tuning",
    "prompt_tuning",
    "randlora",
    "recurrence",
    "road",
    "rslora",
    "trainable_tokens",
    "vera",
]


@pytest.mark.slow
@pytest.mark.parametrize("method", TUNERS)
def test_every_encoder_tuner_tags(method, data, tmp_path):
    items = kept(finish(data, tmp_path, f"method={method}", "shots=4", "trainer.steps=2"))
    assert [len(item["prediction"]) for item in items] == [5] * 6


def test_floors_and_cloze_refuse_tags(data, tmp_path):
    for method, message in (
        ("majority", "gives a class or a score a row"),
        ("lm_bff", "does not fit a task with tags"),
    ):
        with pytest.raises(peftbench.UsageError, match=message):
            finish(data, tmp_path, f"method={method}", "shots=4")
