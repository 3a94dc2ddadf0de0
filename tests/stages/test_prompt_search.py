"""Searches for prompts: the policy's rule, comparisons on the same rows, budgets, what is kept, and by which rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_server import Server, serving
from made_up_configs import compose
from made_up_runs import task_data

import peftbench
from peftbench.errors import UsageError
from peftbench.figures.report.detail import candidates as shown_in_report
from peftbench.formulations.prompts import Writer, prompt_set
from peftbench.formulations.reading import LabelReader
from peftbench.records.predictions import read_prompts
from peftbench.stages.prompt_search.judge import Journal, compare
from peftbench.stages.prompt_search.policy import Policy
from peftbench.stages.prompt_search.promptor import times
from peftbench.stages.prompt_search.writers import text_in
from peftbench.tasks import load_task

STEPS, CALLS, ROWS = 6, 90, 14
BASE: dict[str, Any] = {
    "task": "demo_news", "model": "tiny-llama", "shots": 2, "trainer.progress": False,
    "method.prompt_search.validation": 6, "method.prompt_search.batch": 5, "method.prompt_search.calls": CALLS,
    "protocol.test_rows": ROWS, "trainer.probe": False,
}  # fmt: skip
FLOW = {"method": "promptflow", "method.prompt_search.steps": STEPS, "method.prompt_search.patience": None}


def lines_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("**/candidates.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as made:
        made.reply = lambda prompt: f"Because. <text>Words {len(made.seen)}: {prompt[-60:-40]}</text>"
        yield made


def run(server: Server, folder: Path, monkeypatch_context: pytest.MonkeyPatch, **more: Any) -> peftbench.Run:
    monkeypatch_context.setenv("PEFTBENCH_CACHE", str(folder / "cache"))
    remote = {"method.prompt_search.writer": "remote", "method.prompt_search.url": server.url,
              "method.prompt_search.model": "m", "method.prompt_search.retries": 0}  # fmt: skip
    return peftbench.run(**{**BASE, **remote, "out_dir": str(folder / "out"), **more})


@pytest.fixture(scope="module")
def flow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, peftbench.Run]]:
    """One search, whose writer answers with a number, so that no two texts are equal."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        server.seen.clear()
        yield folder, run(server, folder, patch, **FLOW, **{"method.prompt_search.examples": 2})


def test_values_move_towards_gains_and_chances_are_their_softmax() -> None:
    """By hand: Q <- Q + 0.3 (r - Q); softmax(Q / T), T from 0.1 to 0.01 in five steps."""
    policy, q = Policy(True, 0.3, 0.1, 5), {"a": 0.0, "b": 0.0}
    for name, gain in (("a", 0.5), ("b", -0.25), ("a", 0.25), ("a", 0.0)):
        q[name] += 0.3 * (gain - q[name])
        assert policy.learn("task", name, gain) == pytest.approx(q[name])
    assert q["a"] == pytest.approx(0.126)
    for step, temperature in enumerate((0.1, 0.0775, 0.055, 0.0325, 0.01)):
        powers = [math.exp(q[name] / temperature) for name in "ab"]
        np.testing.assert_allclose(policy.chances("task", ["a", "b"], step), np.array(powers) / sum(powers))
    np.testing.assert_allclose(policy.chances("format", ["a", "b", "c"], 0), [1 / 3] * 3)
    uniform = Policy(False, 0.3, 0.1, 5)
    uniform.learn("task", "a", 1.0)
    np.testing.assert_allclose(uniform.chances("task", ["a", "b"], 0), [0.5, 0.5])


def test_two_prompts_are_compared_on_the_same_rows() -> None:
    """Of eight rows four are won and one is lost: p = 2 (C(5, 0) + C(5, 1)) / 2^5."""
    data = task_data("t", "s", 9)
    rows = data.test[:8]
    right = [str(row.target) for row in rows]
    old = [None, None, None, "sports" if right[3] != "sports" else "health", right[4], right[5], right[6], None]
    new = [*right[:4], None, right[5], right[6], None]
    found = compare(data, rows, old, new)
    assert (found.wins, found.losses) == (4, 1)
    assert found.p == pytest.approx(12 / 32)
    assert found.gain > 0
    back = compare(data, rows, new, old)
    assert (back.gain, back.wins, back.losses, back.p) == (-found.gain, 1, 4, found.p)
    same = compare(data, rows, old, old)
    assert (same.gain, same.wins, same.losses, same.p) == (0, 0, 0, 1)


def test_a_writers_text_is_found() -> None:
    assert text_in("So.\n<text> New\x00 words </text> Done") == "New words"
    assert text_in("<text>cut off") == "cut off"
    assert text_in("```text\nIn a fence\n```") == "In a fence"
    assert text_in(" bare ") == "bare"
    assert text_in("<text></text>") == ""


def test_a_line_that_was_cut_off_is_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "j" / "answers.jsonl"
    Journal(path).put("a", [1])
    with path.open("a") as file:
        file.write('\n["b", [2')
    assert Journal(path).get("b") is None
    Journal(path).put("c", [3])
    assert [Journal(path).get(key) for key in "ac"] == [[1], [3]]


def test_an_edit_touches_one_part_and_a_kept_one_is_better_on_dev(flow: tuple[Path, peftbench.Run]) -> None:
    tried = lines_of(flow[0])
    assert 1 < len(tried) <= STEPS + 1
    for line in tried[1:]:
        parent = tried[line["parent"]]
        assert line["parent"] == max(t["number"] for t in tried[: line["number"]] if t["kept"]), "the present one"
        changed = [name for name in line["sections"] if line["sections"][name] != parent["sections"][name]]
        changed += ["examples"] if line["examples"] != parent["examples"] else []
        assert changed == [line["section"]] or line["reason"] == "unchanged"
        if line["kept"]:
            assert line["dev"] > parent["dev"]
            assert line["batch"][1] > line["batch"][0]
    assert {line["section"] for line in tried[1:]} <= {"task", "labels", "format", "examples"}
    record = flow[1].record
    best = max(line["dev"] for line in tried if line["dev"] is not None)
    assert record.dev_score == pytest.approx(best)
    assert record.stages[0]["facts"]["tried"] == len(tried)


def test_the_values_in_the_file_follow_from_the_gains_in_it(flow: tuple[Path, peftbench.Run]) -> None:
    q: dict[tuple[str, str], float] = {}
    for line in lines_of(flow[0])[1:]:
        gain = 0.0 if line["batch"] is None else (line["batch"][1] - line["batch"][0]) / 100
        key = line["section"], line["operator"]
        q[key] = q.get(key, 0.0) + 0.3 * (gain - q.get(key, 0.0))
        assert line["q"] == pytest.approx(q[key])


def test_what_is_spent_is_counted_and_within_the_budget(server: Server, flow: tuple[Path, peftbench.Run]) -> None:
    compute, tried = flow[1].record.compute, lines_of(flow[0])
    assert compute["search_calls"] == compute["search_answers"] + compute["search_texts"] <= CALLS
    assert compute["search_texts"] == len(server.seen) == sum("example" not in t["operator"] for t in tried[1:])
    assert compute["search_tokens"] > 10 * compute["search_calls"]
    assert all("Change the part [" in one["messages"][0]["content"] for one in server.seen)
    assert len({one["seed"] for one in server.seen}) == len(server.seen)


def test_test_rows_are_asked_by_the_found_prompt_alone(flow: tuple[Path, peftbench.Run]) -> None:
    folder, found = flow
    tried = lines_of(folder)
    best = tried[found.record.stages[0]["facts"]["chosen"]]
    prompts = read_prompts(next(folder.glob("out/runs/*/prompts.jsonl.xz")))
    assert len(prompts) == ROWS
    head = "\n".join(text for text in best["sections"].values() if text)
    assert all(prompt.startswith(head) for prompt in prompts.values())
    assert all(prompt.count("answer:") == 1 + len(best["examples"]) for prompt in prompts.values())
    (kept,) = folder.glob("out/runs/*/prompt.yaml")
    assert prompt_set(str(kept)).prompts[0].instruction == head


def test_the_report_shows_all_that_were_tried(flow: tuple[Path, peftbench.Run]) -> None:
    tried = lines_of(flow[0])
    shown = shown_in_report(next(flow[0].glob("out/runs/*/candidates.jsonl")))
    assert [line[0] for line in shown] == [line["number"] for line in tried]
    assert shown[0][-1].startswith("[task] Read the input")
    assert shown_in_report(flow[0] / "absent.jsonl") == []


def test_a_search_that_was_cut_off_goes_on_and_finds_the_same(server, flow, tmp_path, monkeypatch) -> None:
    """The server refuses the third text; the same command, later, asks only for what is missing."""
    asked = len(server.seen)
    server.seen.clear()
    server.script = ["well", "well", "401"]
    more = {**FLOW, "method.prompt_search.examples": 2}
    with pytest.raises(peftbench.RunFailed):
        run(server, tmp_path, monkeypatch, **more)
    del server.seen[2:]  # so that the numbers in the replies go on
    done = run(server, tmp_path, monkeypatch, **more)
    assert len(server.seen) == asked
    first = [{k: v for k, v in line.items() if k != "tokens"} for line in lines_of(flow[0])]
    assert [{k: v for k, v in line.items() if k != "tokens"} for line in lines_of(tmp_path)] == first
    assert done.record.score == flow[1].record.score


def test_the_operator_that_changes_nothing_gains_nothing(server, tmp_path, monkeypatch) -> None:
    only = {"method.prompt_search.operators": ["identity"], "method.prompt_search.writer": "none"}
    made = run(server, tmp_path, monkeypatch, **{**FLOW, **only, "method.prompt_search.steps": 3})
    tried = lines_of(tmp_path)
    assert [line["batch"][1] - line["batch"][0] for line in tried[1:]] == [0, 0, 0]
    assert not any(line["kept"] for line in tried[1:])
    assert {line["q"] for line in tried[1:]} == {0.0}
    assert made.record.compute["search_texts"] == 0


def test_promptor_names_every_label_once_and_its_words_are_read_back(server, tmp_path, monkeypatch) -> None:
    def reply(prompt: str) -> str:
        return (
            "<text>news of sports and more</text>" if "`health`" in prompt else "<text>What the text is about.</text>"
        )

    monkeypatch.setattr(server, "reply", reply)
    chosen = {
        "method": "promptor",
        "method.prompt_search.examples": 1,
        "+method.prompt_search.definitions.sports": "of games and matches",
    }
    runs = [run(server, tmp_path / name, monkeypatch, **chosen) for name in ("a", "b")]
    (line,), (again,) = (lines_of(tmp_path / name) for name in ("a", "b"))
    assert line == again
    instruction = "\n".join(line["sections"].values())
    words = Writer(prompt_set("plain"), 0, load_task(compose(["task=demo_news"]).task, None)).words
    assert all(times(word, instruction) == 1 for word in words.values())
    assert "- sports: of games and matches" in instruction
    assert "- health\n" in instruction, "a definition that names another label is left out"
    assert [*line["sections"]] == ["role", "task", "constraints", "labels", "format", "failure"]
    assert all(LabelReader(words)(word) == label for label, word in words.items())
    assert any("left out the definition of `health`" in note for note in runs[0].record.notes)
    assert len(line["examples"]) == 1


def test_the_best_of_listed_prompts_is_chosen_on_dev(server, tmp_path, monkeypatch) -> None:
    made = run(server, tmp_path, monkeypatch, **{"method": "prompt_human", "method.prompt_search.writer": "none"})
    tried = lines_of(tmp_path)
    assert [line["form"] for line in tried] == [0, 1, 2, 3, 4]
    assert made.record.dev_score == max(line["dev"] for line in tried)
    assert made.record.compute["search_calls"] == 30
    loaded = peftbench.load_run(made.record.run_id, tmp_path / "out").predict(["the team won the match"])
    assert loaded[0].label in made.record.data["labels"]


@pytest.mark.peers
def test_gepa_searches_with_the_same_rows_writer_and_budget(server, tmp_path, monkeypatch) -> None:
    pytest.importorskip("gepa")
    server.seen.clear()
    made = run(server, tmp_path, monkeypatch, method="gepa", **{"method.prompt_search.calls": 60})
    tried, compute = lines_of(tmp_path), made.record.compute
    assert 50 < compute["search_calls"] <= 60
    assert compute["search_texts"] == len(server.seen)
    assert tried[0]["dev"] is not None
    assert {line["operator"] for line in tried[1:]} == {"gepa"}
    assert made.record.dev_score == max(line["dev"] for line in tried if line["dev"] is not None)
    assert {tuple(line["examples"]) for line in tried} == {()}


@pytest.mark.parametrize(("overrides", "message"), [
    (["method=promptflow", "shots=0"], r"shots=0: a prompt is chosen on labelled rows"),
    (["method=promptflow", "method.prompt_search.writer=none"], r"writer=none: by=promptflow needs somebody"),
    (["method=promptflow", "method.prompt_search.writer=remote"], r"method\.prompt_search\.url: is not set"),
    (["method=promptflow", "method.prompt_search.writer=minilm"], r"writer=minilm: a encoder model does not write"),
    (["method=promptflow", "method.prompt_search.operators=[rewrit]"], r"`rewrit` is no operator.*`rewrite`"),
    (["method=promptflow", "method.prompt_search.operators=[]"], r"operators: empty"),
    (["method=promptflow", "+method.prompt_search.sections.examples=x"], r"the part of that name are train rows"),
    (["method=promptflow", "method.formulation.calibration=prior"], r"calibration=prior: a prior belongs to one"),
    (["method=promptflow", "method/formulation=score"], r"only `prompted` has|finds written prompts"),
    (["method=promptflow", "model=tiny-t5"], r"writer=own: a seq2seq model"),
])  # fmt: skip
def test_what_cannot_be_searched_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose(["model=tiny-llama", "task=demo_news", *overrides])


def test_a_budget_that_scores_nothing_and_no_dev_rows_are_refused(server, tmp_path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"calls=3, tokens=None: not enough to score one prompt on 6 dev rows"):
        run(server, tmp_path, monkeypatch, **{**FLOW, "method.prompt_search.calls": 3})
    with pytest.raises(UsageError, match=r"has no dev rows"):
        run(server, tmp_path, monkeypatch, **{**FLOW, "protocol.dev": "none", "protocol.select": "last"})
