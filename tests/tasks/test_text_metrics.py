"""GLEU, SARI and BLEU against the numbers of the released scripts, and as statistics see them."""

from __future__ import annotations

import numpy as np
import pytest

from peftbench import statistics as stats
from peftbench.statistics.scorers import Resamples
from peftbench.tasks import load_task
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import score
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.base import Sourced

METRICS = ("gleu", "sari", "bleu", "exact_match")
DATA = TaskData("t", "s", (), (), (), (), {}, ("text",), "text", "gleu", METRICS, DataSource("packaged", ""))
LEARNERS = (
    (
        "The situation are change .",
        ("The situation has changed .", "The situation changed ."),
        "The situation has change .",
    ),
    ("He go to school", ("He goes to school", "He went to the school"), "He goes to school"),
    ("a b c d e", ("a b c d f", "a b c d e"), "a b c d e"),
)
EASSE = (
    (
        "About 95 species are currently accepted.",
        ("About 95 species are currently known.", "About 95 species are now accepted.", "95 species are now accepted."),
        "About 95 you now get in.",
    ),
    (
        "The cat perched on the mat.",
        ("The cat sat on the mat.", "The cat is on the mat.", "The cat sat."),
        "Cat on mat.",
    ),
)


def scored(items, answers=None) -> dict[str, float]:
    rows = [Row(f"test:{n}", source, references) for n, (source, references, _) in enumerate(items)]
    return score(DATA, rows, [item[2] for item in items] if answers is None else answers)


def test_gleu_is_that_of_the_released_script():
    """keisks/jfleg at ee06ff806a20, `eval/gleu.py`, run on these three sentences."""
    assert scored(LEARNERS)["gleu"] == pytest.approx(38.51761861843478, abs=1e-9)


def test_sari_is_that_of_easse():
    """The example of EASSE's README (feralvam/easse)."""
    assert scored(EASSE)["sari"] == pytest.approx(33.17472563619544, abs=1e-9)


def test_bleu_is_that_of_sacrebleu():
    from sacrebleu.metrics import BLEU

    columns = [list(column) for column in zip(*(references for _, references, _ in EASSE), strict=True)]
    expected = BLEU().corpus_score([text for _, _, text in EASSE], columns).score
    assert scored(EASSE)["bleu"] == pytest.approx(expected, abs=1e-9)
    assert scored(LEARNERS)["exact_match"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("items", [LEARNERS, EASSE])
def test_an_invalid_answer_is_never_worth_more_than_a_wrong_one(items):
    right = [references[0] for _, references, _ in items]
    whole, without = scored(items, right), scored(items, [None, *right[1:]])
    assert all(without[name] < whole[name] for name in METRICS)
    assert set(scored(items, [None] * len(items)).values()) == {0.0}
    with pytest.raises(TypeError, match="a predicted text"):
        scored(items, [("a",)] * len(items))


@pytest.mark.parametrize("metric", METRICS)
def test_statistics_resample_sentences_with_their_own_draws(metric):
    rng = np.random.default_rng(1)
    pool = [w for source, *_ in LEARNERS for w in source.split()]
    items = [(" ".join(rng.choice(pool, 6)), tuple(" ".join(rng.choice(pool, 6)) for _ in range(3))) for _ in range(12)]
    items = [(source, (source, *references), None) for source, references in items]
    answers = [[source if rng.random() < 0.8 else None for source, *_ in items] for _ in range(2)]
    targets = tuple(Sourced(source, references, n) for n, (source, references, _) in enumerate(items))
    a, b = (stats.scorer(metric, stats.Items(targets, problem="text"), answer) for answer in answers)
    assert a.score() == pytest.approx(scored(items, answers[0])[metric], abs=1e-6)
    assert a.resampled(Resamples(np.arange(12)[None])) == pytest.approx([a.score()], abs=1e-5)
    swap = rng.random((4, 12)) < 0.5
    for row, mine, others in zip(swap, *a.swapped(b, swap), strict=True):
        mixed = [y if s else x for x, y, s in zip(*answers, row, strict=True)]
        rest = [x if s else y for x, y, s in zip(*answers, row, strict=True)]
        assert mine == pytest.approx(scored(items, mixed)[metric], abs=1e-5)
        assert others == pytest.approx(scored(items, rest)[metric], abs=1e-5)


def test_answers_are_the_first_line_that_says_something():
    parse = kind("text").parse
    assert parse("\n  a  b \nand so on", DATA, "words") == "a  b"
    assert parse(" \n", DATA, "words") is None
    assert kind("text").write(("first", "second"), DATA, "words") == "first"
    assert kind("text").show(["x", "y"]) == "x | y"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "metric", "unchanged"),
    [("jfleg", "gleu", 40.4740), ("asset", "sari", 20.73)],  # eval/gleu.py run here; EASSE's docs say 20.73
)
def test_sources_as_they_are_score_as_published(task_config, real_data, name, metric, unchanged):
    data = load_task(task_config(name), real_data)
    found = score(data, data.test, [row.text for row in data.test])[metric]
    assert found == pytest.approx(unchanged, abs=0.005)
