"""The dictionaries of a task's YAML: a misspelt key, a label that is none, a word that YAML made another type."""

import pytest

from peftbench.config import compose
from peftbench.config.tasks import check_task, other_word
from peftbench.errors import UsageError
from peftbench.tasks import load_task


def task(subset=None, **common):
    subset = {"labels": ["pos", "neg"], "files": {"train": "a.tsv", "test": "b.tsv"}, **(subset or {})}
    return {"name": "t", "adapter": "topics", "subset": "all", "subsets": {"all": subset}, **common}


def message(*args, **common):
    with pytest.raises(UsageError) as caught:
        check_task(task(*args, **common))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("subset", "key", "near"),
    [
        ({"metric": ["mcc"]}, "task.subsets.all.metric", "`metrics`"),
        ({"label_word": {"pos": "x"}}, "task.subsets.all.label_word", "`label_words`"),
        ({"label_words": {"postive": "great"}}, "task.subsets.all.label_words.postive", "`pos`"),
        ({"files": {"trian": "a.tsv"}}, "task.subsets.all.files.trian", "`train`"),
        ({"sizes": {"tset": 3}}, "task.subsets.all.sizes.tset", "`test`"),
        ({"layout": {"al": {}}}, "task.subsets.all.layout.al", "`all`"),
        ({"layout": {"all": {"colums": ["a"]}}}, "task.subsets.all.layout.all.colums", "`columns`"),
        ({"hub": {"rpeo": "a/b"}}, "task.subsets.all.hub.rpeo", "`repo`"),
        ({"cloze": {"ours": {"pattern": "{text} {mask}"}}}, "task.subsets.all.cloze.ours.pattern", "`patterns`"),
        ({"cloze": {"ours": {"words": {"ngs": "x"}}}}, "task.subsets.all.cloze.ours.words.ngs", "`neg`"),
        ({"cloze": {"ours": {"shorten": "longst"}}}, "task.subsets.all.cloze.ours.shorten", "`longest`"),
        ({"elements": ["aspect"]}, "task.subsets.all.elements", "Valid"),  # a key of another adapter
    ],
)
def test_a_misspelt_key_or_label_is_named_with_the_nearest(subset, key, near):
    text = message(subset)
    assert text.startswith(key)
    assert near in text


@pytest.mark.parametrize(
    ("subset", "key", "quoted"),
    [
        ({"labels": [True, False]}, "labels[0]", '"yes"'),
        ({"labels": {0: False, 1: True}}, "labels.0", '"no"'),
        ({"labels": {False: "neg", True: "pos"}}, "labels, key False", '"no"'),
        ({"labels": [0, 1]}, "labels[0]", '"0"'),
        ({"labels": {"a": None, "b": "pos"}}, "labels.a", '"null"'),
        ({"label_words": {"pos": True}}, "label_words.pos", '"yes"'),
        ({"cloze": {"ours": {"words": {"pos": True, "neg": False}}}}, "cloze.ours.words.pos", '"yes"'),
        ({"cloze": {"ours": {"words": {"pos": 1}}}}, "cloze.ours.words.pos", '"1"'),
        ({"cloze": {"ours": {"words": {"pos": ["great", 1.5]}}}}, "cloze.ours.words.pos[1]", '"1.5"'),
    ],
)
def test_what_yaml_made_another_type_is_named_with_its_quotes(subset, key, quoted):
    text = message(subset)
    assert text.startswith(f"task.subsets.all.{key}")
    assert f"quotes: {quoted}" in text or f"in quotes: {quoted}" in text


@pytest.mark.parametrize(
    ("subset", "key"),
    [
        ({"labels": "pos"}, "task.subsets.all.labels"),
        ({"sizes": {"train": -1}}, "task.subsets.all.sizes.train"),
        ({"sizes": ["train"]}, "task.subsets.all.sizes"),
        ({"fields": []}, "task.subsets.all.fields"),
        ({"label_words": ["great"]}, "task.subsets.all.label_words"),
        ({"cloze": {"ours": "{text} {mask}"}}, "task.subsets.all.cloze.ours"),
        ({"labels": None}, "task.subsets.all.labels: has no value"),
        ({"labels": ["pos", "pos"]}, "task.subsets.all.labels[1]: `pos` stands there already"),
        ({"labels": ["pos", "pos "]}, "task.subsets.all.labels[1]: `pos` stands there already"),
        ({"labels": ["\u00e9", "e\u0301"]}, "task.subsets.all.labels[1]: `\u00e9` stands there already"),
        ({"labels": ["", "neg"]}, "task.subsets.all.labels[0]: is empty"),
        ({"label_words": {"pos": " "}}, "task.subsets.all.label_words.pos: is empty"),
        ({"cloze": {"ours": {"words": {"pos": ["good", ""]}}}}, "task.subsets.all.cloze.ours.words.pos[1]: is empty"),
        ({"fields": ["text", "text"]}, "task.subsets.all.fields[1]: `text` stands there already"),
    ],
)
def test_a_value_of_another_shape_is_refused(subset, key):
    assert message(subset).startswith(key)


def test_labels_as_files_write_them_may_be_numbers():
    check_task(task({"labels": {0: "neg", 1: "pos"}, "label_words": {"pos": "great"}}))


def test_words_of_the_task_belong_to_a_label_of_any_subset():
    assert "`pos`" in message(label_words={"postive": "great"})
    check_task(task(label_words={"pos": "great"}))
    assert message(cloze={"ours": {"patterns": "{mask}", "words": {"po": "x"}}}).startswith("task.cloze.ours.words.po:")


def test_words_of_scores_belong_to_their_ends():
    subset = {"score_range": [0, 5], "cloze": {"a": {"words": {"low": "No"}}}}
    check_task({"adapter": "glue", "subsets": {"stsb": subset}})
    subset["cloze"]["a"]["words"] = {"lowest": "No"}
    with pytest.raises(UsageError, match=r"cloze\.a\.words\.lowest: `lowest` is no label\. Did you mean `low`"):
        check_task({"adapter": "glue", "subsets": {"stsb": subset}})


def test_a_label_gets_another_word_by_the_command_that_is_advised():
    cfg = compose(["task=demo_news", other_word("sports").replace("WORD", "games")])
    assert cfg.task.label_words == {"sports": "games"}
    stars = compose(["task=yelp_review", other_word("one star").strip("'").replace("WORD", "bad")])
    assert stars.task.label_words == {"one star": "bad"}
    with pytest.raises(UsageError, match=r"`bussiness` is no label\. Did you mean `business`"):
        compose(["task=demo_news", "task.label_words.bussiness=money"])


def test_keys_of_a_task_are_checked_although_they_may_be_new():
    with pytest.raises(UsageError, match=r"task\.lagn: no such key\. Did you mean `lang`"):
        compose(["task=masakhanews", "task.lagn=swa"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.metrics=[nope]", "task.metrics: no metric `nope`"),
        ("task.metrics=[pearson]", "no metric `pearson` for a classification task"),
        ("task.main_metric=f1", "task.main_metric=f1: is not among the task's metrics"),
    ],
)
def test_a_metric_that_there_is_not_is_refused_before_anything_is_loaded(override, words):
    cfg = compose(["task=masakhanews", override])  # there is no data: that would be the next complaint
    with pytest.raises(UsageError) as caught:
        load_task(cfg.task, None)
    assert words in str(caught.value)


def test_metrics_of_the_task_are_added_to_those_of_a_subset():
    from peftbench.tasks.sources import resolve_subset

    assert resolve_subset(compose(["task=mrpc", "task.metrics=[mcc]"]).task).metrics == ("f1_binary", "accuracy", "mcc")
    assert resolve_subset(compose(["task=stsb"]).task).metrics == ("pearson", "spearman")
