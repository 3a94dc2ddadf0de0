"""`peftbench predict RUN_ID --file new.csv`: labels for new rows, with probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from peftbench.inspect.new_files import Columns, check_output, read_columns, texts_of, write_rows
from peftbench.options import OptionParser
from peftbench.records.find import existing_store
from peftbench.tasks.problems import kind

if TYPE_CHECKING:
    from peftbench.saved.answers import Answer

_EPILOG = """\
Example: peftbench predict 0123456789abcdef --file new.csv --text-column body --output labels.csv
FILE ends in .csv, .tsv, .jsonl or .parquet; of any other file, and of `-`, the standard input, each line is a text.
The rows come back with `prediction`, `probability` and a column of probability for each label.
"""


def predict_command(argv: Sequence[str]) -> int:
    """Run `peftbench predict ARGV`; returns the exit code. A mistake is a UsageError, before a model is loaded."""
    from peftbench.api import load_run

    options = _parser().parse(argv)
    existing_store(options.out_dir)
    run = load_run(options.run_id, options.out_dir, options.task)
    manifest = run.manifest  # says so if there is nothing to load
    check_output(options.output)
    pair = options.pair_column or ("pair" if manifest["pairs"] else None)
    lines, rows = read_columns(options.file, options.text_column)
    some = bool(manifest["task"].get("mixture"))
    asked = texts_of(options.file, lines, rows, options.text_column, pair, some)
    with _progress(len(asked)) as advance:
        answers = run.predict(asked, advance)
    cell = (problem := kind(manifest["task"]["problem"])).cell or problem.show
    write_rows([{**row, **columns(answer, cell)} for row, answer in zip(rows, answers, strict=True)], options.output)
    return 0


def columns(answer: Answer, cell: Callable[[Any], str]) -> Columns:
    """What stands behind a row; `cell` makes a text of an answer that is none."""
    label = cell(answer.label) if isinstance(answer.label, tuple) else answer.label
    found: Columns = {"prediction": "" if label is None else label}
    if answer.text is not None:
        found["answer"] = answer.text
    if answer.probability is not None:
        found["probability"] = round(answer.probability, 6)
    return found | {f"p({label})": round(value, 6) for label, value in answer.probabilities.items()}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal while rows are answered; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("predict", total=total)
        yield lambda done: bar.update(task, completed=done)


def _parser() -> OptionParser:
    parser = OptionParser("predict", "Labels new rows with what a run has trained.", _EPILOG)
    parser.add_argument("run_id", metavar="RUN_ID", help="as `peftbench leaderboard` shows it, or its beginning")
    parser.add_argument("--file", required=True, metavar="FILE", help="new rows; - reads lines from the standard input")
    parser.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    parser.add_argument("--pair-column", metavar="NAME", help="the second text of a pair task; default: pair")
    parser.add_argument("--task", metavar="NAME", help="of a sequence of tasks, the one that is asked")
    parser.add_argument("--output", metavar="FILE", help="ends in .csv or .jsonl; default: CSV on the standard output")
    return parser
