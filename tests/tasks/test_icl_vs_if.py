"""In-context learning against instruction following: rows, the metric, and what is no prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_configs import compose

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.metrics import score

PROMPT = "Repeat the input.\n\nInput: A cat.\nOutput: A cat.\n\nInput: What is 1 plus 2?\nOutput:"


def line(lang: str, answer: str) -> str:
    values = {"config": "x", "lang": lang, "icl_task": "repeat", "if_task": "math", "prompt": PROMPT}
    return json.dumps({**values, "icl_ans": f" {answer}", "if_ans": " 3"}) + "\n"


def folder(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "more/conjugate").mkdir(parents=True)
    (tmp_path / "more/conjugate/icl_vs_if_prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_prompts_of_a_language_with_their_answers(tmp_path: Path) -> None:
    home = folder(tmp_path, line("en", "What"), line("fr", "Combien"), line("en", "___"))
    data = load_task(compose(["task=icl_vs_if"]).task, home)
    assert [(row.id, row.text, row.target) for row in data.test] == [
        ("test:0", PROMPT, ("What",)), ("test:1", PROMPT, ("___",))]  # fmt: skip
    assert data.test[0].parts == {"prompt": PROMPT, "instructed": "3", "kind": "repeat-math"}
    french = load_task(compose(["task=icl_vs_if", "task.subset=fr"]).task, home)
    assert (len(french.test), french.languages) == (1, ("fra",))
    assert score(data, data.test, ["What is 1 plus 2?", "3"])["starts_with"] == 50
    assert score(data, data.test, [None, "___ is"])["starts_with"] == 50


def test_a_language_that_is_not_there_and_a_line_that_is_no_prompt(tmp_path: Path) -> None:
    home = folder(tmp_path, line("en", "What"), '{"lang": "en"}\n')
    with pytest.raises(UsageError, match="line 2"):
        load_task(compose(["task=icl_vs_if"]).task, home)
    (home / "more/conjugate/icl_vs_if_prompts.jsonl").write_text(line("en", "What"), encoding="utf-8")
    with pytest.raises(UsageError, match="no prompt in the language `ls`"):
        load_task(compose(["task=icl_vs_if", "task.subset=ls"]).task, home)


@pytest.mark.data
def test_the_real_prompts(real_data: Path) -> None:
    for subset in ("en", "fr", "ls"):
        data = load_task(compose(["task=icl_vs_if", f"task.subset={subset}"]).task, real_data)
        assert len(data.test) == 400
        assert not data.notes
