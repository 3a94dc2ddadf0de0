"""Data recipes: what is made, what of it may be trained on, and arms of equal tokens."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up_configs import compose
from tiny_answers import learner, texts

import peftbench
from peftbench.config.command import overrides_of
from peftbench.errors import UsageError
from peftbench.formulations.base import Encoded
from peftbench.formulations.in_words import IGNORE
from peftbench.stages.recipe.instruction_data.pairs import pooled, views
from peftbench.stages.recipe.instruction_data.templates import Document, Template, filled, quoted_share, templates
from peftbench.stages.recipe.kitchen import for_tokens
from peftbench.stages.recipe.pairs import PairsFormulation
from peftbench.stages.recipe.screening import COPY, EMPTY, EQUAL, OVERLAP, REPEATED, pair_of, screened, text_of
from peftbench.stages.recipe.subtasks.files import definitions, subtasks
from peftbench.stages.recipe.subtasks.rules import RULES
from peftbench.stages.recipe.writing import Author, Cost, LineWritten, first_line
from peftbench.tasks.base import Row

LONG = "the river rose above the old bridge in the night"


def test_what_an_evaluation_text_has_is_not_trained_on():
    made = [
        Row("0", "Something else that nobody has written before", "a"),
        Row("1", f"They say {LONG.upper()}  and fell", "a"),
        Row("2", "A short one", "a"),
        Row("3", "something ELSE that nobody has written before", "b"),
        Row("4", "  ", "a"),
        Row("5", "the train row", "a"),
    ]
    kept, why = screened(made, [Row("test:0", f"So {LONG}.", "x"), Row("test:1", "a short one", None)],
                         [Row("train:0", "The train row", "a")], text_of)  # fmt: skip
    assert [row.id for row in kept] == ["0"]
    assert why == {"1": OVERLAP, "2": EQUAL, "3": REPEATED, "4": EMPTY, "5": COPY}
    kept, why = screened([Row("0", "What?", f"Well, {LONG}")], [Row("test:0", LONG, None)], [], pair_of)
    assert why == {"0": OVERLAP}, "the answer counts, too"


SENTENCES = (
    "Yesterday the minister met Anna Berg in Oslo.",
    "She asked for 40 million crowns for the new bridge.",
    "The bridge will be built by Nordic Steel in two years.",
)
DOCUMENT = Document("train:0", SENTENCES, {"bridge": 2.0, "crowns": 1.0, "minister": 0.5})


@pytest.mark.parametrize(
    ("blank", "answer", "place", "wanted"),
    [
        ("name", "mentions", 0, ("Of Anna Berg?", SENTENCES[0])),
        ("name", "mentions", 2, ("Of Nordic Steel?", SENTENCES[2])),
        ("name", "mentions", 1, None),
        ("number", "mentions", 1, ("Of 40 million?", SENTENCES[1])),
        ("topic", "mentions", 1, ("Of bridge?", f"{SENTENCES[1]} {SENTENCES[2]}")),
        ("opening", "rest", 0, ("Of Yesterday the minister met Anna?", "Berg in Oslo.")),
        ("sentence", "next", 0, (f"Of {SENTENCES[0]}?", SENTENCES[1])),
        ("sentence", "next", 2, None),
    ],
)
def test_a_blank_is_filled_from_the_document_and_the_answer_quoted(blank, answer, place, wanted):
    found = filled(Template("Of <fi>x</fi>?", blank, answer, "news"), DOCUMENT, place)
    assert found == wanted
    if found:
        assert quoted_share(found[1], DOCUMENT.text) == 1.0


def test_names_and_numbers_are_no_function_words():
    one = Document("0", ["He said that I and Anna's aunt Berta Lind paid 3 and 20% of 400 crowns."], {})
    names = Template("Of <fi>x</fi>?", "name", "mentions", "news")
    assert filled(names, one, 0)[0] == "Of Berta Lind?"
    assert filled(Template("Of <fi>x</fi>?", "number", "mentions", "news"), one, 0)[0] == "Of 20%?"
    assert filled(names, Document("0", ["He said that I went."], {}), 0) is None


def test_the_quoted_share_counts_words_in_runs():
    assert quoted_share("Yes: the minister met Anna", "the minister met Anna") == pytest.approx(4 / 5)
    assert quoted_share("met the Anna minister", "the minister met Anna") == 0
    assert quoted_share("Anna Berg", SENTENCES[0]) == 1
    assert quoted_share("", "x") == 0


def test_parts_of_a_document_look_different():
    """The Gaussian weights of each part, and the pooled vector, written out."""
    weights = views(6, 3, 0.2)
    by_hand = np.exp(-0.5 * ((np.arange(6) + 0.5 - 1.0) / 1.2) ** 2)
    np.testing.assert_allclose(weights[0], by_hand / by_hand.sum())
    assert [int(w.argmax()) for w in weights] == [0, 2, 4]
    assert len(views(2, 3, 0.2)) == 2
    vectors = np.eye(6)
    found = pooled(vectors, weights[1])
    wanted = vectors.mean(0) + weights[1]
    np.testing.assert_allclose(found, wanted / np.sqrt((wanted**2).sum()))


def test_templates_and_subtasks_of_a_file_are_checked(tmp_path):
    assert len(templates("packaged")) >= 20
    assert {one.rule for one in subtasks("packaged")} == set(RULES)
    file = tmp_path / "own.yaml"
    for text, wrong in (
        ("templates: 3", "has to be a list"),
        ("templates: [{ask: x, blank: name, answer: rest}]", "lacks `about`"),
        ("templates: [{ask: x, blank: nam, answer: rest, about: y}]", "blank=nam: .*Did you mean `name`"),
        ("templates: [{ask: x, blank: name, answer: rest, about: y}]", "one <fi>blank</fi>"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=wrong):
            templates(str(file))
    file.write_text("subtasks: [{name: a, rule: orde, instructions: [x]}]")
    with pytest.raises(UsageError, match=r"subtasks\[0\]\.rule=orde: .*Did you mean `order`"):
        subtasks(str(file))


RECIPE = """
from dataclasses import dataclass
from peftbench.config.schema import RecipeConfig, number
from peftbench.stages.recipe.base import Made, Recipe

@dataclass
class Options(RecipeConfig):
    marks: int = number(1, ge=1)

RECIPE = Recipe(Options, lambda context, options: Made([]), "rows")
"""


def test_a_recipe_may_be_a_file_and_files_are_looked_at_first(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(RECIPE)
    own = [f"+recipe.name={mine}", "+recipe.arm=made", "method=lora"]
    cfg = compose([*own, "+recipe.marks=3"])
    assert cfg.recipe.marks == 3
    assert list(cfg.plugins) == [f"recipe {mine}"]
    with pytest.raises(UsageError, match=r"recipe\.marks=0: must be at least 1"):
        compose([*own, "+recipe.marks=0"])
    told = tmp_path / "told.jsonl"
    told.write_text('{"definition": "Say  it."}\n{"definition": "Say it."}\n')
    assert definitions(told) == ["Say it."]
    pairs = ["model=tiny-llama", "method=lora", "+recipe=subtasks"]
    assert compose([*pairs, f"recipe.descriptions={told}"]).recipe.descriptions == str(told)
    told.write_text("{}\n")
    with pytest.raises(UsageError, match=r"told\.jsonl:1: not a line of JSON with a `definition`"):
        compose([*pairs, f"recipe.descriptions={told}"])
    with pytest.raises(UsageError, match=r"recipe\.subtasks=nowhere: no such file"):
        compose([*pairs, "recipe.subtasks=nowhere"])


def test_subtasks_ask_what_the_text_answers():
    random = np.random.RandomState(0)
    assert RULES["keywords"](DOCUMENT, random)[1] == "bridge, crowns, minister"
    assert RULES["names"](DOCUMENT, random)[1] == "Anna Berg, Nordic Steel"
    assert RULES["numbers"](DOCUMENT, random)[1] == "40 million"
    assert RULES["opening"](DOCUMENT, random) == (f"{SENTENCES[1]} {SENTENCES[2]}", SENTENCES[0])
    for _ in range(8):
        asked, answer = RULES["next_sentence"](DOCUMENT, random)
        first, second = (line[3:] for line in asked.split("\n"))
        assert (SENTENCES.index(second) - SENTENCES.index(first) == 1) is (answer == "yes")
        asked, answer = RULES["order"](DOCUMENT, random)
        places = {line[0]: SENTENCES.index(line[3:]) for line in asked.split("\n")}
        assert answer == min(places, key=places.get)
        asked, answer = RULES["gap"](DOCUMENT, random)
        assert asked.replace("___", answer) in SENTENCES


def test_as_many_tokens_as_were_asked_for():
    items = [Encoded(str(n), 10 + n, 1.0, {}, share=share) for n, share in enumerate((0.5, 1.5, 1.0))]
    for tokens in (8, 100, 1000):
        chosen = for_tokens(items, tokens, seed=1)
        assert abs(sum(item.length for item in chosen) - tokens) <= 6 or len(chosen) == 1
    counts = [sum(item.id == one.id for item in for_tokens(items, 10_000, 1)) for one in items]
    assert counts[0] / counts[1] == pytest.approx(1 / 3, abs=0.1)


def test_pairs_are_read_whole_or_by_their_answers():
    net = learner("model=tiny-llama", "method=lora", "method/formulation=score")
    form, rows = net.formulation, [Row("0", "What is it?", "A cat"), Row("1", "", "a plain text of some words")]
    whole, answers = (PairsFormulation(net.backbone, form.task, 64, form, flag) for flag in (True, False))
    ids = form.tokenizer("What is it?")["input_ids"]
    end = form.answer_ids("A cat")
    item = answers.encode(rows)[0]
    assert (item.data["prompt"], item.data["answer"], item.weight) == (ids, end, len(end))
    batch = net.with_formulation(whole).collate(whole.encode(rows))
    kept = batch["labels"][0][batch["labels"][0] != IGNORE].tolist()
    assert kept == [*ids[1:], *end], "all but the first token, which nothing stands before"
    plain = whole.encode(rows)[1]
    wanted = [*form.start_ids(""), *form.answer_ids("a plain text of some words")]
    assert [*plain.data["prompt"], *plain.data["answer"]] == wanted
    short = PairsFormulation(net.backbone, form.task, 6, form, True).encode(rows)
    assert all(item.length <= 6 for item in short)


def test_recipes_are_refused_where_they_can_do_nothing():
    for given, wrong in (
        (["recipe=augmentation"], r"no recipe is chosen yet.*\+recipe=augmentation"),
        (["+recipe=augmentation", "recipe.arm=texts"], "plain texts have no label"),
        (["+recipe=augmentation", "recipe.arm=repeats"], r"Give recipe\.tokens=N"),
        (["+recipe=augmentation", "method=majority"], "has no backbone"),
        (["+recipe=augmentation", "method=lora", "shots=0"], "shots=0 draws none"),
        (["+recipe=subtasks", "model=minilm"], "is an encoder"),
        (["+recipe=subtasks", "model=tiny-llama", "recipe.tokens=null"], "needs a length in tokens"),
        (["+recipe=subtasks", "model=tiny-t5", "recipe.arm=texts"], "which a causal model does"),
        (["method.stages=[recipe,supervised]"], "is no stage to be listed"),
    ):
        with pytest.raises(UsageError, match=wrong):
            compose(["task=demo_news", *given])
    assert compose(["task=demo_news"]).recipe is None
    cfg = compose(["task=demo_news", "+recipe=augmentation", "recipe.per_class=3", "method=lora"])
    assert compose(overrides_of(asdict(cfg))) == cfg


RUN = {"model": "tiny-llama", "task": "demo_news", "shots": 2, "trainer.steps": 2, "trainer.max_length": 48,
       "trainer.probe": False, "trainer.progress": False, "tracking.wandb": "disabled", "protocol.dev": "none",
       "method/formulation": "score", "protocol.test_rows": 10}  # fmt: skip


def ran(tmp_path, *overrides, **more):
    found = peftbench.run(*overrides, **{"method": "lora", **RUN, **more}, out_dir=str(tmp_path)).record
    path = tmp_path / "runs" / found.run_id / "made.jsonl"
    return found, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_made_rows_join_the_drawn_ones_and_are_kept(tmp_path):
    own = ("+recipe=augmentation", "recipe.model=tiny-llama", "recipe.per_class=2", "recipe.written_tokens=8")
    record, made = ran(tmp_path, *own)
    first = record.stages[0]
    assert first["name"] == "recipe"
    assert first["facts"]["made"] == len(made) == 14
    assert first["facts"]["kept"] == sum(row["dropped"] is None for row in made)
    assert first["facts"]["written_tokens"] > 0
    assert all(len(row["from"]["shown"]) == 2 for row in made)
    plain, none = ran(tmp_path)
    assert none == []
    assert plain.run_id != record.run_id
    budget = [ran(tmp_path, *own, "recipe.tokens=1500", f"recipe.arm={arm}")[0] for arm in ("made", "repeats")]
    tokens = [one.compute["tokens"] for one in budget]
    assert tokens[0] == pytest.approx(1500, rel=0.25)
    assert tokens[1] == pytest.approx(1500, rel=0.25)
    assert "made" not in budget[1].stages[0].get("facts", {})


def test_a_text_ends_with_its_line_and_its_line_is_the_same(monkeypatch):
    author = Author("tiny-llama", torch.device("cpu"))
    ends = author.backbone.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]

    def more_lines(module, given, output):
        output.logits[..., ends] += 4

    author.model.register_forward_hook(more_lines)
    asked = [f"text:{number}" for number in range(4)], ["Texts about\n1."] * 4
    how = {"tokens": 40, "temperature": 1.0, "top_p": 1.0, "seed": 1}

    def written():
        author.cost = Cost()
        return author(*asked, **how), author.cost.written_tokens

    texts, tokens = written()
    monkeypatch.setattr(LineWritten, "__call__", lambda self, ids, scores, **more: torch.zeros(len(ids)).bool())
    longer, most = written()
    assert [first_line(text) for text in texts] == [first_line(text) for text in longer]
    assert tokens < most
    assert all("\n" not in text.strip() for text in texts)


@pytest.mark.slow
def test_a_model_learns_numbers_and_writes_different_texts(tmp_path):
    record, made = ran(
        tmp_path, "+recipe=possibility_exploration", "recipe.model=tiny-llama", "recipe.per_class=3", "recipe.steps=2",
        "recipe.written_tokens=8",
    )  # fmt: skip
    assert [row["from"]["number"] for row in made if row["target"] == made[0]["target"]] == [1, 2, 3]
    assert record.stages[0]["facts"]["author_steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["instruction_data", "subtasks"])
def test_arms_of_pairs_take_equally_many_tokens(recipe, tmp_path):
    tokens = {}
    for arm in ("made", "texts", "repeats"):
        record, made = ran(tmp_path, f"+recipe={recipe}", "recipe.texts=12", "recipe.tokens=1500", f"recipe.arm={arm}")
        tokens[arm] = record.stages[0]["tokens"]
        assert record.stages[1]["steps"] == 2, "the method's own training follows"
        if arm == "made":
            assert made
            assert all(row["from"]["document"].startswith("train:") for row in made)
    assert max(tokens.values()) - min(tokens.values()) <= 48
    again = ran(tmp_path, f"+recipe={recipe}", "recipe.texts=12", "recipe.tokens=1500")[0]
    assert again.stages[0]["tokens"] == tokens["made"]


def test_a_killed_run_does_not_make_its_data_twice(tmp_path, monkeypatch):
    from peftbench.stages.recipe import kitchen
    from peftbench.stages.recipe.base import Made

    calls = []

    def make(context, options):
        calls.append(options.name)
        return Made([Row("made:0", "a text", "sports")], {"made:0": {"shown": ["train:1"]}}, {"calls": 1.0})

    monkeypatch.setattr(kitchen, "recipe_of", lambda cfg: SimpleNamespace(makes="rows", make=make))
    from contextlib import nullcontext

    context = SimpleNamespace(
        cfg=SimpleNamespace(seed=1), folder=tmp_path, stage_folder=lambda part=None: tmp_path / "stages",
        clock=lambda name: nullcontext(), meter=SimpleNamespace(phase=lambda name: nullcontext()),
        data=SimpleNamespace(dev=(), test=(), extra_tests={}),
        draw=SimpleNamespace(dev=(), test=texts(), train=(), extra_tests={}),
    )  # fmt: skip
    from peftbench.stages.base import StageReport

    for _ in range(2):
        report = StageReport("recipe")
        assert [row.text for row in kitchen.made_rows(context, SimpleNamespace(name="x"), report)] == ["a text"]
        assert report.facts == {"calls": 1.0, "made": 1.0, "kept": 1.0}
    assert calls == ["x"]
