"""A data set of the user's own: what is read, dropped, dealt to splits and said."""

import json
import random
from dataclasses import asdict, replace

import pytest

from peftbench.config.sections import build_section
from peftbench.errors import UsageError
from peftbench.records.ids import run_id
from peftbench.tasks import load_task
from peftbench.tasks.hf import HubDataConfig
from peftbench.tasks.own_data import OwnDataConfig, parse_split
from peftbench.tasks.protocols import draw


def config(path, **values):
    return build_section("task", {"adapter": "file", "path": str(path), **values})


def rows(counts, offset=0):
    return [(f"{label} text number {i + offset}", label) for label, count in counts.items() for i in range(count)]


def csv_of(pairs, header="text,label"):
    quoted = [f'"{text.replace(chr(34), chr(34) * 2)}",{label}' for text, label in pairs]
    return "\n".join([header, *quoted]) + "\n"


def loaded(folder, content, name="tickets.csv", **values):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_task(config(path, **values), None)


def message(folder, content, name="tickets.csv", **values):
    with pytest.raises(UsageError) as caught:
        loaded(folder, content, name, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PAIRS = rows({"billing": 40, "login": 30, "legal": 3})


def test_one_file_is_dealt_by_label_and_content_so_that_its_order_is_of_no_matter(tmp_path):
    data = loaded(tmp_path, csv_of(PAIRS))
    assert [len(split) for split in (data.train, data.dev, data.test)] == [57, 8, 8]
    assert {row.target for row in data.test} == {row.target for row in data.dev} == set(data.labels)
    assert data.labels == ("billing", "legal", "login")
    assert "class `legal` has 3 rows: 1 train, 1 dev, 1 test" in data.notes
    assert data.notes[0].startswith("split 80/10/10 by label and a hash of the texts")
    shuffled = random.Random(1).sample(PAIRS, len(PAIRS))
    assert loaded(tmp_path, csv_of(shuffled)).sha256() == data.sha256()
    assert loaded(tmp_path, csv_of(PAIRS), split_seed=1).sha256() != data.sha256()
    more = loaded(tmp_path, csv_of([*PAIRS, ("one more", "billing")]))
    assert {row.id for row in data.test} - {row.id for row in more.test} == set()  # ids are stable


def test_every_format_gives_the_same_rows(tmp_path):
    from pyarrow import Table, parquet

    records = [{"text": text, "label": label} for text, label in PAIRS]
    contents = {
        "a.csv": csv_of(PAIRS),
        "b.csv": "\ufeff" + csv_of(PAIRS, "text,label").replace("\n", "\r\n\r\n"),  # mark, CRLF, empty lines
        "c.csv": csv_of(PAIRS).replace(",", ";"),
        "d.tsv": csv_of(PAIRS).replace(",", "\t"),
        "e.jsonl": "\n\n".join(map(json.dumps, records)),
        "f.json": json.dumps(records),
        "g.json": json.dumps({"data": records}),
    }
    hashes = {name: loaded(tmp_path, content, name).sha256() for name, content in contents.items()}
    parquet.write_table(Table.from_pylist(records), tmp_path / "h.parquet")
    hashes["h.parquet"] = load_task(config(tmp_path / "h.parquet"), None).sha256()
    assert set(hashes.values()) == {hashes["a.csv"]}, hashes


def test_what_is_left_out_is_counted_and_said_with_its_place(tmp_path):
    dirt = [
        ("", "billing"),
        ("  ", "login"),
        ("no label", ""),
        PAIRS[0],
        ('quoted "word", \U0001f621\nsecond line', "login"),
    ]
    data = loaded(tmp_path, csv_of([*PAIRS, *dirt]))
    said = " ".join(data.notes)
    assert "2 rows without text left out (the first: " in said
    assert "tickets.csv, line 75)" in said
    assert "1 rows without a label not used for train, dev or test" in said
    assert "1 rows left out, exact duplicates of another" in said
    texts = [row.text for split in (data.train, data.dev, data.test) for row in split]
    assert len(texts) == len(set(texts)) == 74
    assert 'quoted "word", \U0001f621\nsecond line' in texts
    assert [row.text for row in data.unlabeled] == ["no label"]


def test_a_text_with_two_labels_stays_in_one_split(tmp_path):
    twins = [(f"same {i}", label) for i in range(20) for label in ("a", "b")]
    data = loaded(tmp_path, csv_of(twins), labels=["a", "b"])
    places = [{row.text for row in split} for split in (data.train, data.dev, data.test)]
    assert not places[0] & places[1]
    assert not places[0] & places[2]
    assert "20 texts stand there with more than one label" in data.notes
    assert len({row.id for row in data.train}) == len(data.train)


def test_splits_of_ones_own_are_files_or_a_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    train, test = rows({"a": 20, "b": 20}), rows({"a": 5, "b": 5}, offset=100)
    (folder / "train.csv").write_text(csv_of([*train, test[0]]))
    (folder / "test.csv").write_text(csv_of(test))
    (folder / "validation.jsonl").write_text(json.dumps({"text": "x", "label": "a"}))
    data = load_task(config(folder), None)
    assert [len(split) for split in (data.train, data.dev, data.test)] == [40, 1, 10]
    assert any("1 rows of train left out, exact duplicates of rows of another split" in note for note in data.notes)
    named = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    data = load_task(build_section("task", {"adapter": "file", "splits": named}), None)
    assert [len(split) for split in (data.train, data.dev, data.test)] == [40, 0, 10]
    with pytest.raises(UsageError, match="the data has splits of its own"):
        load_task(config(folder, split="80/20"), None)


def test_an_eval_file_as_traces_fomc_has_it_which_is_its_test_file_is_no_dev_set(tmp_path, default_protocol):
    """So dev is drawn from train, and no test row that stands in train is trained on."""
    folder = tmp_path / "FOMC"
    folder.mkdir()
    train, test = rows({"A": 20, "B": 20, "C": 20}), rows({"A": 5, "B": 5, "C": 5}, offset=100)
    for name, own in {"train": [*train, *test[:3]], "test": test, "eval": test}.items():
        lines = (json.dumps({"prompt": text, "answer": label}) for text, label in own)
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    data = load_task(config(folder, text="prompt", label="answer"), None)
    found = draw(data, default_protocol, 8)
    tested = {row.text for row in found.test}
    assert len(data.dev) == 0
    assert len(found.dev) > 0
    assert tested == {text for text, _ in test}
    assert not tested & {row.text for row in (*found.train, *found.dev)}


def test_scores_are_a_regression(tmp_path):
    pairs = [(f"text {i}", i / 10) for i in range(50)]
    data = loaded(tmp_path, csv_of(pairs), problem="regression")
    assert (data.problem, data.main_metric, data.metrics) == ("regression", "pearson", ("pearson", "spearman"))
    assert data.score_range is not None
    assert data.labels == ()
    assert "has to be a number" in message(tmp_path, csv_of([*pairs, ("x", "many")]), problem="regression")


def test_a_yaml_of_the_users_own_needs_only_what_is_peculiar_to_the_data(tmp_path, monkeypatch):
    from peftbench.config import compose

    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "tickets.yaml").write_text(
        "name: tickets\nadapter: file\npath: tickets.csv\ntext: body\nlabel: queue\n"
    )
    (tmp_path / "tickets.csv").write_text(csv_of(PAIRS, "body,queue"))
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    cfg = compose(["task=tickets", "task.split=60/40", "task.label_words.legal=law"]).task
    data = load_task(cfg, None)
    assert (data.name, data.subset, len(data.dev)) == ("tickets", "tickets", 0)
    assert data.label_words["legal"] == "law"
    with pytest.raises(UsageError, match=r"task\.lable: no such key. Did you mean `label`"):
        compose(["task=tickets", "task.lable=queue"])
    with pytest.raises(UsageError, match=r"task\.label_words\.leagl: `leagl` is no label. Did you mean `legal`"):
        load_task(compose(["task=tickets", "task.label_words.leagl=law"]).task, None)


@pytest.mark.parametrize(
    ("content", "values", "words"),
    [
        (csv_of(PAIRS), {"text": "txet"}, "task.text=txet: no such column. Did you mean `text`"),
        (csv_of(PAIRS), {"label": "queue"}, "task.label=queue: no such column"),
        (csv_of([("a", "x"), ("b", "x")]), {}, "every row has the label `x`"),
        (csv_of([(f"t{i}", f"id{i}") for i in range(30)]), {}, "30 different labels in 30 rows are no classes"),
        (csv_of(PAIRS) + "one field\n", {}, "line 75: 1 field where 2 are expected"),
        (csv_of(PAIRS) + '"open,billing\n', {}, "line 75: broken quoting"),
        (csv_of(PAIRS).encode() + b"nul \0,billing\n", {}, "line 75: binary data (a NUL byte)"),
        (csv_of(PAIRS).encode("utf-16"), {}, "UTF-16"),
        (csv_of(PAIRS).encode() + b"\xff,billing\n", {}, "line 75: not UTF-8"),
        (b"", {}, "the file is empty"),
        ("text,label\n", {}, "no row has a label"),
        ("text,text\na,b\n", {}, "line 1: two columns have the same name"),
        (csv_of(PAIRS), {"labels": ["billing", "login"]}, "the label `legal` is not among task.labels"),
        (csv_of(PAIRS), {"split": "80/20/"}, "task.split=80/20/: give shares"),
        (csv_of(PAIRS), {"split": "100/0"}, "task.split=100/0: give shares"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_task_is_refused_with_its_place(tmp_path, content, values, words):
    assert words in message(tmp_path, content, **values)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "x", "label": "a"}\n[1]\n', "line 2: a JSON object is expected"),
        ("a.jsonl", '{"text": 3, "label": "a"}\n', "`text` has to be text, found 3"),
        ("a.jsonl", '{"text": "cut \\ud83d", "label": "a"}\n', "half of an emoji"),
        ("a.jsonl", '{"text": "x", "label": ["a"]}\n', "`label` has to be a label"),
        ("a.json", '{"a": 1}', "a list of objects is expected"),
        ("a.json", "[" * 99_999, "not usable JSON"),
        ("a.parquet", b"PAR1 no", "not a readable parquet file"),
        ("a.xlsx", b"PK", "no reader for `.xlsx`"),
    ],
)
def test_other_formats_name_what_is_wrong_too(tmp_path, name, content, words):
    assert words in message(tmp_path, content, name)


def test_a_file_that_is_not_there_is_named_with_what_is(tmp_path):
    (tmp_path / "tickets.csv").write_text("x")
    with pytest.raises(UsageError, match=r"no such file or folder .*Did you mean `tickets\.csv`"):
        load_task(config(tmp_path / "ticket.csv"), None)
    with pytest.raises(UsageError, match=r"task\.path: has no value and needs one"):
        load_task(build_section("task", {"adapter": "file"}), None)


def test_where_the_file_lies_does_not_enter_the_name_of_a_run(tmp_path):
    names = set()
    for place in ("here/tickets.csv", "there/other.csv"):
        path = tmp_path / place
        path.parent.mkdir()
        path.write_text(csv_of(PAIRS))
        cfg = config(path)
        data = load_task(cfg, None)
        names.add(run_id({"task": asdict(cfg)}, "", data.sha256(), ""))
        assert cfg.subset == path.stem
    assert len(names) == 1


def test_shares():
    assert parse_split("70/10/20") == {"train": 70, "dev": 10, "test": 20}


def test_defaults_are_those_of_the_yaml():
    """`conf/task/file.yaml` says nothing that a YAML of the user's, without it, would have to say."""
    from peftbench.config import compose

    given, own = compose(["task=file"]).task, OwnDataConfig(adapter="file", subset="own")
    assert replace(given, description="") == own
    given, own = compose(["task=hf"]).task, HubDataConfig(name="hf", adapter="hf", subset="own", licence="its own")
    assert replace(given, description="") == own
