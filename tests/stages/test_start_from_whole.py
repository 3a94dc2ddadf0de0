"""Runs that start from another that has trained the whole backbone, with any tuner."""

from __future__ import annotations

from pathlib import Path

import pytest
from cut_off_runs import finish
from tiers import rest_slow

import peftbench
from peftbench.records.predictions import read_predictions
from peftbench.records.record import Record

POSED = ("model=tiny-gpt2", "method/formulation=generate")
TUNERS = ["lora", "embed_head", "last_layer", "full"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def source(folder: Path) -> Record:
    return finish(folder, *POSED, "method=full", "method.lr.backbone=0.05", "shots=8")[0]


def answered(folder: Path, run: str) -> list[tuple[str, str | None]]:
    kept = read_predictions(peftbench.load_run(run, folder).folder / "predictions.jsonl")
    return [(item.id, item.answer) for item in kept]


@pytest.mark.parametrize("tuner", TUNERS)
def test_untrained_it_answers_as_the_source_did(folder: Path, source: Record, tuner: str) -> None:
    start = f"method.init_from={source.run_id}"
    record, _ = finish(folder, *POSED, f"method={tuner}", "method.stages=[none]", start)
    assert answered(folder, record.run_id) == answered(folder, source.run_id)
    assert f"started from run {source.run_id} (full on demo_news/" in " ".join(record.notes)
    if tuner == "lora":
        bare, _ = finish(folder, *POSED, f"method={tuner}", "method.stages=[none]")
        assert bare.run_id != record.run_id
        assert answered(folder, bare.run_id) != answered(folder, source.run_id)


@pytest.mark.parametrize("tuner", rest_slow(TUNERS, ["lora"]))
def test_it_is_asked_again_as_it_answered_also_behind_a_run_between(
    folder: Path, source: Record, tuner: str, tmp_path: Path
) -> None:
    between, _ = finish(folder, *POSED, f"method={tuner}", f"method.init_from={source.run_id}")
    record, _ = finish(folder, *POSED, f"method={tuner}", f"method.init_from={between.run_id}", "seed=2")
    texts = ["a match was won", "the parliament has voted"]
    run = peftbench.load_run(record.run_id, folder)
    answers = [answer.text for answer in run.predict(texts)]
    bare = finish(folder, *POSED, f"method={tuner}", "seed=2")[0]
    assert answers != [answer.text for answer in peftbench.load_run(bare.run_id, folder).predict(texts)]
    if tuner == "lora":
        with pytest.raises(peftbench.UsageError, match="Add --merge"):
            run.export(tmp_path / "plain")
        assert (run.export(tmp_path / "merged", merge=True) / "inference.py").is_file()
        weights = peftbench.load_run(source.run_id, folder).adapter_path / "backbone.safetensors"
        hidden = weights.rename(weights.with_suffix(".gone"))
        try:
            with pytest.raises(peftbench.UsageError, match="which are not there"):
                peftbench.load_run(record.run_id, folder).predict(texts)
        finally:
            hidden.rename(weights)


def test_weights_of_another_kind_of_network_are_refused(folder: Path, source: Record) -> None:
    with pytest.raises(peftbench.UsageError, match="the weights that the run starts from do not fit"):
        finish(folder, "model=tiny-gpt2", "method/formulation=head", "method=lora", f"method.init_from={source.run_id}")
