"""Possibility exploration: what a row is trained on, the loss against plain NumPy, several answers, their diversity."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_configs import compose

import peftbench
from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.formulations.diversity import semantic_closeness, semantic_diversity
from peftbench.formulations.possibilities.formulation import content_words
from peftbench.measure.clock import PhaseClock
from peftbench.records.predictions import read_predictions
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.dialogues import spoken
from peftbench.tasks.stop_words import STOP_WORDS

REPLIES = ("I like green tea.", "It rains, again!", "we sleep late", "Nobody came to the 2nd show", "fifth")
ROWS = [
    Row(f"train:{n}", f"Person A: What about {word}?", tuple((1, (reply,)) for reply in REPLIES))
    for n, word in enumerate(("tea", "rain and snow"))
]
TASK = TaskData("dialogues", "", ROWS, (), ROWS, (), {}, ("conversation",), "answers", "f1_closest", ("f1_closest",),
                DataSource("packaged", ""))  # fmt: skip


LORA = ("method=possibility_exploration", "method.tuner.dropout=0")


def learner(*overrides, method=LORA):
    cfg = compose([*method, "model=tiny-llama", "shots=2", "trainer.max_length=300", *overrides])
    built, _ = build_learner(cfg, TASK, PhaseClock())
    return built.eval()


@pytest.fixture(scope="module")
def net():
    return learner()


def says(net, ids) -> str:
    return net.formulation.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_row_is_four_right_pairs_and_twelve_wrong_ones(net):
    net.begin_step(3, 1, [])
    made = net.formulation.sequences(net.encode(ROWS)[0])
    assert made.positive == [True] * 4 + [False] * 12
    numbers = [says(net, prompt).rpartition("#")[2].partition(".")[0].replace(" ", "") for prompt in made.prompts]
    answers = [says(net, ids) for ids in made.answers]
    right = dict(zip(numbers[:4], answers[:4], strict=True))
    assert len(right) == 4, "each answer has a number of its own"
    assert all(1 <= int(n) <= 9 for n in right)
    wrong = list(zip(numbers[4:], answers[4:], strict=True))
    assert len(set(wrong)) == 12
    assert all(right[number] != answer for number, answer in wrong)


def test_numbers_are_drawn_anew_in_every_step_and_follow_from_it(net):
    item = net.encode(ROWS)[0]

    def drawn(step, seed=1):
        net.begin_step(step, seed, [])
        return net.formulation.sequences(item).prompts[:4]

    assert drawn(0) == drawn(0)
    assert any(drawn(step) != drawn(0) for step in (1, 2, 3))
    assert any(drawn(0, seed) != drawn(0) for seed in (2, 3, 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I like green tea.", ["like", "green", "tea"]),
        ("It rains, again!", ["rains"]),
        ("Nobody came to the 2nd show", ["Nobody", "came", "2nd", "show"]),
        ("\"(Yes)\" -- don't ... I'm off", ["Yes", "I"]),
        ("we were the", []),
    ],
)
def test_content_words(text, words):
    starts = list(content_words(text))
    assert [text[start:].split()[0][: len(word)] for start, word in zip(starts, words, strict=True)] == words


def test_only_first_tokens_of_content_words_are_made_unlikely(net):
    form = net.formulation
    for text in REPLIES:
        ids, content = form._answer(text)
        whole = form.space + text
        spans = form.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        first = {ids[next(n for n, (_, end) in enumerate(spans) if end > start)] for start in content_words(whole)}
        assert content == [*(i in first for i in ids[:-1]), False]
    assert not {"i", "the", "don't"} - STOP_WORDS
    assert len(STOP_WORDS) == 179


@pytest.mark.parametrize("overrides", [(), ("method.formulation.unlikelihood=2",), ("method.formulation.negatives=5",)])
def test_the_loss_is_the_papers(overrides):
    """Golden: from the logits alone, in NumPy, item by item and sequence by sequence."""
    net = learner(*overrides)
    net.begin_step(5, 7, [])
    items = net.encode(ROWS)
    cfg = net.formulation.cfg
    expected = 0.0
    for item in items:
        made = net.formulation.sequences(item)
        likely, unlikely = [], []
        for prompt, answer, positive in zip(made.prompts, made.answers, made.positive, strict=True):
            with torch.no_grad():
                logits = net.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double().numpy()
            given = logits[len(prompt) - 1 : -1]
            p = np.exp(given - given.max(-1, keepdims=True))
            p = (p / p.sum(-1, keepdims=True))[np.arange(len(answer)), answer]
            if positive:
                likely += (-np.log(p)).tolist()
                continue
            text = next(r for r in REPLIES if net.formulation._answer(r)[0] == answer)
            content = net.formulation._answer(text)[1]
            unlikely += [-np.log(max(1 - p[n], 1e-6)) for n in range(len(answer) - 2) if content[n]]
        expected += np.mean(likely) + cfg.unlikelihood * np.mean(unlikely)
    assert len(made.prompts) == 4 + min(cfg.negatives, 12)
    assert net(net.collate(items)).item() == pytest.approx(expected, rel=1e-5)
    alone = sum(net(net.collate([item])).item() for item in items)
    assert alone == pytest.approx(expected, rel=1e-5)


def test_without_numbers_it_is_one_to_many():
    net = learner("method.formulation.numbers=0")
    item = net.encode(ROWS)[0]
    made = net.formulation.sequences(item)
    assert made.positive == [True] * 4
    assert len({tuple(prompt) for prompt in made.prompts}) == 1
    assert "possibilit" not in says(net, made.prompts[0])
    tokens = [(prompt, ids) for prompt, ids in zip(made.prompts, made.answers, strict=True)]
    batch = net.formulation.teacher_batch(*map(list, zip(*tokens, strict=True)))
    plain = net.formulation.token_losses(net.model, batch).sum() / sum(len(ids) for _, ids in tokens)
    assert net(net.collate([item])).item() == pytest.approx(plain.item(), rel=1e-5)


def test_a_row_gets_five_answers_that_do_not_depend_on_the_batch(net):
    items = net.encode([replace(row, target=None) for row in ROWS])
    together = net.predict(net.collate(items))
    for item, found in zip(items, together, strict=True):
        assert len(json.loads(found.answer)) == 5
        assert net.predict(net.collate([item])) == [found]
    assert "lm_input_ids" not in net.collate(items)
    greedy = learner(
        "method.formulation.numbers=0", "method.formulation.sample=false", "method.formulation.responses=2"
    )
    (found,) = greedy.predict(greedy.collate(greedy.encode(ROWS[:1])))
    assert len(set(json.loads(found.answer))) == 1, "one prompt, nothing drawn"


@pytest.mark.slow
def test_after_training_a_number_means_its_answer():
    """Of one conversation with the numbers of one step, over and over: its own answer is likelier behind a number than
    the others are, by more than without unlikelihood."""
    margins = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        full = ("method=full", "method/formulation=possibilities")
        net = learner(f"method.formulation.unlikelihood={weight}", method=full)
        net.begin_step(0, 1, [])
        item = net.encode(ROWS)[0]
        optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(25):
            optimiser.zero_grad()
            net(net.collate([item])).backward()
            optimiser.step()
        margins[weight] = margin(net, item)
    assert margins[0.5] > 0
    assert margins[0.5] > margins[0.0]


@torch.no_grad()
def margin(net, item) -> float:
    """Mean of log p(y_i | #k_i) - log p(y_i | #k_j), in tokens."""
    form = net.formulation
    right = form.sequences(item)
    prompts, answers = right.prompts[:4], right.answers[:4]
    pairs = [(i, j) for i in range(4) for j in range(4)]
    batch = form.teacher_batch([prompts[i] for i, _ in pairs], [answers[j] for _, j in pairs])
    losses = form.token_losses(net.model, batch).sum(1).reshape(4, 4)  # number, answer
    own = losses.diagonal()
    return float(((losses - own) / torch.tensor([len(a) for a in answers])).sum() / 12)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["method.formulation.numbers=3"], "numbers=3: each of 4 answers takes a number of its own"),
        (["method.formulation.responses=12"], "each of 12 answers"),
        (["method.formulation.ask_numbered=Another"], "has to have the place {number} once"),
        (["method.formulation.samples=3"], "method.formulation.responses says how many"),
        (["model=tiny-t5"], "does not fit a seq2seq backbone"),
    ],
)
def test_mistakes_are_refused_when_a_config_is_made(keys, told):
    with pytest.raises(UsageError, match=told):
        learner(*keys)


def test_another_kind_of_task_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not fit a task with classification targets"):
        peftbench.run(
            "task=demo_news", "shots=2", method="possibility_exploration", model="tiny-llama", out_dir=tmp_path
        )


def write(folder, *bad):
    home = folder / "more/dialogue/possibility_exploration"
    home.mkdir(parents=True)
    for name, count in {"train_dialogs_1k": 4, "test_dialogs": 2}.items():
        records = [*bad, *({"context": f"Hi!\nHow is {name} {n}?", "candidates": list(REPLIES)} for n in range(count))]
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder


def test_a_run_gives_several_answers_and_scores_them(tmp_path):
    run = peftbench.run(
        "task=dialogues", f"data_dir={write(tmp_path / 'data')}", "shots=2", "trainer.steps=2", "trainer.batch_size=1",
        "trainer.max_length=200", "method.formulation.answer_tokens=4", "protocol.dev=none", "tracking.wandb=disabled",
        method="possibility_exploration", model="tiny-llama", out_dir=tmp_path / "out",
    )  # fmt: skip
    assert run.record.scores.keys() == {"f1_closest", "distinct_1", "distinct_2", "distinct_answers"}
    stored = read_predictions(run.folder / "predictions.jsonl")
    assert all(len(json.loads(item.answer)) == 5 for item in stored)
    again = run.predict([f"Person B: Hi!\nPerson A: How is test_dialogs {n}?" for n in range(2)])
    assert len(again) == 2


@pytest.mark.parametrize("bad", [{"context": " ", "candidates": ["x"]}, {"context": "x", "candidates": []}])
def test_bad_dialogues_are_named_by_line(tmp_path, bad):
    with pytest.raises(UsageError, match="line 1: a `context` with turns"):
        peftbench.run(
            "task=dialogues",
            f"data_dir={write(tmp_path / 'data', bad)}",
            "shots=2",
            method="possibility_exploration",
            model="tiny-llama",
            out_dir=tmp_path / "out",
        )


def test_the_last_turn_is_person_as_and_long_conversations_lose_their_beginning():
    turns = ["one two three", "four five", "six"]
    assert spoken(turns, 300) == "Person A: one two three\nPerson B: four five\nPerson A: six"
    assert spoken(turns, 10) == "Person B: four five\nPerson A: six", "9 words and colons"
    assert spoken(turns, 1) == "Person A: six"


def test_semantic_measures_by_hand():
    """Three texts at right angles but for two that are alike."""
    at = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8], "d": [1.0, 0.0]}

    def vectors(texts):
        return np.array([at[text] for text in texts])

    diversity = semantic_diversity([None] * 4, [("a", "b"), ("a", "c", "d"), ("a",), None], vectors)
    assert diversity == pytest.approx(1 - np.mean([0, 0.6, 1, 0.6]))
    assert semantic_diversity([None], [None], vectors) == 0
    targets = [((1, ("a", "b")),), ((1, ("c",)),)]
    assert semantic_closeness(targets, [("c", "d"), None], vectors) == pytest.approx(np.mean([0.8, 1, 0]))
