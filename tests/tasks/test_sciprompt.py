"""SciPrompt's data and label files on a few rows written here, and the counts of the real files."""

from __future__ import annotations

import json

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.sciprompt import label_names, label_terms

LABEL_FILES = {
    "label_dict.txt": "{'Visual QA (VQA)': ['visual question answering'],\n 'Rule-based MT (RBMT)': ['rule MT']}\n",
    "output_words.txt": "visual qa (vqa),image,look at\nrule-based mt (rbmt)\n",
    "output_scores.txt": "1,0.75,0.5625\n1\n",
}


@pytest.fixture
def write(tmp_path):
    def make(subset: str, **files: str):
        folder = tmp_path / "sciprompt" / subset
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_bytes(content.encode())
        return folder

    return make


@pytest.fixture
def load(task_config, tmp_path):
    return lambda subset: load_task(task_config("sciprompt", f"task.subset={subset}"), tmp_path)


def test_abstracts_without_header_and_labels_with_parentheses(write, load):
    texts = 'It sees,"Visual QA (VQA)"\n"Two\nlines, ""quoted""",Rule-based MT (RBMT)\n'
    write("emerging_nlp", train_set__csv=texts, test_set__csv=texts, **LABEL_FILES)
    data = load("emerging_nlp")
    assert data.labels == ("Visual QA (VQA)", "Rule-based MT (RBMT)")  # order of label_dict.txt, not alphabetical
    assert [(r.id, r.text, r.target) for r in data.train] == [
        ("train:0", "It sees", "Visual QA (VQA)"),
        ("train:1", 'Two\nlines, "quoted"', "Rule-based MT (RBMT)"),
    ]
    assert data.label_words["Visual QA (VQA)"] == "visual question answering"
    assert any(note.startswith("train: 2 of the official 210 rows") for note in data.notes)
    assert (data.main_metric, data.metrics, len(data.dev)) == ("accuracy", ("accuracy", "f1_macro"), 0)


@pytest.mark.parametrize("subset", ["sdpra2021", "arxiv", "s2orc"])
def test_absent_texts_say_which_files_are_needed(write, load, subset):
    write(subset, **LABEL_FILES)
    with pytest.raises(UsageError, match=rf"(?s)sciprompt/{subset}/train\.csv.*no header line, two columns"):
        load(subset)


@pytest.mark.parametrize("subset", ["sdpra2021", "arxiv", "s2orc"])
def test_texts_are_read_once_they_are_there(write, load, subset):
    write(subset, train__csv="An abstract,Visual QA (VQA)\n", test__csv="Another,Rule-based MT (RBMT)\n", **LABEL_FILES)
    data = load(subset)
    assert (data.train[0].target, data.test[0].target) == ("Visual QA (VQA)", "Rule-based MT (RBMT)")


def test_a_label_outside_label_dict_names_file_and_line(write, load):
    write("s2orc", train__csv="a,Visual QA (VQA)\nb,Visual QA\n", test__csv="c,Visual QA (VQA)\n", **LABEL_FILES)
    with pytest.raises(
        UsageError, match=r"train\.csv, line 2: the label `Visual QA` .*Did you mean `Visual QA \(VQA\)`"
    ):
        load("s2orc")


def test_mag_drops_its_junk_row_and_says_so(write, load):
    rows = [("a title", "medicine"), ("tokens", "category"), ("tokens", "politics")]
    dev = "".join(json.dumps({"text": text, "label": label, "metadata": []}) + "\n" for text, label in rows)
    write("mag", dev__txt=dev, test__txt=dev.replace("category", "sociology"))
    data = load("mag")
    assert [(r.id, r.text, r.target) for r in data.train] == [
        ("train:0", "a title", "medicine"),
        ("train:2", "tokens", "politics"),  # ids count the rows of the file
    ]
    assert len(data.labels) == 7
    assert len(data.dev) == 0
    assert any("1 junk row dropped" in note for note in data.notes)
    assert any("official dev rows" in note for note in data.notes)


def test_arxiv5_has_a_header_and_texts_of_several_lines(write, load):
    texts = 'text,label\n"  We use\nparticles.\n",cond-mat\n'
    write("arxiv5", train_augmented__csv=texts, test_untouched__csv=texts)
    data = load("arxiv5")
    assert [(r.text, r.target) for r in data.test] == [("We use\nparticles.", "cond-mat")]
    assert data.label_words["cond-mat"] == "condensed matter"


def test_terms_are_paired_by_line_not_by_the_seed_word(write, tmp_path):
    write("emerging_nlp", **LABEL_FILES)
    first, second = label_terms(tmp_path / "sciprompt", "emerging_nlp")
    assert (first.label, first.words, first.scores) == (
        "Visual QA (VQA)",
        ("visual qa (vqa)", "image", "look at"),
        (1.0, 0.75, 0.5625),
    )
    assert (second.label, second.words) == ("Rule-based MT (RBMT)", ("rule-based mt (rbmt)",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("output_scores.txt", "1,0.75\n1\n", r"output_scores\.txt, line 1: 2 scores for the 3 terms"),
        ("output_scores.txt", "1,0.75,high\n1\n", r"output_scores\.txt, line 1: could not convert"),
        ("output_words.txt", "visual qa (vqa),image,look at\n", r"output_words\.txt: 1 lines .* 2 labels"),
        ("label_dict.txt", "{'a': ['b'], 'c': open('x')}", r"label_dict\.txt: not a Python dict"),
        ("label_dict.txt", "{'a': []}", r"label_dict\.txt: not a Python dict"),
        ("label_dict.txt", "{1: ['a']}", r"label_dict\.txt: not a Python dict"),
        ("label_dict.txt", "['a']", r"label_dict\.txt: not a Python dict"),
    ],
)
def test_damaged_label_files(write, tmp_path, name, content, message):
    write("emerging_nlp", **(LABEL_FILES | {name: content}))
    with pytest.raises(UsageError, match=message):
        label_terms(tmp_path / "sciprompt", "emerging_nlp")


def test_missing_label_file_is_named(write, load):
    write("emerging_nlp", train_set__csv="a,b\n", test_set__csv="a,b\n")
    with pytest.raises(UsageError, match=r"label_dict\.txt: cannot be read"):
        load("emerging_nlp")


@pytest.mark.data
@pytest.mark.parametrize(
    ("subset", "train", "test", "labels"),
    [("emerging_nlp", 210, 420, 21), ("mag", 5598, 22399, 7), ("arxiv5", 1180, 200, 5)],
)
def test_real_counts(task_config, real_data, subset, train, test, labels):
    data = load_task(task_config("sciprompt", f"task.subset={subset}"), real_data)
    assert (len(data.train), len(data.test), len(data.labels)) == (train, test, labels)
    assert {row.target for row in data.train} == set(data.labels)
    if subset == "emerging_nlp":
        assert {sum(row.target == label for row in data.test) for label in data.labels} == {20}


@pytest.mark.data
@pytest.mark.parametrize(
    ("subset", "labels", "fewest", "most"),
    [("emerging_nlp", 21, 1, 307), ("sdpra2021", 7, 24, 159), ("arxiv", 53, 1, 306), ("s2orc", 19, 4, 200)],
)
def test_real_label_terms(real_data, subset, labels, fewest, most):
    """Counts as SciPrompt's specification has them; the class name scores 1, every other term above 0.5."""
    terms = label_terms(real_data / "sciprompt", subset)
    counts = [len(own.words) for own in terms]
    assert (len(terms), min(counts), max(counts)) == (labels, fewest, most)
    assert all(own.scores[0] == 1 and min(own.scores) > 0.5 and max(own.scores) <= 1 for own in terms)
    assert [own.label for own in terms] == list(label_names(real_data / "sciprompt" / subset))
    if subset == "sdpra2021":
        assert [own.label for own in terms] == ["LO", "DC", "SE", "DS", "CL", "NI", "CR"]


def test_terms_and_template_reach_the_cloze_formulation(write, load):
    texts = "It sees,Visual QA (VQA)\nRules,Rule-based MT (RBMT)\n"
    write("emerging_nlp", train_set__csv=texts, test_set__csv=texts, **LABEL_FILES)
    data = load("emerging_nlp")
    assert data.terms == {
        "Visual QA (VQA)": (("visual qa (vqa)", 1.0), ("image", 0.75), ("look at", 0.5625)),
        "Rule-based MT (RBMT)": (("rule-based mt (rbmt)", 1.0),),
    }
    assert {"output_words.txt", "output_scores.txt"} <= data.source.files.keys(), "their hashes are in the record"
    assert data.cloze["sciprompt"].patterns == ("The field of this study is related to: {mask}. {text}",)
    assert data.cloze["sciprompt"].words["Visual QA (VQA)"] == ("visual question answering",)


def test_a_task_without_lists_has_no_terms(write, load):
    texts = "It sees,Visual QA (VQA)\nRules,Rule-based MT (RBMT)\n"
    write("emerging_nlp", train_set__csv=texts, test_set__csv=texts, label_dict__txt=LABEL_FILES["label_dict.txt"])
    assert load("emerging_nlp").terms == {}
    write("arxiv5", train_augmented__csv="text,label\na,math\n", test_untouched__csv="text,label\nb,cs\n")
    assert load("arxiv5").terms == {}
