"""A remote model, tried on a local server that answers slowly, wrongly, not at all, or cuts the connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from local_server import Server, serving
from waiting import until

import peftbench
from peftbench.errors import UsageError
from peftbench.formulations.reading import LabelReader
from peftbench.models import remote
from peftbench.models.remote import HttpModel, RemoteError

KEY = "sk-secret-of-the-test"


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Server]:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PEFTBENCH_API_KEY", KEY)
    with serving() as made:
        yield made


def model(server: Server, **changes: Any) -> HttpModel:
    return HttpModel(server.url, {"model": "m"}, **{"timeout": 60.0, "retries": 3, "wait": 0.01, **changes})


@pytest.mark.parametrize("trouble", ["slow", "wrong", "garbage", "cut", "429", "500", "503"])
def test_what_may_pass_is_asked_again(server, trouble, monkeypatch):
    server.script = [trouble, trouble]
    asked = model(server, timeout=0.2 if trouble == "slow" else 60.0)

    def between_attempts(_: float) -> None:
        waits.append(1)
        until(lambda: len(server.keys) == len(waits))  # a server that is slow to look gets each request all the same
        if len(waits) == 2:
            object.__setattr__(asked, "timeout", 60.0)  # the third is answered, and soon is not promised

    waits: list[int] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=between_attempts))
    answer = asked.complete("What is it?")
    assert (answer.text, answer.retries, answer.cached) == ("Category: Sports.", 2, False)
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, 3)
    assert [request["path"] for request in server.seen] == ["/v1/chat/completions"] * 3
    assert server.seen[0]["messages"] == [{"role": "user", "content": "What is it?"}]
    assert server.keys == [f"Bearer {KEY}"] * 3


def test_the_wait_is_the_servers_or_doubles(server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=waits.append))
    server.script = ["429", "wrong", "wrong", "wrong"]
    with pytest.raises(RemoteError, match=r"no answer after 4 attempts; the last: ValueError"):
        model(server, wait=40.0).complete("x")
    assert waits == [0.0, 60.0, 60.0], "Retry-After; 40 x 2, 40 x 4, a minute at most"


@pytest.mark.parametrize(("trouble", "way"), [("401", "key"), ("404", "chat/completions"), ("400", "status 400"),
                                              ("elsewhere", "status 302")])  # fmt: skip
def test_what_will_not_pass_ends_it_at_once(server, trouble, way):
    server.script = [trouble]
    with pytest.raises(RemoteError, match=way) as error:
        model(server).complete("x")
    assert len(server.seen) == 1
    assert KEY not in str(error.value)


def test_a_repeat_costs_nothing_and_another_question_does(server):
    first, again = model(server).complete("x"), model(server).complete("x")
    assert not first.cached
    assert again.cached
    assert again.text == first.text
    HttpModel(server.url, {"model": "other"}).complete("x")
    model(server).complete("y")
    assert len(server.seen) == 3


def test_free_answers_are_read_by_the_first_label_named():
    read = LabelReader({"sports": "sports", "politics": "politics", "us": "us politics"})
    assert [read(t) for t in ("Sports.", " category: sports", "SPORTS", "It is US Politics, I think")] == [
        "sports", "sports", "sports", "us"]  # fmt: skip
    assert [read(t) for t in ("sport", "", "esports are played")] == [None, None, None]
    assert read.several == 0
    assert read("politics, not sports") == "politics"
    assert read.several == 1


RUN = {"task": "demo_news", "method": "remote", "shots": 2, "trainer.progress": False, "method.remote.model": "m"}
RUN |= {"method.remote.wait": 0.01, "method.remote.retries": 1, "method.remote.timeout": 60.0}


def run(server: Server, folder: Any, **more: Any) -> Any:
    return peftbench.run(**{**RUN, "method.remote.url": server.url, "out_dir": str(folder), **more})


def test_a_run_counts_what_it_costs_and_keeps_no_key(server, tmp_path):
    server.script = ["500"]
    record = run(server, tmp_path / "a", **{"method.remote.parallel": 4}).record
    assert record.status == "done"
    assert record.predictions["invalid"] == 0
    assert record.predictions["prompts"]["count"] == 105
    costs = {name: value for name, value in record.compute.items() if name.startswith("remote_")}
    assert costs == {"remote_calls": 106, "remote_retries": 1, "remote_cached": 0, "remote_prompt_tokens": 1155,
                     "remote_completion_tokens": 315}  # fmt: skip
    assert server.seen[0]["messages"][0]["content"].count("answer:") == 3, "shots=2: two demonstrations"
    again = run(server, tmp_path / "b").record
    assert again.compute["remote_calls"] == 0
    assert again.compute["remote_cached"] == 105
    assert again.score == record.score
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_server_that_is_down_makes_a_failed_record(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(peftbench.RunFailed, match=r"no answer after 2 attempts; the last: URLError") as error:
        run(server, tmp_path, shots=0)
    assert error.value.record.status == "failed"


@pytest.mark.parametrize(("more", "message"), [
    ({"method.remote.url": None}, r"method.remote.url: is not set.*off until"),
    ({"method.remote.model": None}, r"method.remote.model: is not set"),
    ({"method.remote.url": "http://me:secret@host/v1"}, "without user, password"),
    ({"method.formulation.prompts": "{prompts: [{example: '{text} {answer}'}], words: {sports: S}}"},
     "no word for the label `business`"),
])  # fmt: skip
def test_it_is_off_until_a_server_is_named(server, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        run(server, tmp_path, **more)
    assert not server.seen


def write_questions(folder: Any) -> str:
    home = folder / "more/commonsense/protoqa"
    home.mkdir(parents=True)
    (home / "finetune_train.txt").write_text(
        "one pet is\tdog.\none pet is\tcat.\none toy is\tball.\n", encoding="utf-8"
    )
    clusters = {"0": {"count": 8, "answers": ["saw"]}, "1": {"count": 2, "answers": ["axe"]}}
    asked = {"original": "Name a tool.", "normalized": "name a tool."}
    row = {"question": asked, "answers": {"clusters": clusters}}
    (home / "dev.crowdsourced.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(folder)


RANKED = {"task": "protoqa", "protocol.dev": "none", "method.remote.max_tokens": 100}


def test_rankings_are_written_in_demonstrations_and_read(server, tmp_path):
    server.reply = "Sure:\n1. saw\n2. hammer\n3. axe"
    record = run(server, tmp_path, **RANKED, data_dir=write_questions(tmp_path / "data")).record
    assert record.scores["max_answer_3"] == 100
    assert record.scores["max_incorrect_1"] == 80
    (request,) = server.seen
    prompt = request["messages"][0]["content"]
    assert "one pet is\nanswer: 1. dog\n2. cat" in prompt
    assert prompt.endswith("question: one tool is\nanswer:")


def test_samples_are_asked_with_seeds_of_their_own_and_pooled(server, tmp_path):
    server.reply = "axe."
    more = {"method.formulation.answers": "paper", "method.formulation.samples": 3, "method.remote.temperature": 0.7,
            "method.remote.max_tokens": 8}  # fmt: skip
    made = run(server, tmp_path, **RANKED | more, data_dir=write_questions(tmp_path / "data"))
    assert [request["seed"] for request in server.seen] == [1, 2, 3]
    assert made.record.scores["max_answer_1"] == 25
    assert any("answers had 8 tokens" in note for note in made.record.notes)
    assert made.record.compute["remote_calls"] == 3


def test_tuples_and_invalid_answers(server, tmp_path):
    folder = tmp_path / "data/absa/aste/rest15"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        line = f"{split} good food####[([2], [1], 'POS')]\n"
        (folder / f"{split}_triplets.txt").write_text(line, encoding="utf-8")
    task = {"task": "absa", "task.subtask": "aste", "task.domain": "rest15", "protocol.dev": "none", "shots": 1}
    server.reply = 'They are [["food", "good", "positive"]].'
    record = run(server, tmp_path / "a", **task, data_dir=str(tmp_path / "data")).record
    assert record.scores["f1_tuples"] == 100
    server.reply = "I cannot say."
    server.seen.clear()
    record = run(server, tmp_path / "b", **task, data_dir=str(tmp_path / "data"), **{"method.remote.model": "n"}).record
    assert record.predictions["invalid"] == 1
    assert '[["food", "good", "positive"]]' in server.seen[0]["messages"][0]["content"]


@pytest.mark.parametrize(("more", "message"), [
    ({"method.formulation.samples": 3}, "at method.remote.temperature=0 a server gives the same"),
    ({"method.formulation.answers": "digits"}, "answers targets are not written so"),
])  # fmt: skip
def test_what_a_server_cannot_answer_is_refused(server, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        run(server, tmp_path, **RANKED | more, data_dir=write_questions(tmp_path / "data"))
    assert not server.seen
