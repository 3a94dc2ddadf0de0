"""StrategyQA and CommonsenseQA 2: questions alone, as released; no hidden test is made up."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.protocols import draw

ROWS = {
    "strategyqa": [{"qid": str(n), "question": f"Is it {n}?", "answer": n % 2 == 0, "facts": [f"It is {n}."]}
                   for n in range(40)],
    "csqa2": [{"id": str(n), "question": f"It is {n}?", "answer": ["no", "yes"][n % 2], "confidence": 0.4}
              for n in range(40)],
}  # fmt: skip


def write(folder, name, rows):
    home = folder / "more/commonsense" / name
    home.mkdir(parents=True)
    for split, part in {"train": rows[:30], "dev": rows[30:]}.items():
        (home / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("task", "name"), [("strategyqa", "strategyqa"), ("commonsenseqa2", "csqa2")])
def test_the_released_dev_is_test_and_facts_stay_out(task_config, default_protocol, tmp_path, task, name):
    data = load_task(task_config(task), write(tmp_path, name, ROWS[name]))
    assert (data.labels, len(data.train), len(data.dev), len(data.test)) == (("no", "yes"), 30, 10, 0)
    row = data.train[0]
    assert (row.text, row.pair, row.parts) == (ROWS[name][0]["question"], None, None)
    drawn = draw(data, default_protocol, 4)
    assert {row.id.partition(":")[0] for row in drawn.test} == {"dev"}
    assert {row.id.partition(":")[0] for row in (*drawn.train, *drawn.dev)} == {"train"}
    assert "test is the official dev split: the official test has no labels" in drawn.notes


def test_another_answer_is_named_by_line(task_config, tmp_path):
    bad = [{**ROWS["csqa2"][0], "answer": "maybe"}, *ROWS["csqa2"]]
    with pytest.raises(UsageError, match="line 1: the label `maybe`"):
        load_task(task_config("commonsenseqa2"), write(tmp_path, "csqa2", bad))


@pytest.mark.data
def test_real_counts(task_config, real_data):
    data = load_task(task_config("strategyqa"), real_data)
    assert [Counter(row.target for row in rows) for rows in (data.train, data.dev)] == [
        {"no": 1097, "yes": 964}, {"no": 122, "yes": 107},
    ]  # fmt: skip
    data = load_task(task_config("commonsenseqa2"), real_data)
    assert [Counter(row.target for row in rows) for rows in (data.train, data.dev)] == [
        {"no": 1249, "yes": 1251}, {"no": 1316, "yes": 1225},
    ]  # fmt: skip
