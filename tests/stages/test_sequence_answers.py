"""Runs that have learned several tasks, asked about one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cut_off_runs import finish
from tiers import rest_slow

import peftbench
from peftbench.config.load import from_plain
from peftbench.inputs import InputCache
from peftbench.inspect.export_command import export_command
from peftbench.inspect.predict_command import predict_command
from peftbench.records.predictions import read_predictions

METHODS = [["method=lora"], ["method=hft"], ["method=full", "method/formulation=generate", "model=tiny-gpt2"],
           ["method=full", "method/formulation=cloze"], ["method=lora", "task.heads=shared"]]  # fmt: skip


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An entry of `task.of`: pairs of texts."""
    folder = tmp_path_factory.mktemp("data") / "animals"
    folder.mkdir()
    rows = [f"the {word},a thing,{label}" for label, words in (("cat", "paw fur"), ("bird", "wing beak"))
            for word in words.split()]  # fmt: skip
    for split in ("train", "test"):
        rows = [row.replace("the ", f"the {split} ") for row in rows]
        (folder / f"{split}.csv").write_text("\n".join(["text,other,label", *rows]) + "\n", "utf-8")
    return f"{{task: file, path: {folder}, pair: other}}"


@pytest.mark.parametrize("overrides", rest_slow(METHODS, METHODS[:1]), ids=" ".join)
def test_each_task_is_answered_as_it_was(tmp_path: Path, animals: str, overrides: list[str]) -> None:
    inputs = InputCache()
    cloze = any("cloze" in word for word in overrides)
    of = "[demo_news,{task: demo_news, lowercase: plain}]" if cloze else f"[demo_news,{animals}]"
    record, _ = finish(tmp_path, "task=sequence", f"task.of={of}", *overrides, inputs=inputs)
    kept = {p.id: p for p in read_predictions(peftbench.load_run(record.run_id, tmp_path).folder / "predictions.jsonl")}
    for name in record.sequence["tasks"]:
        rows = [row for row in inputs.load(from_plain(record.config)).draw.test if row.domain == name]
        asked = [{"text": row.text, **(row.parts or {}), **({"pair": row.pair} if row.pair else {})} for row in rows]
        answers = peftbench.predict(record.run_id, asked, tmp_path, task=name)
        assert [answer.label for answer in answers] == [kept[row.id].prediction for row in rows]
        for answer, row in zip(answers, rows, strict=True):
            assert answer.scores == pytest.approx(kept[row.id].scores, abs=1e-4)


def test_the_task_is_named_and_may_be_exported(tmp_path: Path, animals: str, capsys: pytest.CaptureFixture) -> None:
    record, _ = finish(tmp_path, "task=sequence", f"task.of=[demo_news,{animals}]", "method=lora")
    run, file = [record.run_id, f"--out-dir={tmp_path}"], tmp_path / "new.txt"
    file.write_text("a match was won\n", "utf-8")
    with pytest.raises(
        peftbench.UsageError, match=r"--task NAME says which one is asked. Known: demo_news, file-animals"
    ):
        predict_command([*run, "--file", str(file)])
    with pytest.raises(peftbench.UsageError, match="Did you mean `demo_news`"):
        predict_command([*run, "--file", str(file), "--task", "demo_new"])
    assert predict_command([*run, "--file", str(file), "--task", "demo_news"]) == 0
    assert "p(health)" in capsys.readouterr().out
    out = tmp_path / "exported"
    assert export_command([*run, str(out), "--task", "file-animals"]) == 0
    manifest = json.loads((out / "peftbench.json").read_text("utf-8"))
    assert manifest["task"]["labels"] == ["bird", "cat"]
    assert "--task demo_news" in (run_folder(tmp_path, record.run_id) / "README.md").read_text("utf-8")
    assert "'task.of=[demo_news,{task:file," in (out / "README.md").read_text("utf-8")
    single, _ = finish(tmp_path, "method=majority")
    with pytest.raises(peftbench.UsageError, match="has learned a single task"):
        predict_command([single.run_id, f"--out-dir={tmp_path}", "--file", str(file), "--task", "demo_news"])


def run_folder(out_dir: Path, run_id: str) -> Path:
    return peftbench.load_run(run_id, out_dir).adapter_path
