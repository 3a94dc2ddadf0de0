"""Formulations on tiny random backbones: what is computed must not depend on batches, padding or the tuner's tokens."""

import pytest
import torch
from made_up_configs import compose

from peftbench.build import build_learner
from peftbench.measure.clock import PhaseClock
from peftbench.tasks.base import DataSource, Row, TaskData

ROWS = [
    Row("test:0", "The team won the cup", "sports"),
    Row("test:1", "Parliament passed a long and much debated law on the price of water", "politics"),
    Row("test:2", "Doctors", "health"),
]


def task(problem="classification", pair=False, **changes):
    labels = ("health", "politics", "sports") if problem == "classification" else ()
    rows = ROWS if problem == "classification" else [Row(r.id, r.text, 2.5, r.text) for r in ROWS]
    facts = {
        "name": "toy", "subset": "", "train": rows, "dev": [], "test": rows, "labels": labels,
        "label_words": {}, "fields": ("text", "pair"), "problem": problem, "main_metric": "accuracy",
        "metrics": ("accuracy",), "source": DataSource("packaged", "test"),
        "score_range": None if labels else (0.0, 5.0),
    }  # fmt: skip
    return TaskData(**{**facts, **changes})


def learner(*overrides, data=None):
    cfg = compose(["shots=4", "trainer.max_length=24", *overrides])
    built, _ = build_learner(cfg, data or task(), PhaseClock())
    return built.eval()


CASES = [
    ("tiny-bert", "head"), ("tiny-roberta", "head"), ("tiny-llama", "head"),
    ("tiny-llama", "generate"), ("tiny-t5", "generate"), ("tiny-llama", "score"), ("tiny-t5", "score"),
]  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "dept"])
@pytest.mark.parametrize(("model", "formulation"), CASES)
def test_the_loss_of_a_batch_is_the_sum_over_its_items(model, formulation, method):
    net = learner(f"model={model}", f"method={method}", f"method/formulation={formulation}")
    _disturb(net)
    items = net.encode(ROWS)
    whole = net(net.collate(items))
    alone = sum(net(net.collate([item])) for item in items)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "dept"])
@pytest.mark.parametrize(("model", "formulation"), CASES)
def test_predictions_do_not_depend_on_the_batch(model, formulation, method):
    net = learner(f"model={model}", f"method={method}", f"method/formulation={formulation}")
    _disturb(net)
    items = net.encode(ROWS)
    together = net.predict(net.collate(items))
    for item, expected in zip(items, together, strict=True):
        (alone,) = net.predict(net.collate([item]))
        assert (alone.id, alone.label, alone.answer) == (expected.id, expected.label, expected.answer)
        for label, score in expected.scores.items():
            assert alone.scores[label] == pytest.approx(score, abs=1e-3)


def _disturb(net) -> None:
    """Move what is trained away from its start, so that a tuner's part shows in the outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-t5"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "dept"])
def test_what_generation_writes_is_the_argmax_of_teacher_forcing(model, method):
    """Train a little, then read generation's own answer back under teacher forcing: each token must be the argmax."""
    net = learner(f"model={model}", f"method={method}", "method/formulation=generate")
    _disturb(net)
    formulation = net.formulation
    captured = {}
    real = net.model.generate

    def generate(**kwargs):
        captured["ids"] = real(**kwargs)
        return captured["ids"]

    net.model.generate = generate
    items = net.encode([Row(r.id, r.text, None) for r in ROWS])
    batch = net.collate(items)
    net.predict(batch)
    ids = captured["ids"]
    if model == "tiny-llama":
        from peftbench.formulations.generate.formulation import new_tokens

        ids = new_tokens(ids, batch["input_ids"])
    else:
        ids = ids[:, 1:]  # the decoder's start token
    for row, item in zip(ids.tolist(), items, strict=True):
        answer = row[: row.index(formulation.eos) + 1] if formulation.eos in row else row
        best = formulation.token_losses(net.model, formulation.teacher_batch([item.data["prompt"]], [answer]))
        for other in range(0, len(formulation.tokenizer), 97):  # no other token may be likelier at the last place
            changed = [*answer[:-1], other]
            loss = formulation.token_losses(net.model, formulation.teacher_batch([item.data["prompt"]], [changed]))
            assert loss.sum() >= best.sum() - 1e-3


def test_answers_that_are_no_label_are_none():
    net = learner("model=tiny-t5", "method=lora", "method/formulation=generate")
    read = net.formulation.read
    assert read(" Sports. ", task()) == "sports"
    assert read("sports news", task()) is None
    assert read("", task()) is None


def test_regression_by_head_and_by_words():
    data = task("regression", main_metric="pearson", metrics=("pearson",))
    head = learner("model=tiny-bert", "method=lora", data=data)
    predictions = head.predict(head.collate(head.encode(data.test)))
    assert [p.label for p in predictions] == [0.0] * 3, "before training"
    with torch.no_grad():
        head.formulation.classifier.bias.fill_(1.2)
    predictions = head.predict(head.collate(head.encode(data.test)))
    assert [p.label for p in predictions] == pytest.approx([6.0] * 3), "not clamped to the range, as in GLUE's scripts"
    words = learner("model=tiny-t5", "method=lora", data=data)
    assert words.formulation.read("3.4", data) == 3.4
    assert words.formulation.read("7.0", data) is None
    assert words.formulation.read("good", data) is None


def test_the_papers_head_is_robertas_own():
    """Dense, tanh, output on the first token, as `RobertaForSequenceClassification` computes it without dropout."""
    net = learner("model=tiny-roberta", "method=full_paper")
    _disturb(net)
    own, batch = net.formulation, net.collate(net.encode(ROWS))
    first = net.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[:, 0]
    hidden = torch.tanh(first @ own.dense.weight.T + own.dense.bias)
    expected = hidden @ own.classifier.weight.T + own.classifier.bias
    torch.testing.assert_close(own.logits(net.model, batch), expected, atol=1e-5, rtol=0)
    fresh = learner("model=tiny-roberta", "method=full_paper").formulation
    assert fresh.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert set(net.param_groups()) == {"backbone", "head"}


def test_answers_in_digits_are_the_labels_numbers():
    """As ATTEMPT's and DePT's tasks write them."""
    net = learner("model=tiny-t5", "method=lora", "method.formulation.answers=digits")
    assert [net.formulation.answer_text(row.target) for row in ROWS] == ["2", "1", "0"]
    assert net.formulation.read(" 1", task()) == "politics"
    assert net.formulation.read("politics", task()) is None
    items = net.encode(ROWS)
    one = net.formulation.tokenizer("2", add_special_tokens=False)["input_ids"]
    assert items[0].data["answer"] == [*one, net.formulation.eos]


def test_the_cue_and_the_answer_survive_a_very_long_text():
    net = learner("model=tiny-llama", "method=lora", "method/formulation=generate")
    (item,) = net.encode([Row("test:9", "water " * 10_000, "sports")])
    assert item.length <= 24
    text = net.formulation.tokenizer.decode(item.data["prompt"])
    assert text.endswith("answer:")


def test_pairs_reach_the_backbone_as_two_segments():
    data = task(test=[Row("test:0", "one text", "sports", "another text")])
    net = learner("model=tiny-bert", "method=lora", data=data)
    (item,) = net.encode(data.test)
    assert set(item.data["token_type_ids"]) == {0, 1}


@pytest.mark.parametrize(("model", "formulation"), CASES)
def test_what_was_cut_is_said(model, formulation):
    """Against a second tokenisation without a limit: exactly the rows that need more tokens are cut."""
    rows = [Row(f"test:{n}", ("cup " * n).strip(), "sports") for n in range(1, 24)]
    settings = (f"model={model}", "method=lora", f"method/formulation={formulation}")
    short, whole = learner(*settings).encode(rows), learner(*settings, "trainer.max_length=400").encode(rows)
    limit = max(item.length for item in short)
    assert [item.cut for item in short] == [item.length > limit for item in whole]
    assert 0 < sum(item.cut for item in short) < len(rows)


@pytest.mark.parametrize("model", ["tiny-t5", "tiny-llama"])
def test_no_text_is_cut_because_of_where_it_stands(model):
    """MultiRC's shape: the passage is long, and the label hangs on the question and the answer."""
    parts = {"question": "who won the cup", "answer": "the team", "paragraph": "water " * 400}
    row = Row("test:0", parts["paragraph"], "sports", "who won the cup the team", parts=parts)
    for fields in (("question", "answer", "paragraph"), ("paragraph", "question", "answer")):
        net = learner(f"model={model}", "method=lora", "trainer.max_length=48", data=task(fields=fields, test=[row]))
        (item,) = net.encode([row])
        text = net.formulation.tokenizer.decode(item.data["prompt"])
        assert "who won the cup" in text
        assert "the team" in text
        assert item.length <= 48
        assert item.cut


@pytest.mark.parametrize("model", ["tiny-t5", "tiny-llama"])
def test_label_tokens_are_the_pieces_of_the_words(model):
    net = learner(f"model={model}", "method=lora", data=task(label_words={"health": "care of the sick"}))
    pieces = net.formulation.label_tokens()
    assert list(pieces) == ["health", "politics", "sports"]
    for label, words in (("health", "care of the sick"), ("sports", "sports")):
        assert net.formulation.tokenizer.convert_tokens_to_string(pieces[label]).strip() == words
    assert learner("model=tiny-bert", "method=lora").formulation.label_tokens() == {}
