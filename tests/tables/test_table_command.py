"""A table as it is asked for: what is missing, formats, the command, and the tables of the package."""

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
from made_up_table import TABLE, a_table

from peftbench.cli import main
from peftbench.config.many import Composer
from peftbench.errors import UsageError
from peftbench.tables import commands, spec
from peftbench.tables.formats import FORMATS
from peftbench.tables.table import make_table, split_labels

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
