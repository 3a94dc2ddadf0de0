"""Tables from records: which runs a cell takes, what it says of the paper's number, how it is written."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import file_run

from peftbench import statistics
from peftbench.cli import main
from peftbench.config.many import Composer
from peftbench.errors import UsageError
from peftbench.records.store import Store
from peftbench.tables import commands, runs, spec
from peftbench.tables.formats import FORMATS
from peftbench.tables.lacking import lacking
from peftbench.tables.table import make_table, split_labels
from peftbench.tables.verdict import DIFFERS, NOT_COMPARABLE, WITHIN_NOISE

TABLE = """
title: "A table | of <b>tuners</b> & 100 %"
description: two tuners on two languages
paper: nobody, nowhere
run: {model: tiny-bert, task: masakhanews, shots: 10}
repeat: {data_seed: [1, 2, 3]}
reference: {file: dept, source: main GLUE/SuperGLUE (as reprinted by ULPT table 1), model: t5-base}
backbones: {t5-base: tiny-bert}
margin: "2.0"
rows:
  - {label: LoRA, run: {method: lora}, reference: {method: LoRA}}
  - {label: "=DePT, r=9", run: {method: dept}, reference: {method: DePT}, caveat: CAVEAT}
  - {label: SPoT, missing: not in this version, reference: {method: SPoT}}
columns:
  - {label: hau, run: {task.lang: hau}, metric: accuracy, reference: {task: RTE}}
  - {label: swa, run: {task.lang: swa}, metric: accuracy, reference: {task: CB, metric: accuracy}}
  - {label: mean, mean_of: [hau, swa]}
  - {label: "train, s", run: {task.lang: hau}, metric: train_seconds}
claims:
  - {label: DePT minus LoRA, kind: difference, row: "=DePT, r=9", of: LoRA, columns: [hau, swa]}
  - {label: DePT above LoRA, kind: relative, row: "=DePT, r=9", of: LoRA, columns: [hau]}
  - {label: time saved by DePT, kind: saving, row: "=DePT, r=9", of: LoRA, columns: ["train, s"]}
  - {label: the best, kind: best, columns: [hau, swa]}
"""
LORA, DEPT = "LoRA", "=DePT, r=9"


def a_table(text: str = TABLE, caveat: str = ""):
    return spec.parse("made-up", text.replace("CAVEAT", f'"{caveat}"'))


def overrides(method: str, lang: str, *more: str) -> list[str]:
    return ["model=tiny-bert", "task=masakhanews", "shots=10", f"method={method}", f"task.lang={lang}", *more]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Store:
    """All runs of the table, not to be changed."""
    return fill(Store(tmp_path_factory.mktemp("filled")))


def fill(store: Store) -> Store:
    """All runs of the table: DePT is clearly worse than LoRA, and takes half its time."""
    for method, lang, draw in product(("lora", "dept"), ("hau", "swa"), (1, 2, 3)):
        accuracy, seconds = (0.9, 20.0) if method == "lora" else (0.5, 10.0)
        file_run(store, overrides(method, lang), accuracy, draw, seconds={"train": seconds + draw, "total": 50.0})
    return store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


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


# What is missing


def test_missing_cells_and_the_command_that_fills_them(store):
    table = make_table("made-up", a_table(), store)
    (sweep,) = commands.merge(table.missing())
    command = commands.command(sweep)
    assert command == (
        "peftbench -m model=tiny-bert task=masakhanews shots=10 method=lora,dept task.lang=hau,swa "
        "seed=1 data_seed=1,2,3"
    )
    assert command in FORMATS["md"](table, "results")
    page = FORMATS["md"](table, "results")
    assert "| LoRA | - | - | - | - |" in page
    assert "| SPoT | n/a<sup>2</sup> |" in page
    hidden = make_table("made-up", a_table(), store, only="mean")
    assert commands.merge(hidden.missing()) == [sweep]


SWEEPS = st.lists(
    st.fixed_dictionaries(
        {"a": st.sampled_from(["1", "2", "3"])},
        optional={"b": st.sampled_from(["x", "y"]), "c": st.sampled_from(["p", "q"])},
    ).map(lambda d: {k: (v,) for k, v in d.items()}),
    max_size=12,
)


def all_runs(sweeps):
    return {
        tuple(zip(sorted(s), values, strict=True)) for s in sweeps for values in product(*(s[k] for k in sorted(s)))
    }


@given(SWEEPS)
def test_merging_keeps_exactly_the_runs(sweeps):
    merged = commands.merge(sweeps)
    assert all_runs(merged) == all_runs(sweeps)
    assert sum(map(commands.runs, merged)) == len(all_runs(sweeps))  # none of them twice


def test_values_of_a_command_reach_hydra_as_they_are():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for given_value in (None, True, 0.5, 5.0e-4, 3, "full", "a b, c: 'd'", [1, 2], "arch/t5-base"):
        written = commands.value(given_value)
        parsed = OverridesParser.create().parse_override(f"key={written}").value()
        assert parsed == given_value or str(parsed) == str(given_value)


def test_labels_with_commas_can_be_chosen():
    known = {"DePT", "DePT, r=9", "hau", "swa"}
    assert split_labels("DePT, r=9,swa", known) == {"DePT, r=9", "swa"}
    assert split_labels("DePT,hau", known) == {"DePT", "hau"}
    with pytest.raises(UsageError, match="--only hausa: no such row"):
        split_labels("swa,hausa", known)


# Formats


def test_markdown_is_one_table_whatever_the_labels_hold(filled):
    page = FORMATS["md"](make_table("made-up", a_table(), filled), "results")
    assert "## A table \\| of \\<b\\>tuners\\</b\\> & 100 %" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows[:8]} == {6}
    assert re.search(r"\| LoRA \| \*\*\d\d\.\d \[\d\d\.\d, \d\d\.\d\]\*\* \|", page)


def test_latex_is_escaped_and_balanced(filled):
    page = FORMATS["latex"](make_table("made-up", a_table(), filled), "results")
    assert r"A table \textbar{} of \textless{}b\textgreater{}tuners\textless{}/b\textgreater{} \& 100 \%" in page
    code = "\n".join(line for line in page.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#_~^]", re.sub(r"\$\^\{\d+\}\$", "", code))
    assert code.count("{") - code.count(r"\{") == code.count("}") - code.count(r"\}")
    for environment in re.findall(r"\\begin\{(\w+)\}", code):
        assert code.count(rf"\begin{{{environment}}}") == code.count(rf"\end{{{environment}}}")
    for tabular in re.findall(r"\\begin\{tabular\}\{(l?r+)\}(.*?)\\end\{tabular\}", code, re.S):
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(tabular[0])}
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in code


def test_csv_is_inert_in_a_spreadsheet(filled):
    text = FORMATS["csv"](make_table("made-up", a_table(), filled), "results")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 12
    assert {r["row"] for r in rows} == {"LoRA", "'=DePT, r=9", "SPoT"}
    one = next(r for r in rows if (r["row"], r["column"]) == ("LoRA", "hau"))
    assert float(one["difference"]) == pytest.approx(float(one["value"]) - 75.5)
    assert (one["runs"], one["asked"], one["best"]) == ("3", "3", "true")
    assert one["command"].endswith("data_seed=1,2,3")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_escapes_every_text(filled):
    parser = Tags()
    page = FORMATS["html"](make_table("made-up", a_table(), filled), "results")
    parser.feed(page)
    assert parser.open == []
    assert "tuners</b>" not in page
    assert "&lt;b&gt;tuners&lt;/b&gt; &amp; 100 %" in page


def test_json_has_everything(filled):
    found = json.loads(FORMATS["json"](make_table("made-up", a_table(), filled), "results"))
    assert {c["claim"] for c in found["claims"]} >= {"the best"}
    assert found["missing"] == []
    assert {"value", "low", "high", "paper", "verdict", "reasons", "command"} <= found["cells"][0].keys()


# The command


def run(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(["table", *argv])
    out = capsys.readouterr()
    return ended.value.code or 0, out.out, out.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dept-glu"], "table dept-glu: there is none. Did you mean `dept-glue`?"),
        (["dept-glue", "--only", "RTEE"], "--only RTEE: no such row, column or panel. Did you mean `RTE`?"),
        (["dept-glue", "--format", "pdf"], "`pdf`: no such format."),
        (["dept-glue", "task=rte"], "table dept-glue varies task itself"),
        (["dept-glue", "model=a,b"], "a cell has one model"),
        (["dept-glue", "seed=one"], "seeds are whole numbers"),
        (["dept-glue", "rte"], "rte: not KEY=VALUE"),
        (["dept-glue", "modle=minilm"], "modle: no such key. Did you mean `model`?"),
        (["dept-glue", "--run-it"], "--run-it: no such option"),
    ],
)
def test_a_mistake_is_one_message(capsys, tmp_path, argv, message):
    code, out, err = run(capsys, *argv, "--out-dir", str(tmp_path))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_file(capsys, tmp_path):
    out = tmp_path / "tables" / "list.tex"
    code, printed, _ = run(capsys, "list", "--format", "latex", "--out", str(out), "--out-dir", str(tmp_path))
    assert (code, printed) == (0, "")
    assert out.read_text().count(r"\begin{table}") == 3  # a panel each
    assert run(capsys)[1].splitlines()[0].startswith("absa")


def test_the_folder_of_the_runs_can_be_given_as_to_a_run(capsys, tmp_path):
    code, printed, _ = run(capsys, "cloze-head", f"out_dir={tmp_path}")
    assert code == 0
    assert f"out_dir={tmp_path}" in printed  # in the commands that fill the table
    assert "Asked for" not in printed  # no setting of the cells


def test_several_tables_at_once(capsys, tmp_path):
    code, printed, _ = run(capsys, "masakhanews-*c*", "--out-dir", str(tmp_path), "--out", str(tmp_path / "all"))
    assert code == 0
    assert printed.startswith("masakhanews-classical: 0 of 21 cells -> ")
    names = {f.name for f in (tmp_path / "all").iterdir()}
    assert names == {f"masakhanews-classical.{kind}" for kind in ("md", "tex", "csv")}
    assert "no name fits" in run(capsys, "masakha-*")[2]


def test_no_torch_on_the_way():
    code = (
        "import sys; from peftbench.tables.command import table_command; table_command(['masakhanews-classical']); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft', 'matplotlib', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.slow
def test_run_fills_what_is_missing(capsys, tmp_path):
    given_settings = ["model=tiny-bert", "trainer.steps=2", "tracking.wandb=disabled", "data_seed=1,2"]
    argv = ["cost", *given_settings, "--only", "lora,ia3,trained", "--out-dir", str(tmp_path), "--format", "json"]
    before = json.loads(run(capsys, *argv)[1])
    assert [c["value"] for c in before["cells"]] == [None, None]
    code, out, _ = run(capsys, *argv, "--run")
    after = json.loads(out)
    assert code == 0
    assert after["missing"] == []
    assert all(c["value"] > 0 and c["runs"] == 2 for c in after["cells"])


# The tables of the package


@pytest.mark.parametrize("name", spec.names())
def test_every_table_opens_with_its_command_and_repeats_no_cell(name):
    text = (spec.files("peftbench.conf") / "table" / f"{name}.yaml").read_text()
    assert re.match(rf"# peftbench table {name}\b", text)
    table = spec.load(name)
    fixed = {row.label for row in table.rows if row.fixed}  # they stand in two tracks
    cells = [c for c in spec.lay_out(name, table) if not c.missing and not c.mean_of and c.row not in fixed]
    keys = [(c.metric, *sorted((k, commands.value(v)) for k, v in [*c.run.items(), *c.tune.items()])) for c in cells]
    assert len(set(keys)) == len(keys)


QUICK = ("masakhanews-classical", "dept-cost", "sciprompt-emerging")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in spec.names()])
def test_every_cell_composes(name):
    composer = Composer()
    for cell in spec.lay_out(name, spec.load(name)):
        if not cell.missing and not cell.mean_of:
            settings = {**cell.run, **cell.tune}
            composer.compose([f"{key}={commands.value(v)}" for key, v in settings.items()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title:", "titel:"), "table made-up.titel: no such key. Did you mean `title`"),
        (("mean_of: [hau, swa]", "mean_of: [hau, swe]"), "mean_of: no such column, `swe`. Did you mean `swa`"),
        (("{label: SPoT,", "{label: LoRA,"), "rows has `LoRA` twice"),
        (("data_seed: [1, 2, 3]", "dataseed: [1]"), "repeat.dataseed: no such seed. Did you mean `data_seed`"),
        (("kind: saving", "kind: savings"), "kind=savings: not a valid choice. Did you mean `saving`"),
        (("of: LoRA, columns: [hau]", "columns: [hau]"), "`relative` needs columns, row"),
        (("reference: {method: LoRA}", "reference: {methods: LoRA}"), "reference.methods: no such key"),
        (("reference: {method: LoRA}", "reference: {}"), "numbers of dept.csv agree with"),
        (("file: dept,", "file: depth,"), "reference file `depth`: there is none. Did you mean `dept`"),
    ],
)
def test_a_mistake_in_a_table_file_is_named(change, message):
    assert change[0] in TABLE
    with pytest.raises(UsageError, match=re.escape(message)):
        spec.lay_out("made-up", a_table(TABLE.replace(*change, 1)))
