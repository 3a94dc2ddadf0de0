#!/usr/bin/env python
"""Damaged answers never crash a reader, and never say what is not there.

    PEFTBENCH_DATA=DATA python scripts/prove_parsing.py --count 10000

Gold answers of ABSA's 21 extraction files (as JSON, in the paper's format, as places) and of JFLEG and ASSET (as edits)
are damaged as models damage them, and read. A line a task and form: how many, how many were invalid, how many crashed,
and how many said words that neither the answer nor the place in the text that it names has. F1 of the tuples that are
read is compared with an independent computation. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftbench.config import compose
from peftbench.inputs import data_dir
from peftbench.tasks import load_task
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.metrics import score
from peftbench.tasks.tuple_formats import OPINION_WORDS

DOMAINS = ("lap14", "rest14", "rest15")
SUBSETS = [f"{s}_{d}" for s in ("aste", "aope", "uabsa", "ae", "oe", "aoe") for d in DOMAINS]
SUBSETS += ["tasd_rest15", "asqp_rest15", "acos_laptop"]
PIECES = [
    '"',
    "[",
    "]",
    "(",
    ")",
    ",",
    ", ",
    "; ",
    " is ",
    "positive",
    "\\",
    "NULL",
    "NONE",
    "none",
    "0 1 ",
    "3 2",
    "99",
    "é",
    "\n",
]


@dataclass
class Case:
    """One task in one form.

    Attributes:
        write: row -> its gold answer.
        read: (row, answer) -> what it says.
        invents: (row, answer, what was read) -> whether some of it is nowhere.
        seen: (target, read) of each damaged answer.
    """

    name: str
    form: str
    data: TaskData
    write: Callable[[Row], str]
    read: Callable[[Row, str], Any]
    invents: Callable[[Row, str, Any], bool]
    crashed: int = 0
    invented: int = 0
    seen: list[tuple[Row, Any]] = field(default_factory=list)

    def damage(self, row: Row, rng: random.Random) -> None:
        """Read a damaged answer of the row."""
        answer = damaged(self.write(row), rng)
        try:
            found = self.read(row, answer)
        except Exception as error:  # what the script counts
            self.crashed, found = self.crashed + 1, None
            print(f"{self.name} {self.form}: {error!r} from {answer!r}", file=sys.stderr)
        if found is not None and self.invents(row, answer, found):
            self.invented += 1
            print(f"{self.name} {self.form}: {found!r} from {answer!r}", file=sys.stderr)
        self.seen.append((row, found))

    def f1_differs(self) -> bool:
        """Whether the program's F1 of what was read is another than that of counted multisets."""
        if self.data.problem != "tuples":
            return False
        rows = [Row(f"test:{n}", row.text, row.target) for n, (row, _) in enumerate(self.seen)]
        found = score(self.data, rows, [read for _, read in self.seen], ["f1_tuples"])["f1_tuples"]
        right = asked = given = 0
        for row, read in self.seen:
            gold, answer = Counter(set(row.target or ())), Counter(set(read or ()))  # type: ignore[arg-type]
            right, asked, given = right + (gold & answer).total(), asked + gold.total(), given + answer.total()
        precision, recall = right / max(given, 1), right / max(asked, 1)
        return abs(found - 100 * 2 * precision * recall / max(precision + recall, 1e-12)) > 1e-9


def damaged(text: str, rng: random.Random) -> str:
    """One to three edits of the kinds that models make: something put in, left out, exchanged, repeated or cut off."""
    for _ in range(rng.randint(1, 3)):
        at, to = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        piece = rng.choice(PIECES)
        text = rng.choice([text[:at] + piece + text[at:], text[:at] + text[to:], text[:at] + piece + text[to:],
                           text[:to] + text[at:], text[:to]])  # fmt: skip
    return text


def tuple_cases(subset: str) -> Iterator[Case]:
    data = task("absa", f"task.subset={subset}")
    for style, form in (("words", "json"), ("paper", data.tuple_form.paper)):
        yield Case(
            subset, form, data,
            write=lambda row, style=style: data.kind.write(row.target, data, style),
            read=lambda row, text, style=style: data.kind.parse(text, data, style),
            invents=lambda row, text, found, form=form: not all(in_answer(v, text, form) for t in found for v in t),
        )  # fmt: skip
    yield Case(
        subset, "places", data,
        write=lambda row: data.kind.write_spans(row.text, row.target, data),
        read=lambda row, text: data.kind.read_spans(row.text, text, data)[0],
        invents=lambda row, text, found: not all(
            in_text(value, row.text) or in_answer(value, text, "json") for t in found for value in t
        ),
    )  # fmt: skip


def in_answer(value: str, text: str, form: str) -> bool:
    """Whether the answer has these words, whatever their case and the spaces between them; quotes are unescaped."""
    if form == "paraphrase":
        value = {**OPINION_WORDS, "NULL": "it"}.get(value, value)
    plain = text.replace('\\"', '"').replace("\\\\", "\\") if form == "json" else text
    return value.lower() in " ".join(plain.split()).lower()


def in_text(value: str, source: str) -> bool:
    """Whether these whole words stand there."""
    return f" {value} " in f" {' '.join(source.split())} "


def edit_case(name: str) -> Case:
    data = task(name)

    def invents(row: Row, text: str, found: str) -> bool:
        said = {word.removeprefix("\\") for word in text.strip().split(" ")}
        ends = {word[:-1] for word in said if word.endswith(",")}  # the comma before the next edit
        return any(word not in said | ends and word not in row.text.split(" ") for word in found.split(" "))

    return Case(
        name, "edits", data,
        write=lambda row: data.kind.write_spans(row.text, row.target, data),
        read=lambda row, text: data.kind.read_spans(row.text, text, data)[0],
        invents=invents,
    )  # fmt: skip


def task(name: str, *overrides: str) -> TaskData:
    cfg = compose([f"task={name}", "method=majority", *overrides])
    return load_task(cfg.task, data_dir(cfg))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="damaged answers in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    cases = [case for subset in SUBSETS for case in tuple_cases(subset)]
    edits = [edit_case(name) for name in ("jfleg", "asset")]
    wanted = {id(case): args.count // 10 for case in edits}  # a fifth of all for the two, the rest for the tuples
    rest = args.count - sum(wanted.values())
    for number, case in enumerate(cases):
        wanted[id(case)] = rest // len(cases) + (number < rest % len(cases))
    print(f"{'task':<14}{'form':<12}{'damaged':>8}{'invalid':>8}{'crashed':>8}{'invented':>9}{'F1 differs':>11}")
    for case in [*cases, *edits]:
        rows = [*case.data.train, *case.data.dev, *case.data.test]
        for _ in range(wanted[id(case)]):
            case.damage(rng.choice(rows), rng)
        print(line(case.name, case.form, [case]))
    print(line("all", "", [*cases, *edits]))
    return int(any(case.crashed or case.invented or case.f1_differs() for case in [*cases, *edits]))


def line(name: str, form: str, cases: Sequence[Case]) -> str:
    invalid = sum(read is None for case in cases for _, read in case.seen)
    crashed, invented = sum(case.crashed for case in cases), sum(case.invented for case in cases)
    differ = sum(case.f1_differs() for case in cases)
    damaged_ = sum(len(case.seen) for case in cases)
    return f"{name:<14}{form:<12}{damaged_:>8}{invalid:>8}{crashed:>8}{invented:>9}{differ:>11}"


if __name__ == "__main__":
    sys.exit(main())
