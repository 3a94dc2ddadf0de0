"""What a run trained, loaded again, answers as it did: stored predictions against those of the loaded model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiers import rest_slow

import peftbench
from peftbench import runner
from peftbench.config.catalogue import entries
from peftbench.config.load import from_plain
from peftbench.inputs import InputCache
from peftbench.records.record import Record
from peftbench.records.store import Store

TINY = {"encoder": "tiny-bert", "seq2seq": "tiny-t5", "causal": "tiny-llama"}
FAST = ["task=demo_news", "shots=1", "trainer=debug", "trainer.probe=false", "tracking.wandb=disabled"]
PET = ["patterns=[0,1]", "unlabeled=20", "pattern_steps=2", "classifier_steps=2"]
SELF_TRAINING, PRETRAINING = ["steps=2", "pool=8", "threshold=0"], ["texts=16", "steps=2"]
SHORT = {
    **{key: [f"method.pet.{text}" for text in PET] for key in ("pet", "ipet")},
    **{key: [f"method.self_training.{text}" for text in SELF_TRAINING] for key in ("list", "self_training")},
    **{key: [f"method.continued_pretraining.{text}" for text in PRETRAINING] for key in ("pcp", "tapt")},
    "setfit": ["method.contrastive.iterations=1"],
    "peft": ["method.type=VERA"],
    "lm_bff": ["trainer.max_length=128"],
    "madx": ["method.language_adapters.steps=2"],
}
"""What a method needs, or what shortens a stage with trainings of its own."""


def finish(folder: Path, *overrides: str) -> peftbench.Run:
    return peftbench.run(*FAST, "trainer.save=all", f"out_dir={folder}", *overrides)


def assert_answers_as_it_did(run: peftbench.Run) -> None:
    """Labels and raw texts equal, scores to the nine digits that are stored."""
    drawn = InputCache().load(from_plain(run.record.config)).draw
    rows = [row for rows in runner.tests_of(drawn).values() for row in rows]
    stored = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    answers = peftbench.load_run(run.run_id[:10], run.out_dir).predict(rows)
    assert len(stored) == len(answers) > 0
    for item, answer in zip(stored, answers, strict=True):
        assert item["prediction"] == answer.label
        assert item["answer"] == answer.text
        assert answer.scores == pytest.approx(item["scores"], abs=1e-6)


KINDS = [
    ["model=tiny-bert", "method=houlsby"],
    ["model=tiny-llama", "method=prompt_tuning", "method/formulation=score"],
    ["method=tfidf_lr"],
    ["model=tiny-bert", "method=dept"],
    ["model=tiny-t5", "method=lora"],
    ["model=tiny-bert", "method=lm_bff", "method.formulation.demonstrations=2", "trainer.max_length=128"],
    ["model=tiny-bert", "method=bayesprompt_init"],
    ["model=tiny-bert", "method=setfit", "method.contrastive.iterations=1"],
    ["method=majority"],
]


@pytest.mark.parametrize("overrides", rest_slow(KINDS, KINDS[:3]), ids=" ".join)
def test_a_loaded_run_answers_as_it_did(tmp_path: Path, overrides: list[str]) -> None:
    assert_answers_as_it_did(finish(tmp_path, *overrides))


def every_pair() -> list[Any]:
    """Every packaged method with every family that it fits, and each formulation with LoRA."""
    pairs = [
        (f"method={entry['name']}", f"model={TINY[family]}")
        for entry in entries("method")
        for family in entry["fits"] or ("encoder",)
        if entry["name"] not in ("file", "setfit_library")  # the library's models are the library's to ask
    ]
    posed = [("generate", "seq2seq"), ("score", "seq2seq"), ("head", "causal"), ("generate", "causal")]
    pairs += [(f"method/formulation={f}", "method=lora", f"model={TINY[family]}") for f, family in posed]
    pairs += [("method=lora", "method/formulation=cloze", f"model={TINY[f]}") for f in ("encoder", "seq2seq")]
    return [pytest.param(list(pair), id=" ".join(pair)) for pair in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", every_pair())
def test_every_method_answers_as_it_did(tmp_path: Path, overrides: list[str]) -> None:
    name = overrides[0].removeprefix("method=")
    try:
        run = finish(tmp_path, *overrides, *SHORT.get(name, []))
    except peftbench.UsageError as error:
        pytest.skip(f"the pair is refused: {error}")
    assert_answers_as_it_did(run)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> peftbench.Run:
    return finish(tmp_path_factory.mktemp("lora"), "model=tiny-bert", "method=lora")


def test_new_texts_are_answered_alike_however_they_come(lora: peftbench.Run) -> None:
    import pandas

    texts = ["a match was won", "the parliament has voted \U0001f389", "rain"]
    answers = lora.predict(texts)
    assert lora.predict([{"text": text} for text in texts]) == answers
    assert lora.predict(pandas.DataFrame({"text": texts})) == answers
    assert peftbench.predict(lora.run_id, texts, lora.out_dir) == answers
    assert lora.predict([]) == []
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.probability == max(answer.probabilities.values())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (["fine", "  "], "row 1: the text is empty"),
        ("one text", "a list of texts"),
        ([("a", "b")], "row 0: the task has single texts"),
        ([{"body": "a"}], "row 0: no `text` among body"),
        ([3], "row 0: neither a text"),
    ],
)
def test_rows_that_cannot_be_answered_are_named(lora: peftbench.Run, data: Any, words: str) -> None:
    with pytest.raises(peftbench.UsageError, match=words):
        lora.predict(data)


def test_the_adapter_folder_names_no_place_of_this_machine(lora: peftbench.Run) -> None:
    texts = [path.read_bytes() for path in lora.adapter_path.iterdir()]
    assert not any(str(lora.out_dir).encode() in text or str(Path.home()).encode() in text for text in texts)
    config = json.loads((lora.adapter_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-bert"


def test_another_backbone_is_refused(lora: peftbench.Run, tmp_path: Path) -> None:
    shutil.copytree(lora.out_dir, tmp_path / "copy")
    moved = peftbench.load_run(lora.run_id, tmp_path / "copy")
    manifest = json.loads((moved.adapter_path / "peftbench.json").read_text())
    manifest["backbone"]["revision"] = "random:0000"
    (moved.adapter_path / "peftbench.json").write_text(json.dumps(manifest))
    with pytest.raises(peftbench.UsageError, match="has changed since"):
        moved.predict(["text"])


def test_a_whole_backbone_is_not_saved_and_the_way_out_is_named(tmp_path: Path) -> None:
    run = peftbench.run(*FAST, f"out_dir={tmp_path}", "model=tiny-bert", "method=full")
    with pytest.raises(peftbench.UsageError, match=r"trainer\.save=all"):
        run.predict(["text"])


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    store = Store(tmp_path)
    for name in ("abc1", "abc2", "d"):
        store.save(make_record(run_id=name))
    assert peftbench.load_run("d", tmp_path).run_id == "d"
    with pytest.raises(peftbench.UsageError, match="2 runs begin so: abc1, abc2"):
        peftbench.load_run("ab", tmp_path)
    with pytest.raises(peftbench.UsageError, match="no such run"):
        peftbench.load_run("zzz", tmp_path)
