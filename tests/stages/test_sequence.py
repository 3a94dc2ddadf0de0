"""Sequences of tasks: what is drawn, posed, trained and asked, measures, rounds, replay and resumption."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cut_off_runs import FAST, Killed, finish, killed_at
from made_up_configs import compose
from tiers import rest_slow

from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.inputs import InputCache, without_test_labels
from peftbench.measure.clock import PhaseClock
from peftbench.models import load_backbone
from peftbench.records.predictions import read_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.base import Context
from peftbench.stages.replay.memory import kept
from peftbench.stages.sequence.knowledge import Knowledge, margin
from peftbench.stages.sequence.measures import backward_transfer, forward_transfer, learned
from peftbench.stages.sequence.tasks import seed_of
from peftbench.training import loop
from peftbench.tuners.hft.tuner import HftTuner, draw_frozen

WORDS = {"good": "fine nice great lovely", "bad": "poor awful sad dull", "odd": "strange weird queer curious"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An entry of `task.of`: a task of our own with the label `sports` of demo_news, and three of its own."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    folder.mkdir()
    labels = {**WORDS, "sports": "ball match team race"}
    for split, text in (("train", "the {} thing"), ("test", "some {} day")):
        lines = [f"{text.format(word)},{label}" for label, words in labels.items() for word in words.split()]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    return f"{{task: file, path: {folder}}}"


def sequence(*entries: str) -> tuple[str, str]:
    return "task=sequence", f"task.of=[{','.join(entries)}]"


def answers(folder: Path, record: Record) -> list[Any]:
    return read_predictions(Store(folder).folder(record.run_id) / "predictions.jsonl")


def test_measures_of_a_matrix_worked_out_by_hand() -> None:
    """Rows: before, after A, after B, after C."""
    matrix = [[50, 40, 30], [90, 45, 20], [70, 80, 50], [60, 70, 95]]
    assert backward_transfer(matrix) == pytest.approx(((60 - 90) + (70 - 80)) / 2)
    assert forward_transfer(matrix) == pytest.approx(((45 - 40) + (50 - 30)) / 2)
    assert learned(matrix) == pytest.approx((90 + 80 + 95) / 3)
    with_heads = [[None, None], [90, None], [70, 80]]
    assert (backward_transfer(with_heads), forward_transfer(with_heads), learned(with_heads)) == (-20, None, 85)
    alone = [[None], [90]]
    assert (backward_transfer(alone), forward_transfer(alone), learned(alone)) == (None, None, 90)


def test_a_run_says_what_was_learned_and_forgotten(tmp_path: Path, colours: str) -> None:
    record, files = finish(tmp_path, *sequence("demo_news", colours), "method=full", "trainer.steps=6")
    names = ["demo_news", "file-colours"]
    assert (record.task, record.subset, record.metric) == ("sequence", "demo_news+file-colours", "op")
    facts, matrix = record.sequence, record.sequence["matrix"]
    assert (facts["tasks"], facts["heads"]) == (names, "own")
    last = [record.scores[f"{metric}_{name}"] for metric, name in zip(facts["metrics"], names, strict=True)]
    assert matrix[0] == [None, None]
    assert matrix[1][1] is None
    assert matrix[2] == last
    assert record.score == record.scores["op"] == pytest.approx(sum(last) / 2)
    assert record.scores["bwt"] == pytest.approx(matrix[2][0] - matrix[1][0])
    assert "fwt" not in record.scores
    parts = record.stages[0]["parts"]
    assert [part["name"] for part in parts] == ["1-demo_news", "2-file-colours"]
    assert record.compute["steps"] == 12 == sum(part["steps"] for part in parts)
    assert record.compute["tokens"] == sum(part["tokens"] for part in parts)
    assert record.curves["step"] == list(range(1, 13))
    assert record.stages[0]["seconds"]["eval"] > 0
    items = answers(tmp_path, record)
    assert {item.id.split(":")[1].split("/")[0] for item in items} == set(names)
    assert not any(name.startswith("stages/") for name in files)
    assert Record.from_dict(record.to_dict()).sequence == record.sequence


@pytest.mark.slow
def test_the_first_task_is_learned_as_if_it_were_the_only_one(tmp_path: Path, colours: str) -> None:
    """LoRA: what it draws at its start must not depend on the heads of later tasks."""
    alone, _ = finish(tmp_path, "task=demo_news", "method=lora")
    first, _ = finish(tmp_path, *sequence("demo_news", colours), "method=lora")
    assert first.sequence["matrix"][1][0] == alone.score
    own = [loss for loss, step in zip(first.curves["loss"], first.curves["step"], strict=True) if step <= 2]
    assert own == alone.curves["loss"]
    assert seed_of(1, 0) == 1 != seed_of(1, 1) != seed_of(1, 2)


def test_half_fine_tuning_draws_a_fresh_mask_in_every_task(tmp_path: Path, colours: str, monkeypatch) -> None:
    seen: list[tuple[list[str], list[str], dict[str, torch.Tensor]]] = []

    def note(tuner: HftTuner, model: Any, gradients: Any) -> None:
        drawn = draw_frozen(model, tuner.cfg, tuner.seed, len(seen))
        seen.append((list(tuner.frozen), drawn, {n: p.detach().clone() for n, p in model.named_parameters()}))

    monkeypatch.setattr(HftTuner, "before_training", note)
    finish(tmp_path, *sequence("demo_news", colours), "method=hft", "trainer.steps=4")
    (first, wanted, start), (second, wanted_then, then) = seen
    assert first == wanted
    assert second == wanted_then
    assert first != second
    held = {f"{m}.{p}" for m in first for p in ("weight", "bias")}
    moved = {name for name, tensor in start.items() if not torch.equal(tensor, then[name])}
    assert moved
    assert not moved & held, "what the first mask froze is as it was when the second task begins"


def test_only_the_present_tasks_head_is_trained(colours: str) -> None:
    cfg = compose([*FAST, *sequence("demo_news", colours), "method=full"])
    data, drawn, _ = InputCache().load(cfg)
    learner, _ = build_learner(cfg, data, PhaseClock(), drawn.train)
    posed = learner.formulation
    posed.learn(["file-colours"])
    heads = {name for name in learner.trainable_state() if name.startswith("formulation.")}
    assert heads == {f"formulation.parts.file-colours.classifier.{part}" for part in ("weight", "bias")}
    assert any("demo_news" in name for name in posed.kept_state()), "the other head is kept in checkpoints and files"
    items = learner.eval().encode([*drawn.train[:3], *drawn.train[-3:]])
    both, first, second = (learner(learner.collate(own)) for own in (items, items[:3], items[3:]))
    assert torch.allclose(both, first + second), "a batch of two tasks costs what they cost apart"
    both.backward()
    assert posed.parts["demo_news"].classifier.weight.grad is None
    found = learner.predict(learner.collate([*items[3:], *items[:3]]))
    assert [a.id for a in found] == [i.id for i in (*items[3:], *items[:3])]
    assert set(found[0].scores) == {*WORDS, "sports"} != set(found[-1].scores)


@pytest.mark.slow
def test_a_shared_head_has_the_labels_of_all_tasks(tmp_path: Path, colours: str) -> None:
    record, _ = finish(tmp_path, *sequence("demo_news", colours), "task.heads=shared", "method=lora")
    assert record.sequence["heads"] == "shared"
    assert all(score is not None for row in record.sequence["matrix"] for score in row)
    assert "fwt" in record.scores
    items = answers(tmp_path, record)
    assert {*WORDS, "sports", "politics"} < set(items[0].scores), "none is ruled out"


def test_replay_trains_on_what_is_kept_of_the_tasks_before(tmp_path: Path, colours: str, monkeypatch) -> None:
    trained: list[list[str]] = []
    real = loop._Engine.__init__

    def note(engine: Any, learner: Any, items: Any, *args: Any, **more: Any) -> None:
        trained.append([item.id for item in items])
        real(engine, learner, items, *args, **more)

    monkeypatch.setattr(loop._Engine, "__init__", note)
    cfg = compose([*FAST, *sequence("demo_news", colours), "method=replay", "method.replay.memory=0.4"])
    drawn = InputCache().load(cfg).draw
    first, second = (own.train for own in drawn.tasks.values())
    record, _ = finish(tmp_path, *sequence("demo_news", colours), "method=replay", "method.replay.memory=0.4")
    old = kept(first, 0.4, drawn.data_seed, 0)
    assert len(old) == math.ceil(0.4 * len(first))
    assert {row.id for row in old} < {row.id for row in first}
    assert trained == [[row.id for row in first], [row.id for row in (*second, *old)]]
    said = f"{len(old)} of {len(second) + len(old)} train rows are of earlier tasks (replay)"
    assert f"file-colours: {said}" in record.notes


@pytest.mark.parametrize("method", ["hft", pytest.param("replay", marks=pytest.mark.slow)])
def test_killed_in_the_second_task_and_resumed_equals_uninterrupted(
    tmp_path: Path, colours: str, method: str, monkeypatch
) -> None:
    own = (*sequence("demo_news", colours), f"method={method}", "trainer.steps=4", "trainer.checkpoint_every=2")
    whole, files = finish(tmp_path / "whole", *own)
    with pytest.raises(Killed), killed_at(monkeypatch, "2-file-colours", 3):
        finish(tmp_path / "cut", *own)
    trainings: list[str] = []
    real = loop._Engine.step
    monkeypatch.setattr(loop._Engine, "step", lambda engine, at: (trainings.append(at), real(engine, at))[1])
    again, resumed = finish(tmp_path / "cut", *own)
    assert trainings == [2, 3], "it goes on in the task it was in"
    assert again.sequence == whole.sequence
    assert again.scores == whole.scores
    assert again.curves["loss"] == whole.curves["loss"]
    assert again.compute["attempts"] == 2
    assert again.compute["tokens"] == whole.compute["tokens"]
    names = [name for name in files if name.endswith((".safetensors", ".jsonl"))]
    assert len(names) >= 3
    assert all(resumed[name] == files[name] for name in names)


@pytest.mark.slow
def test_a_model_that_answers_in_words_is_asked_before_it_learns(tmp_path: Path, colours: str) -> None:
    own = ("model=tiny-llama", "method=lora", "method/formulation=score", "trainer.max_length=64")
    record, _ = finish(tmp_path, *sequence("demo_news", colours), *own)
    assert record.sequence["heads"] == "none"
    assert "fwt" in record.scores
    assert all(score is not None for row in record.sequence["matrix"] for score in row)
    items = answers(tmp_path, record)
    assert set(items[-1].scores) == {*WORDS, "sports"}, "a task's rows are answered with its own labels"
    with pytest.raises(UsageError, match=r"task\.heads=shared: a model that answers in words has no head"):
        run(compose([*FAST, *sequence("demo_news", colours), *own, "task.heads=shared", f"out_dir={tmp_path}"]))


def test_order_tasks_draws_and_options_are_in_the_name(colours: str) -> None:
    def name(*overrides: str) -> str:
        return InputCache().run_id(compose([*FAST, "method=lora", *overrides]))

    plain = name(*sequence("demo_news", colours))
    others = [
        name(*sequence(colours, "demo_news")),
        name(*sequence("demo_news")),
        name(*sequence("demo_news", colours), "data_seed=7"),
        name(*sequence("demo_news", colours), "task.heads=shared"),
        name(*sequence("demo_news", colours), "protocol.test_rows=5"),
        name(*sequence("{task: demo_news, lowercase: plain}", colours)),
    ]
    assert len({plain, *others}) == 7
    assert plain == name(*sequence("demo_news", colours.replace("{task", "{ task")), "trainer.progress=true")


def test_a_text_of_one_tasks_test_is_not_trained_on_in_another(colours: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    rows = "text,label\nsome fine day,good\nSome  nice day,good\nthe great one,good\nall sad,bad\nso dull,bad\n"
    (other / "train.csv").write_text(rows, "utf-8")
    (other / "test.csv").write_text("text,label\nnothing good,good\nnothing bad,bad\n", "utf-8")
    cfg = compose(
        [*FAST, *sequence(colours, f"{{task: file, path: {other}}}"), "shots=full", "protocol=full", "method=lora"]
    )
    data, drawn, _ = InputCache().load(cfg)
    assert {row.text for row in drawn.tasks["file-other"].train} == {"the great one", "all sad", "so dull"}
    assert any(
        "2 train and dev rows left out, whose texts stand in the test set of another task" in n for n in drawn.notes
    )
    assert drawn.to_dict()["tasks"]["file-other"]["rows"]["test"] == 2
    bare_data, bare = without_test_labels(data, drawn)
    for rows in (bare.test, bare.tasks["file-other"].test, bare_data.tasks["file-other"].test):
        assert all(row.target is None for row in rows)


REFUSED = {
    "task.of=[sst]": r"task\.of: sst: .*Did you mean `sst5`",
    "task.of=[masakhanews/hou]": r"task\.of: masakhanews/hou: no such subset\. Did you mean",
    "task.of=[{task:sst2,langx:3}]": r"task\.of: sst2: task\.langx: no such key",
    "task.of=[demo_news,demo_news]": r"task\.of: demo_news stands there already",
    "task.of=[sequence]": r"task\.of: sequence: task\.of: give the tasks",
    "": r"task\.of: give the tasks in their order",
    "task.of=[stsb] task.heads=shared": r"stsb is a regression task, and one head is for classes",
    "task.of=[demo_news] method=pet": r"method=pet has the stage `ensemble`",
    "task.of=[demo_news] method=tfidf_lr": r"method=tfidf_lr has the stage `classical`",
    "task.of=[demo_news] method=zero_shot": r"method=zero_shot has the stage `none`",
    "task.of=[demo_news] +method/trick=ema": r"method\.trick\.ema: is made for a single task",
    "task.of=[demo_news] shots=0": r"shots=0 leaves nothing to learn from",
}


@pytest.mark.parametrize("overrides", rest_slow(REFUSED, list(REFUSED)[1::3]))
def test_what_makes_no_sense_is_refused_when_composed(overrides: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[overrides]):
        compose(["method=lora", "task=sequence", *overrides.split()])


LINES = [
    "the quick brown fox",
    "some neutral words that nobody taught",
    "one more line of text",
    "the last one is here",
]


def knowing(folder: Path, colours: str, *overrides: str) -> Record:
    (folder / "neutral.txt").write_text("\n\n".join(LINES) + "\n", "utf-8")
    own = (f"task.knowledge={folder / 'neutral.txt'}", "trainer.max_length=48", *overrides)
    return finish(folder, *sequence("demo_news", colours), *own)[0]


def bare_losses(model: str) -> list[tuple[float, int]]:
    """Of each line of a causal model, with nothing of ours but the loading: the token behind a place is its target."""
    backbone = load_backbone(compose([f"model={model}"]).model, "lm")
    found = []
    for line in LINES:
        ids = backbone.tokenizer(line, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = backbone.model(input_ids=ids).logits[0].double().log_softmax(-1)
        found.append((-sum(float(logits[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1)), ids.shape[1] - 1))
    return found


def test_what_a_causal_model_still_knows(tmp_path: Path, colours: str) -> None:
    own = ("model=tiny-llama", "method=full", "method/formulation=score")
    record = knowing(tmp_path, colours, *own)
    facts, bare = record.sequence["knowledge"], bare_losses("tiny-llama")
    count = sum(tokens for _, tokens in bare)
    assert (facts["texts"], facts["tokens"]) == (len(LINES), count)
    assert facts["loss"][0] == pytest.approx(sum(loss for loss, _ in bare) / count, rel=1e-5)
    assert facts["change"] == pytest.approx([loss - facts["loss"][0] for loss in facts["loss"]])
    assert len(facts["loss"]) == 3
    assert facts["margin"][0] == 0
    assert facts["change"][1] != 0 != facts["change"][2]
    assert record.scores["knowledge"] == pytest.approx(100 * math.expm1(facts["change"][2]))
    assert record.sequence["matrix"][1][0] is not None
    assert len(record.sequence["matrix"]) == 3


@pytest.mark.parametrize("model", ["tiny-bert", pytest.param("tiny-llama", marks=pytest.mark.slow)])
def test_a_stack_without_its_own_head_is_read_through_the_pretrained_one(
    model: str, colours: str, tmp_path: Path
) -> None:
    (tmp_path / "neutral.txt").write_text("\n".join(LINES), "utf-8")
    more = (f"model={model}", "method=full", "method/formulation=head", f"task.knowledge={tmp_path / 'neutral.txt'}")
    cfg = compose([*FAST, *sequence("demo_news", colours), *more])
    data, drawn, _ = InputCache().load(cfg)
    clock = PhaseClock()
    learner, _ = build_learner(cfg, data, clock, drawn.train)
    dist = SimpleNamespace(device=torch.device("cpu"))
    knowledge = Knowledge(Context(cfg, data, drawn, clock, None, tmp_path, dist=dist), learner)
    bare = load_backbone(cfg.model, {"tiny-bert": "mlm"}.get(model, "lm")).model
    learner.backbone.model.load_state_dict(bare.base_model.state_dict(), strict=False)
    before = knowledge.of_the_bare_model()
    assert knowledge.now().sums == pytest.approx(before.sums, rel=1e-5), "untrained, it knows what the bare one knows"
    with torch.no_grad():
        next(
            p
            for n, p in learner.model.named_parameters()
            if n.endswith("0.self_attn.o_proj.weight") or "layer.0.output.dense.weight" in n
        ).mul_(3)
    assert knowledge.now().sums != before.sums


def test_the_margin_is_that_of_a_ratio_of_sums() -> None:
    """Against a bootstrap over texts."""
    random = np.random.RandomState(0)
    tokens = random.randint(5, 60, size=300)
    sums = tokens * 0.2 + random.randn(300) * np.sqrt(tokens)
    chosen = random.randint(0, 300, size=(4000, 300))
    means = sums[chosen].sum(1) / tokens[chosen].sum(1)
    assert margin(list(sums), list(tokens)) == pytest.approx(1.96 * means.std(), rel=0.05)
    assert margin([1.0], [3]) is None


@pytest.mark.slow
def test_a_model_without_a_language_model_loss_is_refused_before_it_trains(tmp_path: Path, colours: str) -> None:
    with pytest.raises(UsageError, match=r"task\.knowledge: model=tiny-t5 is an encoder-decoder"):
        knowing(tmp_path, colours, "model=tiny-t5", "method=lora")
    assert not list(tmp_path.glob("runs/*"))
    with pytest.raises(UsageError, match=r"task\.knowledge=nowhere\.txt: no such file"):
        InputCache().load(compose([*FAST, *sequence("demo_news"), "method=lora", "task.knowledge=nowhere.txt"]))
