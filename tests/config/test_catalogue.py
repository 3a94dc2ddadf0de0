"""`peftbench ls`: what it says of aliases and of methods."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import yaml

from peftbench.config.catalogue import entries, ls, names

PER_METHOD = {entry["name"]: entry for entry in entries("method")}
PER_TASK = {entry["name"]: entry for entry in entries("task")}


def test_an_alias_has_its_own_subset_and_what_the_subset_says_of_itself() -> None:
    assert PER_TASK["cola"]["subsets"] == ["cola"]
    assert PER_TASK["cola"]["main_metric"] == "mcc"
    assert PER_TASK["cola"]["description"].startswith("CoLA")
    assert {"cola", "sst2", "rte"} <= set(PER_TASK["glue"]["subsets"])
    assert PER_TASK["yahoo_answers"]["licence"] == "MIT"


def test_methods_show_what_they_fit_and_train() -> None:
    assert PER_METHOD["prompt_tuning"]["fits"] == ["encoder", "seq2seq", "causal"]
    assert PER_METHOD["prompt_tuning"]["trained"] == "0.03%"  # 20 x 384 of minilm's 22,565,376
    assert PER_METHOD["full"]["trained"] == "100.00%"
    assert PER_METHOD["dora"]["paper"].startswith("Liu et al., ICML 2024")
    assert PER_METHOD["majority"]["fits"] is None


def test_the_generated_facts_are_those_of_the_methods_there_are() -> None:
    """If this fails: `python scripts/make_tuner_table.py --facts` (or `make tuner-table` for the whole table)."""
    facts = json.loads(files("peftbench.config").joinpath("method_facts.json").read_text(encoding="utf-8"))
    folder = files("peftbench.conf") / "method"
    needed = {n for n in names("method") if yaml.safe_load((folder / f"{n}.yaml").read_text()).get("needs_model", True)}
    assert facts["methods"].keys() == needed - {"peft", "file"}


@pytest.mark.parametrize("group", ["methods", "tasks", "formulations", "tricks", "inferences", "recipes"])
def test_lists_are_printed_with_their_columns(group: str, capsys, monkeypatch) -> None:
    """On a terminal a table with a head; in a pipe a line an entry, and no head among them."""
    heads, entry = {"methods": (("fits", "trained", "paper"), "dora"), "tasks": (("subsets",), "ag_news"),
                    "formulations": (("options",), "cloze"), "tricks": (("options",), "r_drop"),
                    "inferences": (("options",), "vote"), "recipes": (("options",), "subtasks")}[group]  # fmt: skip
    assert ls([group]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.partition("\t")[0] for line in lines} == set(names(group.removesuffix("s")))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ls([group]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*heads, entry))
