"""`peftbench -m +experiment=NAME`: the sweeps that fill the tables hold exactly the tables' runs."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from peftbench.config.load import compose_raw, to_run_config
from peftbench.sweeps.jobs import expand
from peftbench.tables import commands, spec

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_experiments.py"
FOLDER = files("peftbench.conf") / "experiment"


def make_experiments():
    loaded = importlib.util.spec_from_file_location("make_experiments", SCRIPT)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return module


@pytest.mark.parametrize("table", spec.names())
def test_the_files_are_those_that_the_script_writes(table):
    expected = make_experiments().experiments(table)
    for name, content in expected.items():
        assert (FOLDER / f"{name}.yaml").read_text(encoding="utf-8") == content, "give `make experiments`"
    written = {f.name[:-5] for f in FOLDER.iterdir() if f.name.rpartition("-")[0] == table or f.name == f"{table}.yaml"}
    assert {name for name in written if name == table or name[len(table) + 1 :].isdecimal()} == set(expected)


@pytest.mark.parametrize("table", spec.names())
def test_the_runs_are_those_of_the_table(table):
    jobs = set()
    for name in make_experiments().experiments(table):
        params = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
        of_this = {frozenset(job) for job in expand([], params)}
        assert not jobs & of_this
        jobs |= of_this
    wanted = set()
    for cell in spec.lay_out(table, spec.load(table)):
        if not cell.missing and not cell.mean_of:
            sweep = commands.cell_sweep(cell.run, cell.repeat)
            wanted |= {frozenset(job) for job in expand([], {k: ",".join(v) for k, v in sweep.items()})}
    assert jobs == wanted


@pytest.mark.parametrize("name", ["masakhanews-fewshot", "dept-cost-6", "ppo"])
def test_an_experiment_composes_as_hydra_would(name):
    raw = compose_raw([f"+experiment={name}"])
    to_run_config(raw)
    params = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
    first = expand([], params)[0]
    config = to_run_config(compose_raw([f"+experiment={name}", *first]))
    assert config.model.name == params["model"]
