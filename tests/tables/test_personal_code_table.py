"""The runs that `scripts/personas.py` makes are those that the table `personal-code` asks for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from made_up_configs import compose

from peftbench.config.registry import run_file
from peftbench.tables.commands import value
from peftbench.tables.spec import lay_out, load

SCRIPT = Path(__file__).parents[2] / "scripts" / "personas.py"


def settings(overrides: list[str]) -> dict[str, Any]:
    config = asdict(compose(overrides))
    return {key: part for key, part in config.items() if key != "tracking"}


def test_the_scripts_runs_are_the_tables_cells() -> None:
    made = run_file(SCRIPT)
    rows = [made.START, *((*made.PERSONA, *method) for method in made.METHODS.values())]
    projects = ("jsoup", "gson", "joda-time")
    runs = [settings([*made.COMMON, f"task.project={p}", *row]) for row in rows for p in projects]
    cells = [spec for spec in lay_out("personal-code", load("personal-code")) if not spec.mean_of]
    wanted = {spec.row: [] for spec in cells}
    for spec in cells:
        if spec.metric == "score":
            wanted[spec.row].append(settings([f"{key}={value(v)}" for key, v in spec.run.items()]))
    assert [run for row in wanted.values() for run in row] == runs
