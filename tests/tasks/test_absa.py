"""The ABSA formats on a few rows written here, and their counts on the real files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.absa import read_apc, read_tuple_lines


@pytest.fixture
def load(task_config, tmp_path):
    """Write files below absa/SUBTASK/DOMAIN, then read the subset."""

    def make(subset: str, **files: str):
        folder: Path = tmp_path / "absa" / subset.replace("_", "/")
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_bytes(content.encode())
        return load_task(task_config("absa", f"task.subset={subset}"), tmp_path)

    return make


APC = (
    "Skip taking the $T$ because of the good battery life .\ncord\nNeutral\n"
    "Skip taking the cord because of the good $T$ .\nbattery life\nPositive\n"
    "The $T$ is bad , no $T$ at all !\nservice\nNegative\n"
)


def test_apc_rows_are_sentence_and_aspect(load):
    data = load("apc_lap14", train__raw=APC, test__raw=APC)
    sentence = "Skip taking the cord because of the good battery life ."
    assert [(r.id, r.text, r.pair, r.target) for r in data.train] == [
        ("train:0", sentence, "cord", "neutral"),
        ("train:1", sentence, "battery life", "positive"),
        ("train:2", "The service is bad , no service at all !", "service", "negative"),  # every mark is replaced
    ]
    assert data.labels == ("negative", "neutral", "positive")
    assert len(data.dev) == 0
    assert (data.main_metric, data.metrics) == ("accuracy", ("accuracy", "f1_macro"))


def test_rows_of_one_sentence_share_a_group_however_it_is_spelled(load):
    rows = "The `` $T$ '' was fine .\nfish\nPositive\nThe \"fish\" was $T$.\nfine\nPositive\nA $T$ .\nfish\nNeutral\n"
    data = load("apc_rest14", train__raw=rows, test__raw=rows)
    assert [r.group for r in data.train] == ["train:s0", "train:s0", "train:s2"]
    assert [r.group for r in data.test] == ["test:s0", "test:s0", "test:s2"]


@pytest.mark.parametrize("spelling", ["POS", "positive", "Positive"])
def test_polarity_spellings(load, spelling):
    rows = f"A $T$ .\nfish\n{spelling}\n"
    assert load("apc_twitter", train__raw=rows, test__raw=rows).test[0].target == "positive"


def test_mams_calls_its_dev_file_valid(load):
    data = load("apc_mams", train__raw=APC, valid__raw=APC.replace("!", "?"), test__raw=APC)
    assert [r.id for r in data.dev] == ["dev:0", "dev:1", "dev:2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (APC + "A $T$ .\nfish\n", r"train\.raw, line 10: three lines a row"),
        (APC + "A fish .\nfish\nPositive\n", r"train\.raw, line 10: .*A fish \. \| fish \| Positive"),
        (APC + "A $T$ .\n\nPositive\n", r"train\.raw, line 10: three lines a row"),
        (APC.replace("cord\nNeutral", "cord"), r"train\.raw, line 4: .*A line is missing"),
        (APC.replace("Neutral", "conflict"), r"train\.raw, line 1: the label `conflict` is not in the label set"),
    ],
)
def test_damaged_apc_names_file_and_line(load, rows, message):
    with pytest.raises(UsageError, match=message):
        load("apc_rest15", train__raw=rows, test__raw=APC)


def test_rest16_says_where_it_would_be_read_from(task_config, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"absa/apc/rest16/train\.raw"):
        load_task(task_config("absa", "task.subset=apc_rest16"), tmp_path)


WORD = st.text(st.characters(categories=["L", "P", "N"]), min_size=1, max_size=6).filter(lambda w: "$T$" not in w)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.lists(WORD, max_size=4), WORD, st.lists(WORD, max_size=4), WORD), min_size=1, max_size=5))
def test_apc_round_trip(items):
    rows = [(" ".join([*left, "$T$", *right]), aspect, label) for left, aspect, right, label in items]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.raw")
        path.write_text("".join("\n".join(row) + "\n" for row in rows), "utf-8")
        records = read_apc(path)
    assert [(line, tuple(record.values())) for line, record in records] == [
        (3 * i + 1, row) for i, row in enumerate(rows)
    ]


def tuples(load, subset: str, line: str, suffix: str = "txt", stem: str = "{}") -> object:
    names = {f"{stem.format(split)}__{suffix}": line + "\n" for split in ("train", "dev", "test")}
    data = load(subset, **names)
    assert (data.problem, data.labels, data.main_metric) == ("tuples", (), "f1_tuples")
    return data.test[0].target


def test_aste_positions_become_words(load):
    line = "the battery life is n't bad at all .####[([1, 2], [3, 4, 5], 'POS'), ([2], [5], 'NEG')]"
    assert tuples(load, "aste_lap14", line, stem="{}_triplets") == (
        ("battery life", "is n't bad", "positive"),
        ("life", "bad", "negative"),
    )


def test_positions_count_words_between_single_spaces(load):
    assert tuples(load, "aope_rest14", "so  good food####[([3], [2])]") == (("food", "good"),)  # "" is word 1


def test_a_sentence_may_hold_the_mark_and_have_no_tuple(load):
    assert tuples(load, "uabsa_rest14", "odd #### sentence####[]") == ()


def test_tasd_and_asqp_keep_null(load):
    assert tuples(load, "tasd_rest15", "good####[('NULL', 'food quality', 'positive')]") == (
        ("NULL", "food quality", "positive"),
    )
    assert tuples(load, "asqp_rest15", "good####[['NULL', 'food quality', 'positive', 'good']]") == (
        ("NULL", "food quality", "positive", "good"),
    )


def test_acos_json_has_the_element_order_of_asqp(load):
    quad = {"aspect": "unit", "opinion": "nice", "polarity": "neutral", "category": "X#Y"}
    line = json.dumps({"text": "nice unit", "labels": [quad]})
    assert tuples(load, "acos_laptop", line, suffix="jsonl") == (("unit", "X#Y", "neutral", "nice"),)


def test_dev_contained_in_train_is_noted(load):
    row = "good {}####[('NULL', 'food quality', 'positive')]\n"
    files = {"train__txt": row.format(1) + row.format(2), "dev__txt": row.format(2), "test__txt": row.format(3)}
    assert any(
        note.startswith("dev: 1 of 1 rows also stand in train, so") for note in load("tasd_rest15", **files).notes
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no mark at all", "a sentence, #### and a list of tuples"),
        ("good food####[([1], [0], 'POS')", "a sentence, #### and a list of tuples"),
        ("good food####__import__('os').getcwd()", "a sentence, #### and a list of tuples"),
        ("good food####[([2], [0], 'POS')]", "word positions from 0 to 1"),
        ("good food####[([-1], [0], 'POS')]", "word positions from 0 to 1"),
        ("good food####[([1], [0])]", "whose tuples hold aspect, opinion, polarity"),
        ("good food####[7]", "whose tuples hold aspect, opinion, polarity"),
        ("good food####[([1], [0], 'GOOD')]", "the label `GOOD`"),
    ],
)
def test_damaged_tuples_name_file_and_line(load, line, message):
    fine = "good food####[([1], [0], 'POS')]\n"
    with pytest.raises(UsageError, match=rf"train_triplets\.txt, line 2: .*{message}"):
        load("aste_rest15", train_triplets__txt=fine + line, test_triplets__txt=fine)


@settings(max_examples=40)
@given(st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), min_size=1, max_size=30))
def test_tuple_line_splits_at_the_last_mark(sentence):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.txt")
        path.write_text(f"x{sentence}####[([0], 'POS')]\n", "utf-8")
        records = read_tuple_lines(path)
    assert records == [(1, {"text": f"x{sentence}", "labels": [([0], "POS")]})]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("subset", "sizes", "test_counts"),
    [
        ("apc_lap14", (2328, 0, 638), (128, 169, 341)),
        ("apc_rest14", (3608, 0, 1120), (196, 196, 728)),
        ("apc_rest15", (1201, 0, 540), (180, 34, 326)),
        ("apc_twitter", (6248, 0, 692), (173, 346, 173)),
        ("apc_mams", (11186, 1332, 1336), (329, 607, 400)),
    ],
)
def test_real_polarity_counts(task_config, real_data, subset, sizes, test_counts):
    data = load_task(task_config("absa", f"task.subset={subset}"), real_data)
    assert (len(data.train), len(data.dev), len(data.test)) == sizes
    assert tuple(sum(row.target == label for row in data.test) for label in data.labels) == test_counts
    assert not any("$T$" in row.text for row in data.train)


@pytest.mark.data
@pytest.mark.slow
def test_real_lap14_sentences(task_config, real_data):
    """2328 rows of 1458 sentences by the data's README; two are spelled so unlike that letters differ."""
    data = load_task(task_config("absa"), real_data)
    assert len({row.group for row in data.train}) == 1460


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("subset", "rows", "counts"),
    [
        ("aste_lap14", (906, 219, 328), (1460, 346, 543)),
        ("aste_rest14", (1266, 310, 492), (2338, 577, 994)),
        ("aste_rest15", (605, 148, 322), (1013, 249, 485)),
        ("aope_lap14", (1035, 116, 343), (1485, 149, 482)),
        ("aope_rest14", (1462, 163, 500), (2383, 260, 864)),
        ("aope_rest15", (678, 76, 325), (969, 107, 436)),
        ("uabsa_lap14", (2741, 304, 800), (2045, 256, 634)),
        ("uabsa_rest14", (2736, 304, 800), (3269, 330, 1121)),
        ("uabsa_rest15", (1183, 130, 685), (1079, 130, 547)),
        ("tasd_rest15", (1120, 10, 582), (1654, 13, 845)),
        ("asqp_rest15", (834, 209, 537), (1354, 347, 795)),
        ("acos_laptop", (2934, 326, 816), (4172, 440, 1161)),
    ],
)
def test_real_tuple_counts(task_config, real_data, subset, rows, counts):
    data = load_task(task_config("absa", f"task.subset={subset}"), real_data)
    splits = (data.train, data.dev, data.test)
    assert tuple(map(len, splits)) == rows
    assert tuple(sum(len(row.target) for row in split) for split in splits) == counts
    if subset == "tasd_rest15":
        assert any(note.startswith("dev: 10 of 10 rows also stand in train") for note in data.notes)
