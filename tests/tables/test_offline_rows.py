"""Every paper's table has a cell that packaged models fill, and such a stand-in is no rival of what the paper ran."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import cache

import pytest
import yaml
from made_up_runs import file_run

from peftbench.config.catalogue import files_of
from peftbench.config.many import Composer
from peftbench.records import ids
from peftbench.records.store import Store
from peftbench.tables import commands, spec
from peftbench.tables.formats import FORMATS
from peftbench.tables.table import make_table
from peftbench.tables.verdict import NOT_COMPARABLE

NO_CELLS = {
    "dept-mrqa": "extractive question answering is not among the tasks",
    "prompt-tuning-mrqa": "extractive question answering is not among the tasks",
    "hft": "instruction tuning of large models with their own benchmarks",
    "hft-trace": "instruction tuning of large models with their own benchmarks",
}
"""Tables that this version cannot fill at all, and why."""
NO_TEXTS = ("sciprompt",)
"""Tables of data whose texts are not published (cloze-sciprompt and sciprompt-emerging have what is)."""
TABLE = """
title: One paper
description: a method on two tasks
paper: nobody, nowhere
run: {model: bert-base, task: demo_news, shots: 10}
repeat: {seed: [1, 2]}
reference: {file: dept, source: main GLUE/SuperGLUE (as reprinted by ULPT table 1), model: t5-base}
rows:
  - {label: LoRA, run: {method: lora}, reference: {method: LoRA}}
  - {label: DePT, run: {method: dept}, reference: {method: DePT}}
  - {label: "LoRA, tiny", offline: true, only: [hau], run: {method: lora, model: tiny-bert}, reference: {method: LoRA}}
columns:
  - {label: hau, run: {task: masakhanews, task.lang: hau}, reference: {task: RTE}}
  - {label: swa, run: {task: masakhanews, task.lang: swa}, reference: {task: CB, metric: accuracy}}
"""


@cache
def is_packaged(model: str) -> bool:
    found = files_of("model").get(model)
    return found is None or yaml.safe_load(found.read_text(encoding="utf-8")).get("source") not in ("hub", "local")


@pytest.mark.parametrize("name", spec.names())
def test_every_table_that_can_has_an_offline_cell(name):
    cells = [c for c in spec.lay_out(name, spec.load(name)) if not c.missing and not c.mean_of]
    if name in NO_CELLS:
        assert not cells
        return
    if name in NO_TEXTS:
        return
    assert any(is_packaged(str(c.run.get("model", "minilm"))) for c in cells)


def test_offline_rows_are_few_and_small():
    rows = {name: [r for r in spec.load(name).rows if r.offline] for name in spec.names()}
    for name, own in rows.items():
        for row in own:
            assert row.only, f"{name}, {row.label}: all columns of a paper are no work of minutes"
            assert is_packaged(str(row.run["model"])), (name, row.label)
            assert str(row.run["model"]) in row.label, "a reader sees at once that it is another model"
    assert sum(map(len, rows.values())) > 15


@pytest.mark.parametrize(
    ("stand_in", "source"),
    [
        (("absa", "LoRA, minilm, 10 shots", ""), ("board", "lora", "as given", "rest14")),
        (("masakhanews-fewshot", "LoRA, minilm", "10 shots"), ("board", "lora", "as given", "eng")),
        (("list", "LiST, minilm-mlm", "30 in all"), ("cloze-list", "LiST", "", "SST-2")),
        (("pcp", "PCP, then prompt-based fine-tuning, minilm-mlm", ""), ("cloze-pcp", "PCP", "", "Subj")),
    ],
)
def test_what_another_table_runs_is_not_run_again(stand_in, source):
    def first(name, row, panel="", column=""):
        cells = spec.lay_out(name, spec.load(name))
        return next(
            c for c in cells if c.row == row and c.panel == panel and not c.missing and column in ("", c.column)
        )

    made = [first(*stand_in), first(source[0], source[1], source[2], source[3])]
    plain = [asdict(Composer().compose([f"{k}={commands.value(v)}" for k, v in c.run.items()])) for c in made]
    assert ids.variant(plain[0], "") == ids.variant(plain[1], "")
    seeds = [set(next(iter(c.repeat.values()))) for c in made]
    assert seeds[0] <= seeds[1]


def test_a_stand_in_is_not_comparable_and_no_rival(tmp_path):
    store = Store(tmp_path / "results")
    for lang in ("hau", "swa"):
        for seed in (1, 2):
            base = ["task=masakhanews", f"task.lang={lang}", "shots=10"]
            file_run(store, [*base, "method=lora", "model=bert-base"], 0.5, seed=seed)
            file_run(store, [*base, "method=dept", "model=bert-base"], 0.8, seed=seed)
            file_run(store, [*base, "method=lora", "model=tiny-bert"], 1.0, seed=seed, items=60)  # other test rows
    table = make_table("made-up", spec.parse("made-up", TABLE), store)
    tiny = table.cells["", "LoRA, tiny", "hau"]
    assert tiny.complete
    assert tiny.verdict.kind == NOT_COMPARABLE
    assert tiny.verdict.reasons[0] == "different backbone (paper: t5-base; ours: tiny-bert)"
    assert spec.STAND_IN in tiny.verdict.reasons
    assert (tiny.best, tiny.letters) == (False, "")
    assert table.cells["", "DePT", "hau"].best  # whatever stands below
    assert not table.warnings
    page = FORMATS["md"](table, "results")
    assert re.search(r"\| LoRA, tiny \| 100\.0[^|]* \|  \|", page)  # nothing is printed where it has no cell
    assert not any("tiny-bert" in c for s in table.missing() for c in s.get("model", ()))

    alone = make_table("made-up", spec.parse("made-up", TABLE), store, offline=True)
    assert {row for _, row, _ in alone.cells} == {"LoRA, tiny"}
