"""The cloze patterns in the tasks' YAMLs: every classification subset can be posed as a cloze."""

from dataclasses import replace

import pytest
from made_up_configs import compose

from peftbench.formulations.patterns import Pattern
from peftbench.tasks.base import Row
from peftbench.tasks.sources import pattern_sets, resolve_subset

TASKS = ["glue", "superglue", "topics", "absa", "demo_news", "masakhanews", "sciprompt"]
PARTS = {name: {"headline": "A headline.", "article": "An article."} for name in ("demo_news", "masakhanews")}


def classification_subsets():
    for task in TASKS:
        cfg = compose([f"task={task}"]).task
        for name in cfg.subsets:
            subset = resolve_subset(replace(cfg, subset=name))
            if "elements" not in subset.options and "score_range" not in subset.options:
                yield pytest.param(replace(cfg, subset=name), subset, id=f"{task}-{name}")


@pytest.mark.parametrize(("cfg", "subset"), classification_subsets())
def test_every_classification_subset_has_patterns_that_its_rows_fill(cfg, subset):
    sets = pattern_sets(cfg, subset)
    assert sets
    columns = [*subset.fields[:1], *(["pair"] if _is_pair(cfg, subset) else [])]
    row = Row(
        "test:0", "A first text.", None, "A second text." if len(columns) > 1 else None, parts=PARTS.get(cfg.name)
    )
    for patterns in sets.values():
        for template in patterns.patterns:
            pattern = Pattern(template, patterns.shorten)
            texts = pattern.texts(row)  # a placeholder that the rows lack raises
            filled = pattern.fill(texts, "WORD")
            assert filled.count("WORD") == 1
            # a text is left out of a pattern by nobody's mistake: both texts of a pair stand in it
            assert len(columns) == 1 or {"text", "pair"} <= set(pattern.names)
        assert set(patterns.words) == set(subset.label_names)
        assert all(word for words in patterns.words.values() for word in words)
        assert len(set(patterns.words.values())) == len(patterns.words), "two labels with the same words"


def _is_pair(cfg, subset) -> bool:
    """Whether rows have a second text, from what the YAML says of the files."""
    if cfg.name == "glue":
        return len(subset.options["columns"]) == 3
    if cfg.name == "topics":
        return "pair" in subset.options.get("layout", {}).get("all", {})
    return {"absa": True, "superglue": subset.name != "wsc"}.get(cfg.name, False)


@pytest.mark.parametrize(
    ("task", "subset", "name", "filled"),
    [
        # templates and words as the two papers' launchers have them
        ("glue", "sst2", "lm_bff", "A good film. It was great."),
        ("glue", "mnli", "lm_bff", "A good film? Yes, it was shown."),
        ("glue", "mrpc", "lm_bff", "A good film. Yes, it was shown."),
        # PCP's code changes no text and joins its parts by spaces
        ("glue", "sst2", "pcp", "A good film. It was great ."),
        ("glue", "stsb", "pcp", "A good film. Yes , It was shown."),
        ("glue", "mnli", "pcp", "A good film. ? Yes , It was shown."),
        ("glue", "rte", "pcp", "A good film. . Clearly , I think that It was shown."),
        ("topics", "trec", "pcp", "Expression : A good film."),
        ("topics", "trec", "lm_bff", "Expression: A good film."),
        ("topics", "snli", "pcp", "A good film. . Yes , in this case It was shown."),
        ("topics", "mpqa", "pcp", "A good film. is positive ."),
        ("topics", "yelp_review", "pcp", "A good film. It was 4 ."),
    ],
)
def test_filled_patterns_read_as_published(task, subset, name, filled):
    label = {"mrpc": "equivalent", "trec": "abbreviation", "yelp_review": "five stars", "stsb": "high"}.get(subset)
    label = label or ("entailment" if subset in ("mnli", "rte", "snli") else "positive")
    cfg = replace(compose([f"task={task}"]).task, subset=subset)
    patterns = pattern_sets(cfg, resolve_subset(cfg))[name]
    pattern = Pattern(patterns.patterns[0])
    texts = pattern.texts(Row("test:0", "A good film.", None, "It was shown."))
    assert pattern.fill(texts, patterns.words[label][0]) == filled


def test_the_sentiment_words_of_imdb_are_not_inverted():
    """PCP's IMDB files number their labels the other way round; words hang on label names."""
    cfg = replace(compose(["task=topics"]).task, subset="imdb")
    words = pattern_sets(cfg, resolve_subset(cfg))["pcp"].words
    assert words == {"negative": ("terrible",), "positive": ("great",)}
