"""One question in several wordings: templates read as data, what is left out, and what a step and an answer are."""

import json

import pytest
import torch
from made_up_configs import compose
from tiny_answers import disturbed, learner, task, texts

from peftbench.errors import UsageError
from peftbench.formulations.wordings.formulation import TAUGHT
from peftbench.formulations.wordings.templates import (
    INVERTED,
    OTHER_FIELDS,
    OTHER_LABELS,
    OTHER_TASK,
    UNREADABLE,
    Unfit,
    collect,
    read_flan,
    read_promptsource,
    written_out,
)
from peftbench.tasks.base import Row

CHOICES = "Health ||| Politics ||| Sports"
PAIRS = [Row("train:0", "A man sleeps", "no", pair="Somebody sleeps")]
ANSWER = "{{answer_choices[label]}}"


def promptsource(jinja, choices=CHOICES, data=None, **more):
    return read_promptsource({"name": "x", "jinja": jinja, "answer_choices": choices, **more}, data or task())


@pytest.mark.parametrize(
    ("jinja", "form"),
    [
        ("Label:\n{{ text }} ||| \n{{answer_choices[label] }}", "Label:\n{text} {answer}"),
        (
            'Is it {{"health"}} or {{answer_choices[2]}}? {{content}}|||' + ANSWER,
            "Is it health or Sports? {text} {answer}",
        ),
        ("{{', '.join(answer_choices)}}: {{text}}|||" + ANSWER, "Health, Politics, Sports: {text} {answer}"),
        ('{{text}} {{answer_choices | join("/")}}|||' + ANSWER, "{text} Health/Politics/Sports {answer}"),
        ("{% if label != -1 %}{{text}}|||" + ANSWER + "{% endif %}", "{text} {answer}"),
    ],
)
def test_a_template_of_promptsource_is_read_as_data(jinja, form):
    found = promptsource(jinja)
    assert found.prompt.example == form
    assert found.words == {"health": "Health", "politics": "Politics", "sports": "Sports"}


@pytest.mark.parametrize(
    ("jinja", "more", "why"),
    [
        ("Write about {{answer_choices[label]}} ||| {{text}}", {}, INVERTED),
        ("{{answer_choices[label]}}: {{text}} ||| " + ANSWER, {}, INVERTED),
        ("{{text}}|||" + ANSWER, {"original_task": False}, OTHER_TASK),
        ("{{text}}|||" + ANSWER, {"choices": "yes ||| no"}, OTHER_LABELS),
        ("{{hypothesis}}|||" + ANSWER, {}, OTHER_FIELDS),
        ("{{text.__class__.__mro__}}|||" + ANSWER, {}, UNREADABLE),
        ("{{text | replace('a', 'b')}}|||" + ANSWER, {}, UNREADABLE),
        ("{% for x in text %}{{x}}{% endfor %}|||" + ANSWER, {}, UNREADABLE),
        ("{{text}} {{label}}|||" + ANSWER, {}, UNREADABLE),
        ("{{text}}", {}, UNREADABLE),
    ],
)
def test_what_is_no_question_about_the_label_is_left_out(jinja, more, why):
    with pytest.raises(Unfit, match=why):
        promptsource(jinja, **more)


def test_flan_patterns_and_their_options():
    data = task(("no", "yes"), train=PAIRS, test=PAIRS, label_words={"no": "not so"})
    found = read_flan("0", ["{premise}\n{hypothesis}n{options_}", "{answer}"], data)
    assert found.prompt.example == "{text}\n{pair}\nOPTIONS:\n- not so\n- yes {answer}"
    with pytest.raises(Unfit, match=INVERTED):
        read_flan("0", ["Write a {answer}.", "{premise}"], data)
    with pytest.raises(Unfit, match=UNREADABLE):
        read_flan("0", ["one"], data)


def options(templates, *more):
    given = ["model=tiny-llama", "method=prompt_tuning", "method/formulation=wordings", *more]
    return compose([*given, f"method.formulation.templates={templates}"]).method.formulation


def test_files_are_read_counted_and_written_out(tmp_path):
    own = tmp_path / "templates.yaml"
    own.write_text(
        "dataset: toy\ntemplates:\n"
        "  a: !Template\n    name: first\n    jinja: '{{text}}|||{{answer_choices[label]}}'\n"
        f"    answer_choices: {CHOICES}\n    metadata: !TemplateMetadata {{original_task: true}}\n"
        "  b: !Template\n    name: turned\n    jinja: 'About {{answer_choices[label]}}|||{{text}}'\n"
        f"    answer_choices: {CHOICES}\n"
    )
    found = collect(options(own, "method.formulation.observed=1"), task())
    assert found.note() == "templates: 1 of 2 taken (left out: 1 inverted)"
    with pytest.raises(UsageError, match=r"observed=4: templates: 1 of 2 taken.*Use 1 or fewer"):
        collect(options(own), task())
    flan = tmp_path / "flan.json"
    flan.write_text(json.dumps({"toy": [["{text}?", "{answer}"], ["{text}!", "{answer}"]], "other": []}))
    found = collect(options(flan, "method.formulation.observed=2"), task())
    assert [one.prompt.example for one in found.wordings] == ["{text}? {answer}", "{text}! {answer}"]
    with pytest.raises(UsageError, match=r"part=none: .*no templates of none.*Valid: other, toy"):
        collect(options(flan, "method.formulation.part=none"), task())
    again = options("task", "method.formulation.observed=2")
    again.templates = written_out(found.wordings)
    assert collect(again, task()).wordings == found.wordings
    again.order_seed = 1
    assert {one.name for one in collect(again, task()).wordings} == {"0", "1"}


def test_answers_in_another_order_than_the_labels_are_refused():
    words = {"health": "sports", "politics": "b", "sports": "c"}
    data = task(templates=({"example": "{text} {answer}", "words": words},))
    with pytest.raises(UsageError, match=r"`sports` would stand for the label `health`.*another order of labels"):
        collect(options("task", "method.formulation.observed=1"), data)
    words["health"] = "b"
    with pytest.raises(UsageError, match="left out: 1 with other labels"):
        collect(options("task", "method.formulation.observed=1"), data)
    with pytest.raises(UsageError, match="has no templates of its own"):
        collect(options("task"), task())


@pytest.mark.data
@pytest.mark.parametrize(
    ("labels", "fields", "file", "part", "note"),
    [
        ("wsbt", 1, "promptsource/ag_news/templates.yaml", None, "7 of 7 taken"),
        ("np", 1, "promptsource/imdb/templates.yaml", None, "10 of 11 taken (left out: 1 of another task)"),
        ("en", 2, "promptsource/super_glue/rte/templates.yaml", None, "10 of 10 taken"),
        ("ecn", 2, "promptsource_templates.jsonl", "super_glue/cb", "15 of 15 taken"),
        ("np", 1, "flan_v2_patterns.json", "sst2", "8 of 10 taken (left out: 2 inverted)"),
        ("en", 2, "flan_v1_patterns.json", "rte", "9 of 10 taken (left out: 1 inverted)"),
    ],
)
def test_released_templates_are_read(real_data, labels, fields, file, part, note):
    """As many as the README of the data counts; the inverted ones of FLAN are those that it names."""
    path = real_data / "more/instructions" / file
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = [Row("train:0", "a text", labels[0], pair="another" if fields == 2 else None)]
    cfg = options(path, "method.formulation.observed=1", *([f"method.formulation.part={part}"] if part else []))
    assert collect(cfg, task(tuple(labels), train=rows, test=rows)).note() == f"templates: {note}"


def wordings(*overrides, shots=()):
    data = task(
        templates=tuple({"example": f"{text} {{answer}}"} for text in ("{text}?", "Topic of {text}:", "{text} is"))
    )
    given = ["model=tiny-llama", "method=prompt_tuning", "method/formulation=wordings", "method.formulation.observed=2"]
    return disturbed(learner(*given, *overrides, data=data, shots=shots))


def test_a_row_is_answered_in_the_reference_and_trained_in_the_wording_of_the_step():
    rows = [*texts()]
    net = wordings(shots=rows)
    formulation = net.formulation
    items = net.encode(rows)
    with torch.no_grad():
        own = [p.scores for p in net.predict(net.collate(items))]
        ways = {way.name: way for way in formulation.ways()}
        plain = net.with_formulation(ways["0"].form)
        assert own == [p.scores for p in plain.predict(plain.collate(plain.encode(rows)))]
        assert [way.observed for way in ways.values()] == [True, True, False]
        seen = {}
        for formulation.step in range(8):
            batch = net.collate(items)
            posed = net.with_formulation(ways[str(batch["way"])].form)
            other = posed.collate(posed.encode(rows))
            assert torch.equal(batch[TAUGHT]["lm_input_ids"], other["lm_input_ids"])
            losses, counts = posed.formulation.token_losses(net.model, other), (other["labels"] != -100).sum(1)
            seen[batch["way"]] = float(net(batch))
            assert seen[batch["way"]] == pytest.approx(float((losses.sum(1) / counts).sum()), rel=1e-5)
    assert seen.keys() == {0, 1}, "the third wording is never trained on"
    assert {len(item.data["ways"]) for item in wordings().encode(rows)} == {1}, "rows that are no shots"
    only = wordings("method.formulation.train_on=reference", shots=rows)
    only.formulation.step = 5
    assert only.collate(only.encode(rows))["way"] == 0
