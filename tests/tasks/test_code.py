"""`task=code_tests`, `task=trace`, and the metrics of code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from made_up_configs import compose

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.base import TaskData
from peftbench.tasks.code_metrics import distance, edit_similarity, exact_match, parses_java
from peftbench.tasks.metrics import score
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.base import Sourced

PROJECTS = (
    "jsoup", "gson", "joda-time", "commons-codec", "commons-collections", "commons-io", "commons-lang", "commons-text",
)  # fmt: skip


def target(*references: str) -> Sourced:
    return Sourced("", references, 0)


def test_distance_is_the_fewest_edits() -> None:
    @cache
    def plain(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(plain(a[1:], b) + 1, plain(a, b[1:]) + 1, plain(a[1:], b[1:]) + (a[0] != b[0]))

    assert distance("kitten", "sitting") == 3
    rng = np.random.RandomState(0)
    for _ in range(60):
        a, b = ("".join(rng.choice(list("ab{;")) for _ in range(rng.randint(0, 9))) for _ in range(2))
        assert distance(a, b) == plain(a, b)


def test_metrics_look_past_white_space_and_take_the_nearest_reference() -> None:
    assert exact_match(target("int a;"), "  int\n\ta;") == 1
    assert exact_match(target("int a;"), "int  b;") == 0
    assert edit_similarity(target("abcd", "xbcd"), "xbc\n") == pytest.approx(1 - 1 / 4)
    assert edit_similarity(target("abcd"), "") == 0
    assert exact_match(target("a"), None) == edit_similarity(target("a"), None) == parses_java(target("a"), None) == 0


@pytest.mark.parametrize(
    ("code", "parses"),
    [
        ("@Test\npublic void a() { assertEquals(1, b.c(\"x\")); }", 1),
        ("int n = 0;\n@Test void a() {}\n// end", 1),
        ('@Test void a() { var s = """\n  text\n  """; int k = switch (n) { case 1 -> 2; default -> 3; }; }', 1),
        ("@Test public void a() { assertEquals(1, b.c(\"x\");", 0),
        ("@Test public void a() { assertEquals(1, ", 0),
        ("@Test void a() {} } class B { void b() {}", 0),  # leaves the class it was put in
        ("int n = 0;", 0),
        ("Write a unit test for the method.", 0),
    ],
)  # fmt: skip
def test_what_parses_is_members_of_one_class_with_a_method(code: str, parses: int) -> None:
    pytest.importorskip("tree_sitter_java")
    assert parses_java(target(), code) == parses


def test_the_parser_is_asked_for_before_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftbench.tasks import code_metrics

    code_metrics.java_parser.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "tree_sitter_java", None)
    metric = kind("code").metrics["parses_java"]
    with pytest.raises(UsageError, match=r"pip install 'peftbench\[code\]'"):
        metric.needs()
    code_metrics.java_parser.cache_clear()


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """Two train rows of one method, a dev row and two test rows in each project."""
    folder = tmp_path / "more/code/java_projects"
    folder.mkdir(parents=True)
    for name in PROJECTS:
        rows = [
            {"focal_class": f"C{n // 2}", "focal_method": f"int m{n // 2}() {{ return {len(name)}; }}",
             "test": f"@Test\nvoid t{n}() {{}}", "split": split}
            for n, split in enumerate(["train", "train", "dev", "test", "test"])
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return tmp_path


def code_task(folder: Path, *overrides: str) -> TaskData:
    return load_task(compose(["task=code_tests", *overrides]).task, folder)


def test_a_project_and_the_others(projects: Path) -> None:
    own = code_task(projects, "task.project=gson")
    assert (own.subset, own.problem, own.main_metric) == ("gson", "code", "bleu")
    assert [row.id for row in own.train] == ["train:gson-0", "train:gson-1"]
    assert own.train[0].text == "class C0 {\nint m0() { return 4; }\n}"
    assert own.train[0].target == ("@Test\nvoid t0() {}",)
    assert own.train[0].group == own.train[1].group != own.test[0].group
    assert not own.extra_tests
    others = code_task(projects, "task.project=gson", "task.train_on=others", "task.other_rows=5")
    assert others.subset == "others-to-gson"
    assert {row.domain for row in others.train} == {*PROJECTS} - {"gson"}
    assert [row.id for row in others.test] == [row.id for row in own.test] == ["test:gson-3", "test:gson-4"]
    assert len(others.extra_tests["others"]) == 5
    assert "gson" not in {row.domain for row in others.extra_tests["others"]}


def test_the_whole_text_is_the_answer_and_counts(projects: Path) -> None:
    data = code_task(projects)
    code, style = kind("code"), "words"
    assert code.parse("\n @Test\nvoid t3() {}\n\n", data, style) == "@Test\nvoid t3() {}"
    assert code.parse(" \n", data, style) is None
    right = [row.target[0] for row in data.test]
    assert list(score(data, data.test, right).values()) == pytest.approx([100, 100, 100])
    found = score(data, data.test, [right[0].replace("\n", " "), None])
    assert found["exact_match"] == found["edit_similarity"] == 50
    assert 0 < found["bleu"] < 100


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            '{"focal_class": "C", "focal_method": "m", "test": "t", "split": "valid"}',
            "line 1: split `valid` is none of",
        ),
        ('{"focal_class": "C", "focal_method": " ", "test": "t", "split": "test"}', "line 1: `focal_method` or `test`"),
        ('{"focal_class": "C", "focal_method": "m", "test": "t", "split": "train"}', "no row whose split is test"),
        ('{"focal_class": "C", "test": "t", "split": "train"}', "column `focal_method` missing"),
    ],
)
def test_wrong_files_are_named(projects: Path, line: str, words: str) -> None:
    (projects / "more/code/java_projects/jsoup.jsonl").write_text(line + "\n", "utf-8")
    with pytest.raises(UsageError, match=words):
        code_task(projects)
    with pytest.raises(UsageError, match="Did you mean `jsoup`"):
        code_task(projects, "task.project=jsop")


def test_texts_and_their_answers(tmp_path: Path) -> None:
    folder = tmp_path / "more/continual/trace/NumGLUE-cm"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": f"{split}: 1 + 1?\n", "answer": "2"}), "utf-8")
    data = load_task(compose(["task=trace"]).task, tmp_path)
    assert [(row.id, row.text, row.target) for row in data.test] == [("test:0", "test: 1 + 1?", ("2",))]
    assert score(data, data.test, ["2"])["exact_match"] == 100
    (folder / "test.jsonl").write_text('{"prompt": "1?", "answer": " "}', "utf-8")
    with pytest.raises(UsageError, match="line 1: `answer` is empty"):
        load_task(compose(["task=trace"]).task, tmp_path)


@pytest.mark.data
def test_the_released_files(real_data: Path) -> None:
    pytest.importorskip("tree_sitter_java")
    for project in ("jsoup", "joda-time"):
        data = code_task(real_data, f"task.project={project}")
        assert [len(data.train), len(data.dev), len(data.test)] == [100, 20, 30]
        assert all(parses_java(target(), row.target[0]) for row in (*data.train, *data.test))
        assert not {row.text for row in data.train} & {row.text for row in data.test}
    trace = load_task(compose(["task=trace", "task.subset=NumGLUE-ds"]).task, real_data)
    assert [len(trace.train), len(trace.dev), len(trace.test)] == [1069, 0, 325]
