"""What a cell of a table is: its runs, the best, verdicts and claims."""

from __future__ import annotations

from itertools import product

import pytest
from made_up_runs import file_run
from made_up_table import DEPT, LORA, TABLE, a_table, fill, overrides

from peftbench import statistics
from peftbench.config.many import Composer
from peftbench.errors import UsageError
from peftbench.tables import runs
from peftbench.tables.formats import FORMATS
from peftbench.tables.lacking import lacking
from peftbench.tables.table import make_table
from peftbench.tables.verdict import DIFFERS, NOT_COMPARABLE, WITHIN_NOISE

# Which runs a cell takes


def test_a_cell_is_the_mean_of_its_draws_with_the_interval_of_the_statistics(filled):
    table = make_table("made-up", a_table(), filled)
    cell = table.cells["", LORA, "hau"]
    records = [r for r in filled.all() if (r.method, r.subset) == ("lora", "hau")]
    expected = statistics.summarise(statistics.load_cell(filled, records, "accuracy"))
    assert (cell.value, cell.low, cell.high) == (expected.mean, expected.low, expected.high)
    assert cell.value == pytest.approx(sum(r.scores["accuracy"] for r in records) / 3)
    assert cell.complete
    mean = table.cells["", LORA, "mean"]
    assert mean.value == pytest.approx((cell.value + table.cells["", LORA, "swa"].value) / 2)
    assert mean.done == mean.asked == 6


def test_only_the_runs_of_its_own_command_count(store):
    file_run(store, overrides("lora", "hau"), data_seed=1)
    file_run(store, overrides("lora", "hau"), data_seed=9)  # a draw that nobody asked for
    file_run(store, overrides("lora", "hau", "method.tuner.rank=16"), data_seed=2)
    file_run(store, overrides("lora", "hau", "trainer.steps=3"), data_seed=2)
    file_run(store, overrides("lora", "hau"), data_seed=3, status="diverged", score=None, scores={})
    cell = make_table("made-up", a_table(), store).cells["", LORA, "hau"]
    assert [(r["data_seed"], r["status"]) for g in cell.groups for r in g.runs] == [(1, "done")]
    assert (cell.done, cell.asked, cell.problem) == (1, 3, "1 of 3 runs, 1 diverged")
    assert make_table("made-up", a_table(), store, {"method.tuner.rank": "16"}, LORA).cells["", LORA, "hau"].done == 1


def test_results_versions_are_not_mixed(store):
    for draw in (1, 2):
        file_run(store, overrides("lora", "hau"), 0.5, draw, identity={"versions": {"tuner lora": 0}})
    file_run(store, overrides("lora", "hau"), 0.9, 3)
    cell = make_table("made-up", a_table(), store).cells["", LORA, "hau"]
    assert sorted(r["data_seed"] for r in cell.groups[0].runs) == [1, 2]


@pytest.mark.parametrize(
    ("protocol", "shots", "repeat", "expected"),
    [
        ("default", "10", {"seed": [1, 2]}, [(42, 1), (42, 2)]),
        ("lm_bff", "16", {"seed": [13, 21]}, [(13, 13), (21, 21)]),
        ("default", "10", {"data_seed": [5, 6]}, [(5, 1), (6, 1)]),
        ("default", "10", {"seed": [1, 2], "data_seed": [5, 6]}, [(5, 1), (6, 1), (5, 2), (6, 2)]),
    ],
)
def test_the_seeds_that_a_cell_asks_for(protocol, shots, repeat, expected):
    from peftbench.tables.runs import seeds_asked

    config = Composer().compose([f"protocol={protocol}", f"shots={shots}"])
    assert seeds_asked(config, repeat) == expected


def test_a_missing_predictions_file_widens_nothing_silently(store):
    for draw in (1, 2, 3):
        record = file_run(store, overrides("lora", "hau"), data_seed=draw)
    (store.folder(record.run_id) / "predictions.jsonl").unlink()
    table = make_table("made-up", a_table(), store)
    assert table.cells["", LORA, "hau"].low is not None
    assert "leaves the test items out" in table.warnings[0]
    assert "leaves the test items out" in FORMATS["md"](table, "results")


def rerun(store):
    """File one of the runs anew, with other predictions."""
    record = file_run(store, overrides("lora", "hau"), 0.7, 1)
    record.created = "2026-12-01T00:00:00+00:00"
    store.save(record)


def test_what_was_computed_is_kept_until_a_run_changes(store, monkeypatch):
    filled = fill(store)
    first = make_table("made-up", a_table(), filled)
    monkeypatch.setattr(statistics, "load_cell", None)
    monkeypatch.setattr(runs, "_composer", None)
    again = make_table("made-up", a_table(), filled)
    before = FORMATS["json"](first, "results")
    assert FORMATS["json"](again, "results") == before
    rerun(filled)
    with pytest.raises(TypeError):  # what is new has to be computed
        make_table("made-up", a_table(), filled)
    monkeypatch.undo()
    changed = FORMATS["json"](make_table("made-up", a_table(), filled), "results")
    assert FORMATS["json"](make_table("made-up", a_table(), filled), "results") == changed != before


def test_what_is_missing_and_how_long_it_takes(store):
    assert lacking(make_table("made-up", a_table(), store)).endswith(" runs")  # nothing to measure by
    fill(store)
    assert lacking(make_table("made-up", a_table(), store)) == ""
    for record in store.all():
        if (record.method, record.subset) == ("lora", "hau") and record.data_seed != 1:
            store.path(record.run_id).unlink()
    table = make_table("made-up", a_table(), store)
    said = "2 runs, about 2 min for 2 of the runs, one after the other, as earlier ones of their rows took"
    assert lacking(table) == said  # 50 s each
    assert f"Missing: {said}." in FORMATS["md"](table)
    file_run(store, overrides("lora", "hau"), 0.9, 2)
    assert lacking(make_table("made-up", a_table(), store)).startswith("1 run, ")


# Best, verdicts, claims


def test_best_and_tied_best(filled, store):
    table = make_table("made-up", a_table(), filled)
    assert [table.cells["", row, "hau"].best for row in (LORA, DEPT)] == [True, False]
    assert [table.cells["", row, "mean"].letters for row in (LORA, DEPT)] == ["a", "b"]
    assert not any(table.cells["", row, "train, s"].best for row in (LORA, DEPT))  # costs are not ranked
    for method, draw in product(("lora", "dept"), (1, 2, 3)):
        file_run(store, overrides(method, "hau"), 0.8, draw)
    tied = make_table("made-up", a_table(), store)
    assert [tied.cells["", row, "hau"].best for row in (LORA, DEPT)] == [True, True]


def test_a_row_with_fewer_runs_by_the_file_is_complete_and_not_ranked(store):
    text = TABLE.replace("{label: LoRA, ", "{label: LoRA, repeat: {data_seed: [2]}, ")
    for draw in (1, 2, 3):
        file_run(store, overrides("dept", "hau"), 0.5, draw)
    for lang in ("hau", "swa"):
        file_run(store, overrides("lora", lang), 0.9, 2)
    table = make_table("made-up", a_table(text), store)
    one, three = table.cells["", LORA, "hau"], table.cells["", DEPT, "hau"]
    assert [(c.done, c.asked, c.complete, c.best, c.letters) for c in (one, three)] == [
        (1, 1, True, False, ""),
        (3, 3, True, False, ""),  # alone, it has nobody to be the best of
    ]
    assert one.verdict.reasons == ("one run (its spread over seeds is not known)",)
    assert table.cells["", LORA, "mean"].complete
    assert table.cells["", LORA, "train, s"].low is None
    assert not [sweep for sweep in table.missing() if ("method", ("lora",)) in sweep.items()]
    page = FORMATS["md"](table, "results")
    assert page.count("LoRA: one run where other rows ask for more") == 1
    for name in FORMATS:
        FORMATS[name](table, "results")
    asked = make_table("made-up", a_table(text), store, {"data_seed": [1, 2]})
    assert asked.cells["", LORA, "hau"].asked == 2  # the command line asks in all rows


def test_a_row_alone_may_have_seeds_of_its_own():
    one = "{label: LoRA, repeat: {data_sed: [2]}, "
    with pytest.raises(UsageError, match=r"rows\.LoRA\.repeat\.data_sed: no such seed\. Did you mean `data_seed`"):
        a_table(TABLE.replace("{label: LoRA, ", one))
    with pytest.raises(UsageError, match=r"rows\.LoRA\.repeat\.seed: needs at least one seed"):
        a_table(TABLE.replace("{label: LoRA, ", "{label: LoRA, repeat: {seed: []}, "))
    with pytest.raises(UsageError, match="repeat"):
        a_table(TABLE.replace("{label: hau, ", "{label: hau, repeat: {seed: [1]}, "))


def test_an_incomplete_cell_is_never_best(store):
    for method, draws, accuracy in (("lora", (1, 2), 0.9), ("dept", (1, 2, 3), 0.5)):
        for draw in draws:
            file_run(store, overrides(method, "hau"), accuracy, draw)
    cells = make_table("made-up", a_table(), store).cells
    assert not cells["", LORA, "hau"].best
    assert not cells["", DEPT, "hau"].best  # with nobody to compare with, nothing is best


def test_verdicts_and_their_reasons(filled):
    table = make_table("made-up", a_table(caveat="our reading of the method"), filled)
    lora, dept = (table.cells["", row, "hau"].verdict for row in (LORA, DEPT))
    assert lora.kind in (DIFFERS, WITHIN_NOISE)  # 90 of ours, 75.5 of the paper
    assert lora.difference == pytest.approx(table.cells["", LORA, "hau"].value - 75.5)
    assert (dept.kind, dept.reasons) == (NOT_COMPARABLE, ("our reading of the method",))
    assert table.cells["", "SPoT", "hau"].verdict is None
    assert table.cells["", LORA, "mean"].spec.paper is None


def reasons_of(store, given=None, text=TABLE, row=LORA):
    return make_table("made-up", a_table(text), store, given or {}).cells["", row, "hau"].verdict.reasons


def test_every_obstacle_is_named(store):
    for draw in (1, 2, 3):
        file_run(store, overrides("lora", "hau", "model=minilm", "protocol=lm_bff"), data_seed=draw)
        note = ["train: 100 of the official 200 rows; not comparable with full-data results", "a remark on encoding"]
        file_run(store, overrides("lora", "hau", "trainer.steps=9"), data_seed=draw, data_notes=note)
    backbone, protocol = reasons_of(store, {"model": "minilm", "protocol": "lm_bff"})
    assert backbone == "different backbone (paper: t5-base; ours: minilm)"
    assert protocol == "other protocol (ours: lm_bff)"
    settings, data = reasons_of(store, {"trainer.steps": "9"})
    assert settings == "other settings (trainer.steps=9)"
    assert data.startswith("incomplete data (train: 100 of the official 200 rows")
    more = {"trainer.steps": "9", "data_seed": [1, 2, 3, 4]}
    assert reasons_of(store, more)[-1] == "fewer draws (3 of 4 runs)"
    assert (
        reasons_of(store, {"trainer.steps": "9", "data_dir": "elsewhere", "tracking.wandb": "offline"})[0] == settings
    )
    assert reasons_of(store, {"trainer.steps": "9", "data_seed": [1, 2]})[-1] == "fewer draws (2 of 3 runs)"
    unnamed = TABLE.replace("backbones: {t5-base: tiny-bert}", "")
    assert reasons_of(store, {"trainer.steps": "9"}, unnamed)[0].startswith("different backbone (paper: t5-base")


def test_one_run_is_no_reproduction(store):
    text = TABLE.replace("data_seed: [1, 2, 3]", "data_seed: [1]")
    file_run(store, overrides("lora", "hau"), data_seed=1)
    assert reasons_of(store, text=text) == ("one run (its spread over seeds is not known)",)


def test_rows_tested_on_other_items_have_no_best(store):
    for draw in (1, 2, 3):
        file_run(store, overrides("lora", "hau"), 0.9, draw)
        file_run(store, overrides("dept", "hau"), 0.5, draw, items=60)
    table = make_table("made-up", a_table(), store)
    assert not any(cell.best for cell in table.cells.values())
    assert any("no row is marked as best" in warning for warning in table.warnings)
    assert "different items" in table.claims[1].problem


def test_claims(filled):
    table = make_table("made-up", a_table(), filled)
    difference, relative, saving, best = table.claims
    values = {(row, column): table.cells["", row, column].value for row in (LORA, DEPT) for column in ("hau", "swa")}
    mean = {row: (values[row, "hau"] + values[row, "swa"]) / 2 for row in (LORA, DEPT)}
    assert difference.summary["mean"] == pytest.approx(mean[DEPT] - mean[LORA])
    assert relative.summary["mean"] == pytest.approx(100 * (values[DEPT, "hau"] / values[LORA, "hau"] - 1))
    ratio = (11 * 12 * 13 / (21 * 22 * 23)) ** (1 / 3)
    assert saving.summary["mean"] == pytest.approx(100 * (1 - ratio))
    assert best.summary["mean"] == pytest.approx(mean[LORA])
    for claim in table.claims:
        assert claim.summary["low"] < claim.summary["mean"] < claim.summary["high"]
    assert make_table("made-up", a_table(), filled, only="hau").claims == []


def test_a_claim_without_runs_says_why(store):
    claims = make_table("made-up", a_table(), store).claims
    assert [c.problem for c in claims] == ["0 of 3 runs"] * 3 + ["no row is complete"]
