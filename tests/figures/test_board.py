"""What is read from a tuned table: ties first, ranks of both tracks, what tuning changed, fronts; and its folder."""

from __future__ import annotations

import pytest
from made_up_runs import file_run

from peftbench.cli import main
from peftbench.errors import UsageError
from peftbench.figures import budget
from peftbench.figures.board import reading
from peftbench.figures.board.page import comparisons, page
from peftbench.records.store import Store
from peftbench.tables import spec
from peftbench.tables.table import make_table

BOARD = """# peftbench table small-board
title: A small board
description: three methods and a floor on two languages
paper: none
run: {task: masakhanews, shots: 10, model: tiny-bert}
repeat: {data_seed: [1, 2, 3]}
tune: {data_seed: 101}
panels:
  - {label: as given}
  - {label: tuned, tune: {search: tpe, search.trials: 8}}
  - {label: trials, metric: tuning_trials, tune: {search: tpe, search.trials: 8}}
columns:
  - {label: hau, run: {task.lang: hau}}
  - {label: swa, run: {task.lang: swa}}
rows:
  - {label: floor, fixed: true, run: {method: majority}}
  - {label: LoRA, run: {method: lora}}
  - {label: BitFit, run: {method: bitfit}}
  - {label: Full, run: {method: full}}
  - {label: MoE, missing: another question}
"""
BUDGET = """# peftbench table small-board-budget
title: A small board by budget
description: three methods
paper: none
run: {task: masakhanews, task.lang: hau, shots: 10, model: tiny-bert}
repeat: {data_seed: [1, 2, 3]}
tune: {data_seed: 101}
columns:
  - {label: 0 trials}
  - {label: 8 trials, tune: {search: tpe, search.trials: 8}}
rows:
  - {label: LoRA, run: {method: lora}}
  - {label: BitFit, run: {method: bitfit}}
  - {label: IA3, run: {method: ia3}}
"""
WORSE, BETTER = 0.45, 0.95
CHOSEN = {
    "lora": ({"method.lr.lora": 0.004, "method.tuner.rank": 4}, BETTER),
    "bitfit": ({"method.lr.bias": 0.001, "method.tuner.biases": "all"}, 0.7),  # as given
    "full": ({"method.lr.backbone": 0.0001}, 0.7),
}
GIVEN = {"lora": WORSE, "bitfit": 0.7, "full": 0.7, "majority": 0.3}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """All runs of the board, not to be changed."""
    store = Store(tmp_path_factory.mktemp("board") / "results")
    for lang in ("hau", "swa"):
        base = ["task=masakhanews", "shots=10", "model=tiny-bert", f"task.lang={lang}"]
        cost = {"cpu_seconds": {"train": 3.0, "import": 9.0}}
        for method, accuracy in GIVEN.items():
            for draw in (1, 2, 3):
                file_run(store, [*base, f"method={method}"], accuracy, draw, **cost)
        for method, (values, accuracy) in CHOSEN.items():
            chosen = [f"{key}={value}" for key, value in values.items()]
            tuning = {"values": values, "trials": 8, "cpu_seconds": 36.0, "dev_score": 80.0, "experiment": method}
            file_run(
                store, [*base, f"method={method}", *chosen, "search=tpe", "search.trials=8"], 0.7, 101, tuning=tuning
            )
            if method != "bitfit":
                for draw in (1, 2, 3):
                    file_run(store, [*base, f"method={method}", *chosen], accuracy, draw, tuning=tuning, **cost)
    return store


@pytest.fixture(scope="module")
def table(store):
    return make_table("small-board", spec.parse("small-board", BOARD), store)


@pytest.fixture(scope="module")
def read(table, store):
    return reading.read(table, store)


def test_ranks_and_pairs_of_both_tracks(read):
    assert next(iter(read.ranks["tuned"])) == "LoRA"
    assert read.ranks["as given"]["LoRA"] == 3
    assert read.ranks["as given"]["floor"] == read.ranks["tuned"]["floor"] == 4  # it stands in both
    for column in ("hau", "swa"):
        tuned = read.pairs["tuned"][column]
        assert (tuned.pairs, tuned.best) == (6, "LoRA")
        assert tuned.apart >= 3  # the floor is below all
        assert not set(tuned.letters["floor"]) & set(tuned.letters["LoRA"])


def test_what_tuning_changed(read):
    gains = {(g.row, g.column): g for g in read.gains}
    assert set(gains) == {(row, column) for row in ("LoRA", "BitFit", "Full") for column in ("hau", "swa")}
    assert gains["LoRA", "hau"].summary.mean > 20
    assert gains["LoRA", "hau"].p <= 0.05
    assert (gains["BitFit", "hau"].summary.mean, gains["BitFit", "hau"].p) == (0, None)  # the same runs
    assert gains["Full", "hau"].p > 0.05
    assert {g.row for g in read.means} == {"LoRA", "BitFit", "Full"}


def test_effort_counts_every_run_and_search_once(table, store):
    effort = reading.effort(table, store)
    assert (effort["runs"], effort["searches"], effort["trials"]) == (24 + 12, 6, 48)
    assert effort["cpu_hours"] == pytest.approx((36 * 3.0 + 6 * 36.0) / 3600)  # without imports


def test_the_page_says_first_what_cannot_be_told_apart(read, table, store):
    compared = comparisons(read, store)
    assert {frozenset((c.a, c.b)) for c in compared} >= {frozenset(("LoRA", "Full")), frozenset(("BitFit", "Full"))}
    text = page(read, store, reading.effort(table, store), {}, {}, ["peftbench table small-board --run"])
    order = [text.index(words) for words in ("## What cannot be told apart", "No difference is shown on the average",
             "## What can\n", "LoRA is better than", "## What tuning changes", "## Scores")]  # fmt: skip
    assert order == sorted(order)
    assert "36 scored runs, 6 searches with 48 trials" in text
    assert (
        "the settings as given were the best on dev in 2; in 2 no difference is shown, 2 are better and 0 worse" in text
    )
    assert "MoE is left out: another question." in text
    assert "no signed-rank test can give less than p = 0.5, so none does" in text


def test_a_budget_without_a_row_is_said(store):
    made = budget.of_table(make_table("b", spec.parse("b", BUDGET), store))
    (panel,) = made["panels"]
    assert panel["budgets"] == [0, 8]
    lines = {line["method"]: [p["score"] for p in line["points"]] for line in panel["lines"]}
    assert set(lines) == {"LoRA", "BitFit", budget.MEAN}
    assert lines["BitFit"][0] == lines["BitFit"][1]
    assert lines[budget.MEAN] == pytest.approx(
        [(a + b) / 2 for a, b in zip(lines["LoRA"], lines["BitFit"], strict=True)]
    )
    assert any("IA3" in note for note in made["notes"])


def test_what_is_no_board_is_one_message(store, tmp_path):
    untuned = BOARD.replace("search: tpe, ", "")
    with pytest.raises(UsageError, match="tunes nothing"):
        reading.read(make_table("x", spec.parse("x", untuned), store), store)
    empty = Store(tmp_path / "none")
    with pytest.raises(UsageError, match="First: peftbench table small-board --run"):
        reading.read(make_table("small-board", spec.parse("small-board", BOARD), empty), empty)


@pytest.mark.slow
def test_the_folder(store, tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "small-board.yaml").write_text(BOARD)
    (tmp_path / "conf" / "table" / "small-board-budget.yaml").write_text(BUDGET)
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path / "conf"))
    with pytest.raises(SystemExit) as ended:
        main(["board", "small-board", "--out-dir", str(store.out_dir), "--to", str(tmp_path / "made")])
    assert ended.value.code == 0
    names = {path.name for path in (tmp_path / "made").iterdir()}
    pictures = {"ranks-tuned.svg", "ranks-as-given.svg", "pareto-f1_weighted.svg", "budget.svg"}
    assert names == {"README.md", "table.md", "report.html", *pictures}
    text = (tmp_path / "made" / "README.md").read_text()
    assert all(f"]({name})" in text for name in pictures)
    assert f"peftbench board small-board --out-dir {store.out_dir} --to {tmp_path / 'made'}" in text
