"""Token classification on tiny random encoders: which token stands for a word, and words out of sight."""

from __future__ import annotations

import pytest
import torch

from peftbench.build import build_learner
from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.measure.clock import PhaseClock
from peftbench.tasks.base import DataSource, Row, TaskData

ROWS = [
    Row("test:0", "Musa went to Kano", ("B-PER", "O", "O", "B-LOC")),
    Row("test:1", "Parliament unbelievably congratulated Abuja 's streets .", ("O", "O", "O", "B-LOC", "O", "O", "O")),
    Row("test:2", "rain", ("O",)),
]  # fmt: skip


def task() -> TaskData:
    return TaskData(
        "toy", "", ROWS, (), ROWS, ("PER", "LOC"), {}, ("text",), "tags", "f1_entities", ("f1_entities",),
        DataSource("packaged", "test"),
    )  # fmt: skip


def learner(*overrides):
    cfg = compose(["shots=4", "trainer.max_length=40", *overrides])
    built, _ = build_learner(cfg, task(), PhaseClock())
    for group in built.param_groups().values():
        for parameter in group:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return built.eval()


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-roberta"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_loss_and_tags_do_not_depend_on_the_batch_nor_on_virtual_tokens(model, method):
    net = learner(f"model={model}", f"method={method}")
    items = net.encode(ROWS)
    whole = net(net.collate(items))
    alone = sum(net(net.collate([item])) for item in items)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
    together = net.predict(net.collate(items))
    assert [p.label for p in together] == [net.predict(net.collate([i]))[0].label for i in items]
    assert [len(p.label) for p in together] == [len(row.target) for row in ROWS]


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-roberta"])
def test_a_word_is_read_at_its_first_token(model):
    net = learner(f"model={model}", "method=head_only")
    tokenizer = net.formulation.tokenizer
    (item,) = net.encode(ROWS[1:2])
    offsets = tokenizer(ROWS[1].text, return_offsets_mapping=True)["offset_mapping"]
    start = 0
    for word, place in zip(ROWS[1].text.split(" "), item.data["places"], strict=True):
        assert offsets[place][0] <= start < offsets[place][1]
        assert all(not first <= start < last for first, last in offsets[:place])
        start += len(word) + 1
    labels = [label for label in item.data["labels"] if label != -100]
    assert [net.formulation.tags[label] for label in labels] == list(ROWS[1].target)
    assert item.weight == len(ROWS[1].target)


def test_the_loss_is_the_cross_entropy_of_the_words():
    net = learner("model=tiny-bert", "method=head_only", "method.formulation.normalize=false")
    (item,) = net.encode(ROWS[:1])
    batch = net.collate([item])
    hidden = net.model(**{k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in batch})
    states = hidden.last_hidden_state[0, item.data["places"]]
    logits = net.formulation.classifier(states)
    wanted = [net.formulation.tags.index(tag) for tag in ROWS[0].target]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(wanted), reduction="sum")
    torch.testing.assert_close(net(batch), expected)
    assert net.predict(batch)[0].label == tuple(net.formulation.tags[i] for i in logits.argmax(-1))


def test_words_out_of_sight_are_outside_and_are_counted():
    net = learner("model=tiny-bert", "method=lora", "trainer.max_length=8")
    items = net.encode(ROWS)
    unseen = [item.data["places"].count(None) for item in items]
    assert unseen[1] > 0
    found = net.predict(net.collate(items))[1].label
    assert len(found) == len(ROWS[1].target)
    assert found[-unseen[1] :] == ("O",) * unseen[1]
    assert items[1].weight == len(found) - unseen[1]
    (note,) = net.formulation.notes
    assert note.startswith(f"test: {sum(unseen)} words of {sum(map(bool, unseen))} sentences lie behind")


def test_no_room_for_a_word_is_refused():
    net = learner("model=tiny-bert", "method=lora", "trainer.max_length=4")
    net.formulation.prefix = "a long instruction in front: "
    with pytest.raises(UsageError, match=r"trainer\.max_length=4 leaves no room for a word of row test:0"):
        net.encode(ROWS)


def test_a_backbone_that_is_no_encoder_is_refused():
    with pytest.raises(UsageError, match=r"tags targets. These do: none of the built-in ones|does not fit"):
        learner("model=tiny-llama", "method=lora")
