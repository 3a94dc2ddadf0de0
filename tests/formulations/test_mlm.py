"""Masked-LM training: which tokens are chosen, what the model is shown, and what the loss is."""

import math

import pytest
import torch
from made_up_configs import compose

from peftbench.build import build_learner
from peftbench.formulations.mlm import MlmFormulation
from peftbench.measure.clock import PhaseClock
from peftbench.tasks.base import DataSource, Row, TaskData

ROWS = [
    Row("train:0", "The team won the cup after a long night of penalties in the rain", "sports"),
    Row("train:1", "Parliament passed a long and much debated law on the price of water", "politics", "A second text."),
    Row("train:2", "Doctors", "politics"),
]
TASK = TaskData(
    name="toy", subset="", train=ROWS, dev=[], test=ROWS, labels=("politics", "sports"), label_words={},
    fields=("text", "pair"), problem="classification", main_metric="accuracy", metrics=("accuracy",),
    source=DataSource("packaged", "test"),
)  # fmt: skip


def masked_lm(model="tiny-bert", method="lora", share=0.15, train_head=False, max_length=64):
    overrides = [f"model={model}", f"method={method}", "method/formulation=cloze", f"trainer.max_length={max_length}"]
    cfg = compose(["shots=1", "method.formulation.template='{text} Topic: {mask}.'", *overrides])
    built, _ = build_learner(cfg, TASK, PhaseClock())
    mlm = MlmFormulation(built.backbone, TASK, max_length, cfg.method.formulation, share=share, train_head=train_head)
    return built, built.with_formulation(mlm)


def test_it_is_the_same_model_and_not_a_copy():
    built, mlm = masked_lm()
    assert mlm.model is built.model
    assert {id(p) for p in mlm.param_groups()["lora"]} == {id(p) for p in built.param_groups()["lora"]}


def test_the_number_of_chosen_tokens_is_the_share_and_is_the_weight():
    _, mlm = masked_lm(share=0.3)
    for item in mlm.encode(ROWS):
        words = [i for i in item.data["input_ids"] if i not in mlm.formulation.tokenizer.all_special_ids]
        assert item.weight == max(1, round(0.3 * len(words)))
        assert len(item.data["maskable"]) == len(words)


def test_a_long_text_is_cut_and_an_empty_one_has_no_weight():
    _, mlm = masked_lm(max_length=32)
    long, empty = mlm.encode([Row("a", "word " * 400, None), Row("b", "", None)])
    assert (long.length, long.cut) == (32, True)
    assert empty.weight == 0


def test_masks_follow_from_seed_step_and_item_alone():
    _, mlm = masked_lm()
    items = mlm.encode(ROWS)
    mlm.train()

    def shown(step, seed, order=(0, 1, 2)):
        mlm.begin_step(step, seed, items)
        batch = mlm.collate([items[i] for i in order])
        at = {id_: k for k, id_ in enumerate(batch["ids"])}
        return [batch["input_ids"][at[item.id]][: item.length].tolist() for item in items]

    first = shown(3, 1)
    assert shown(3, 1, order=(2, 0, 1)) == first
    assert shown(3, 1) == first
    assert shown(4, 1) != first
    assert shown(3, 2) != first


def test_outside_training_the_masks_stay_the_same():
    _, mlm = masked_lm()
    mlm.eval()
    items = mlm.encode(ROWS)
    before = mlm.collate(items)["input_ids"]
    mlm.begin_step(17, 5, items)
    assert torch.equal(mlm.collate(items)["input_ids"], before)


def test_eight_in_ten_are_hidden_one_is_random_and_one_is_kept():
    _, mlm = masked_lm(share=0.5)
    mlm.train()
    (item,) = mlm.encode([Row("x", "one two three four five six seven eight nine ten eleven twelve", None)])
    hidden = kept = total = 0
    for step in range(400):
        mlm.begin_step(step, 1, [item])
        shown, places = mlm.formulation.masked(item)
        assert len(places) == item.weight
        assert places == sorted(set(places))
        changed = [p for p in range(item.length) if shown[p] != item.data["input_ids"][p]]
        assert set(changed) <= set(places) <= set(item.data["maskable"])
        hidden += sum(shown[p] == mlm.formulation.mask_id for p in places)
        kept += sum(shown[p] == item.data["input_ids"][p] for p in places)
        total += len(places)
    assert hidden / total == pytest.approx(0.8, abs=0.03)
    assert kept / total == pytest.approx(0.1, abs=0.03)  # and one random token in two thousand


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-roberta"])
def test_the_label_word_is_always_hidden_if_asked(model):
    built, _ = masked_lm(model)
    encoder = built.formulation.encoder
    mlm = MlmFormulation(
        built.backbone,
        TASK,
        64,
        built.formulation.cfg,
        ids=lambda row: encoder.encode_word(row, "law and order"),
        always=True,
    ).train()
    short, long = mlm.encode([Row("a", "A short text", None), Row("b", "word " * 400, None)])
    assert long.length <= 64
    for item in (short, long):
        word = item.data["always"]
        assert mlm.tokenizer.decode([item.data["input_ids"][p] for p in word]).split() == ["law", "and", "order"]
        for mlm.step in range(5):
            shown, places = mlm.masked(item)
            assert len(places) == item.weight >= len(word)
            assert set(word) <= set(places)
            assert {shown[p] for p in word} == {mlm.mask_id}


@pytest.mark.parametrize(("model", "method"), [("tiny-bert", "lora"), ("tiny-roberta", "prompt_tuning")])
def test_the_loss_is_the_cross_entropy_over_the_vocabulary_at_the_chosen_places(model, method):
    _, mlm = masked_lm(model, method)
    mlm.eval()
    items = mlm.encode(ROWS)
    batch = mlm.collate(items)
    virtual = mlm.tuner.virtual_tokens
    with torch.no_grad():
        logits = mlm.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, virtual:]
        expected = 0.0
        for row, item in enumerate(items):
            for place in batch["places"][row].nonzero().flatten().tolist():
                expected -= logits[row, place].log_softmax(-1)[item.data["input_ids"][place]].item()
        assert mlm(batch).item() == pytest.approx(expected, rel=1e-4)
        assert batch["places"].sum() == sum(item.weight for item in items)
        predicted = mlm.predict(batch)
    assert sum(p.scores["loss"] for p in predicted) == pytest.approx(expected, rel=1e-4)
    assert [p.scores["tokens"] for p in predicted] == [item.weight for item in items]


def test_a_frozen_head_is_trained_only_if_asked():
    _, frozen = masked_lm()
    assert set(frozen.param_groups()) == {"lora"}
    _, freed = masked_lm(train_head=True)
    assert set(freed.param_groups()) == {"lora", "head"}
    items = freed.encode(ROWS)
    freed(freed.collate(items)).backward()
    assert all(math.isfinite(p.grad.abs().sum()) and p.grad.abs().sum() > 0 for p in freed.param_groups()["head"])
