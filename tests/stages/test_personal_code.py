"""Small whole runs of `task=code_tests`: a start on the other projects, and what goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cut_off_runs import finish
from made_up_configs import compose

from peftbench.errors import UsageError
from peftbench.tasks.code_tests import CodeTestsConfig

PROJECTS = list(compose(["task=code_tests"]).task.subsets)
CODE = (
    "task=code_tests", "model=tiny-gpt2", "method/formulation=generate", "method.formulation.answer_tokens=4",
    "trainer.max_length=64", "task.other_rows=2",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two train and two test rows a project; one train row of commons-io is a copy of jsoup's first test row."""
    folder = tmp_path / "more/code/java_projects"
    folder.mkdir(parents=True)
    for name in PROJECTS:
        rows = [row(name, n, split) for n, split in enumerate(["train", "train", "dev", "test", "test"])]
        rows[0] = {**row("jsoup", 3, "train")} if name == "commons-io" else rows[0]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return tmp_path


def row(project: str, number: int, split: str) -> dict[str, str]:
    method = f"int m{number}() {{ return {PROJECTS.index(project)}; }}"
    return {"focal_class": "C", "focal_method": method, "test": f"@Test\nvoid t{number}() {{}}", "split": split}


def test_a_persona_starts_from_the_others_and_not_from_its_own_test(data: Path, tmp_path: Path) -> None:
    own = (*CODE, f"data_dir={data}")
    start, _ = finish(tmp_path, *own, "task.train_on=others", "method=full", "shots=10")
    assert start.subset == "others-to-jsoup"
    assert any("gave way" in note or "left out" in note for note in start.notes), "the copy of a test row"
    persona, _ = finish(tmp_path, *own, "method=last_layer", f"method.init_from={start.run_id}")
    assert (persona.subset, persona.metric) == ("jsoup", "bleu")
    assert {"bleu", "bleu_others", "edit_similarity_others"} <= persona.scores.keys()
    assert any("0 of the 10 train and dev rows" in note for note in persona.notes)
    assert persona.parameters["adapter_bytes"] < start.parameters["adapter_bytes"]
    leaky, _ = finish(tmp_path, *own, "task.project=gson", "task.train_on=others", "method=full", "shots=13")
    with pytest.raises(UsageError, match=r"1 of the 13 train and dev rows .* stand in the test set"):
        finish(tmp_path, *own, "method=last_layer", f"method.init_from={leaky.run_id}")


def test_the_place_says_what_was_trained_on() -> None:
    assert CodeTestsConfig(subset="gson").place == "gson"
    assert CodeTestsConfig(subset="gson", train_on="others").place == "others-to-gson"
