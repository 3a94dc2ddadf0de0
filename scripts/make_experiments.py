"""Write `conf/experiment/*.yaml`, the sweeps that fill the tables, from `conf/table/*.yaml`: `make experiments`.

A table whose rows or columns need settings of their own is filled by several sweeps, and becomes several files.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from peftbench.tables import spec
from peftbench.tables.commands import Sweep, cell_sweep, merge, runs

HEAD = """\
# @package _global_
# peftbench -m +experiment={name}
#
# {runs:,} runs for `peftbench table {table}`{part}. Add hydra/launcher=slurm, or a key to do a part of it (seed=1).
# Written from conf/table/{table}.yaml by `make experiments`: change it there.
hydra:
  sweeper:
    params:                  # every combination is run; finished runs are found again, not repeated
"""


def experiments(table: str) -> dict[str, str]:
    """File name (without ending) -> content, for one table; empty if this version can run none of its cells."""
    config = spec.load(table)
    cells = [s for s in spec.lay_out(table, config) if not s.missing and not s.mean_of]
    sweeps = merge(cell_sweep(s.run, s.repeat) for s in cells)
    names = [table if i == 1 else f"{table}-{i}" for i in range(1, len(sweeps) + 1)]
    return {name: _file(table, name, i, sweeps) for i, name in enumerate(names)}


def _file(table: str, name: str, position: int, sweeps: list[Sweep]) -> str:
    sweep = sweeps[position]
    part = f", part {position + 1} of {len(sweeps)}" if len(sweeps) > 1 else ""
    lines = [f"      {key}: {_quoted(','.join(values))}\n" for key, values in sweep.items()]
    return HEAD.format(name=name, table=table, runs=runs(sweep), part=part) + "".join(lines)


def _quoted(text: str) -> str:
    """A YAML string, so that `null`, `true` and `1,2` reach Hydra's sweeper as they stand."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(str(files("peftbench.conf") / "experiment")))
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    for table in spec.names():
        for stale in folder.glob(f"{table}.yaml"), folder.glob(f"{table}-[0-9]*.yaml"):
            for path in stale:
                path.unlink()
        for name, content in experiments(table).items():
            (folder / f"{name}.yaml").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
