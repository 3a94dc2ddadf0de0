"""`peftbench table`: a paper's table from the records, and the runs that it still lacks."""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from peftbench.errors import UsageError, did_you_mean
from peftbench.files import write_atomic
from peftbench.options import OptionParser
from peftbench.records.store import Store
from peftbench.tables import spec
from peftbench.tables.commands import EXPERIMENT, Sweep, arguments, command, conf_of, merge
from peftbench.tables.formats import FORMATS
from peftbench.tables.lacking import lacking
from peftbench.tables.table import Table, make_table

EPILOG = """\
KEY=VALUE lays an override over every cell, as in `peftbench table masakhanews-fewshot model=minilm seed=1,2,3`; a
paper's number is then no longer the same experiment's, and its verdict says so. Keys of hydra (hydra/launcher=slurm)
only matter to --run. docs/tables.md has the rules of the verdicts."""


def table_command(argv: Sequence[str]) -> int:
    """Run `peftbench table ARGV`; returns the exit code. Raises UsageError for a wrong name, option or override."""
    options = _parser().parse(argv)
    if options.coverage:
        from peftbench.tables.coverage import to_markdown

        return _emit(to_markdown(), options.out)
    if not options.name:
        _list()
        return 0
    if "*" in options.name:
        return max(_write_all(name, options) for name in matching(options.name))
    table, code = _make(options.name, options)
    return _emit(FORMATS[options.format or "md"](table, options.out_dir), options.out) or code


def _make(name: str, options: argparse.Namespace) -> tuple[Table, int]:
    """The table, with --run after running what it lacked; the exit code."""
    launch = [a for a in options.overrides if a.lstrip("+~").startswith("hydra")]
    given = spec.read_overrides([a for a in options.overrides if a not in launch])
    config, store = spec.load(name), Store(options.out_dir)
    table = make_table(name, config, store, given, options.only, options.offline)
    if not options.run:
        return table, 0
    return run_missing(
        table, lambda: make_table(name, config, store, given, options.only, options.offline), options.out_dir, launch
    )


def matching(pattern: str) -> list[str]:
    """The tables whose names fit, as `dept*`. Raises UsageError if none does."""
    found = fnmatch.filter(spec.names(), pattern)
    if not found:
        raise UsageError(f"table {pattern}: no name fits. {did_you_mean(pattern, spec.names())}")
    return found


def _write_all(name: str, options: argparse.Namespace) -> int:
    """One of several tables, into the folder `--out`: as Markdown, LaTeX and CSV unless `--format` says which."""
    if options.offline and not any(row.offline for row in spec.load(name).rows):
        return 0
    table, code = _make(name, options)
    folder = options.out or Path(options.out_dir) / "tables"
    for kind in [options.format] if options.format else ["md", "latex", "csv"]:
        _emit(FORMATS[kind](table, options.out_dir), folder / f"{name}.{'tex' if kind == 'latex' else kind}")
    done = sum(cell.complete for cell in table.cells.values())
    print(f"{name}: {done} of {sum(cell.asked > 0 for cell in table.cells.values())} cells -> {folder}/{name}.*")
    return code


def _parser() -> OptionParser:
    words = "A paper's table: ours with its interval, the paper's number where a source was seen, a verdict."
    parser = OptionParser("table", words, EPILOG, json=False)
    parser.add_argument("name", nargs="?", metavar="NAME", help="'dept*' writes several; without it: a list")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="laid over every cell's settings")
    parser.add_argument("--format", type=_format, metavar="|".join(FORMATS), help="default: md")
    parser.add_argument(
        "--only", default="", metavar="LABEL,...", help="only rows, columns or panels with these labels"
    )
    words = "only the rows that packaged models fill within minutes, where the paper's model is out of reach"
    parser.add_argument("--offline", action="store_true", help=words)
    parser.add_argument("--run", action="store_true", help="first run what is missing, by any launcher")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a file; of several tables, a folder")
    parser.add_argument("--coverage", action="store_true", help="where each number of each reference file is printed")
    return parser


def _format(text: str) -> str:
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"`{text}`: no such format. {did_you_mean(text, FORMATS)}")
    return text


def _list() -> None:
    width = max(map(len, spec.names()))
    for name in spec.names():
        print(f"{name:<{width}}  {spec.load(name).description}")


def _emit(content: str, out: Path | None) -> int:
    if out is None:
        sys.stdout.write(content)
    else:
        write_atomic(out, content.encode("utf-8"), durable=False)
    return 0


def run_missing(
    table: Table, again: Callable[[], Table], out_dir: str, launch: Sequence[str] = ()
) -> tuple[Table, int]:
    """Run the sweeps of a table's missing cells, one command after the other; the table as it is then (`again`), and
    the worst exit code. What a search has chosen is run in a second round; no command is given twice.

    Each is the command that a user would type, in a process of its own, so that any launcher behaves as it does there.
    """
    extra = [f"out_dir={out_dir}", *launch]
    given: list[Sweep] = []
    codes = [0]
    if lacks := lacking(table):
        print(f"missing: {lacks}", file=sys.stderr, flush=True)
    while sweeps := merge(sweep for sweep in table.missing() if sweep not in given):
        given += table.missing()
        for number, sweep in enumerate(sweeps, 1):
            print(f"[{number}/{len(sweeps)}] {command(sweep, extra)}", file=sys.stderr, flush=True)
            words = arguments(sweep, extra)
            if launch and words[0] != "-m":
                words = ["-m", *words]  # launchers belong to sweeps
            # what the runs print goes where messages go (2: stderr), so that a table can be piped
            place = {**os.environ, **conf_of(out_dir)} if EXPERIMENT in sweep else None
            ended = subprocess.run([sys.executable, "-m", "peftbench", *words], check=False, stdout=2, env=place)
            codes.append(ended.returncode)
        table = again()
    return table, max(abs(code) for code in codes)
