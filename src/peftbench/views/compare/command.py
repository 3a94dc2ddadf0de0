"""`peftbench compare A B [...]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.options import number
from peftbench.records.find import no_runs_yet
from peftbench.records.store import Store
from peftbench.views.filters import FILTERS, ViewParser, choose, every_row
from peftbench.views.summary import printable

_EPILOG = """\
A and B are methods, run ids, column=value of the leaderboard or setting=value of the config, joined by commas:
  peftbench compare dept lora --task masakhanews --shots 10
  peftbench compare dept,shots=5 dept,shots=10
  peftbench compare lora,rank=4 lora,rank=8
  peftbench compare model=minilm model=e5-small-q4 --method lora
What they do not name, they share: model, task, subset and shots; a comparison is made in every setting that both have.
p is of the difference over draws and test items, by Holm's correction if there are several comparisons; "p items" of
exchanging the answers of these very models item by item; "p draws" of flipping the sign of each draw's difference.
"""


def compare_command(argv: Sequence[str]) -> int:
    """Run `peftbench compare ARGV`; returns the exit code. Raises UsageError for what cannot be compared."""
    options = _parser().parse(argv)
    if len(options.sides) < 2:
        raise UsageError("compare: name at least two things to compare, as in `peftbench compare dept lora`.")
    across = _across(options.across)
    every = every_row(options)
    if not every:
        raise UsageError(no_runs_yet(options.out_dir))
    rows = choose(every, options)
    if not rows:
        raise UsageError("compare: no run matches all of these filters together.")

    from peftbench.views.compare.analysis import Comparer
    from peftbench.views.compare.select import side

    comparer = Comparer(Store(options.out_dir), options.compute, across, options.level / 100)
    sides = [side(text, rows, comparer.record) for text in options.sides]
    found, averages, notes = comparer.compare(sides)
    if options.json:
        from peftbench.views.compare.words import as_dict

        shown = {"comparisons": found, "averages": averages}
        listed = {key: [as_dict(c, options.level / 100) for c in some] for key, some in shown.items()}
        print(json.dumps({**listed, "notes": notes}, indent=1))
    else:
        _print(found, averages, notes, options.level / 100)
    return 0


_PERCENT = number("a percentage from 50 to below 100", lambda percent: 50 <= percent < 100)


def _parser() -> ViewParser:
    question = "Is a difference real, and how many more draws would settle it?"
    parser = ViewParser("compare", question, _EPILOG, [name for name in FILTERS if name not in ("metric", "status")])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sides", nargs="*", metavar="A", help="two or more; every pair is compared")
    parser.add_argument(
        "--metric", dest="compute", metavar="NAME", help="a metric of the task; default: its main metric"
    )
    parser.add_argument(
        "--across", metavar="A,B", default="", help="compare all the same across protocols,metrics,data"
    )
    parser.add_argument(
        "--level",
        type=_PERCENT,
        default=95.0,
        metavar="PERCENT",
        help="of the intervals; default 95",
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    return parser


def _across(text: str) -> list[str]:
    from peftbench.views.compare.select import ACROSS

    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in ACROSS:
            raise UsageError(f"compare --across {name}: no such thing. {did_you_mean(name, ACROSS)}")
    return chosen


def _print(found: list[Any], averages: list[Any], notes: Sequence[str], level: float) -> None:
    from rich.console import Console
    from rich.text import Text

    from peftbench.views.compare.words import commands, print_table, sentences

    console = Console()
    if not console.is_terminal:
        console = Console(width=1000, soft_wrap=True)  # a file or pipe has no width: cut nothing

    def say(line: str) -> None:
        console.print(Text(printable(line, console.encoding)))

    few = averages or found
    for c in few if len(few) <= 10 else []:
        say(" ".join(sentences(c, level)))
    real = sum(c.p is not None and c.p <= 0.05 for c in found)
    if len(found) > 1:
        say(f"{real} of {len(found)} comparisons show a difference at 5 % (Holm).")
    print_table(found, averages, console)
    for note in dict.fromkeys([*notes, *(n for c in found for n in c.notes)]):
        say(f"note: {note}")
    for why, line in dict.fromkeys(pair for c in found[:3] for pair in commands(c)):
        say(f"{why}: {line}")
