"""`peftbench check-method NAME|FILE.py`: runs the suite and prints what it found."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from peftbench.conformance.checks import CHECKS
from peftbench.conformance.matrix import METHODS, STATUSES, Pair, pairs
from peftbench.conformance.subject import FAMILIES, Subject, find_subject
from peftbench.conformance.suite import FITS, PROCESSES, TOGETHER, Finding, as_json, cases_of, judge
from peftbench.errors import UsageError
from peftbench.options import OptionParser

MARKS = {"pass": "[green]pass[/]", "fail": "[bold red]FAIL[/]", "not claimed": "[dim]-[/]"}
FIGURES = ("as many parameters as the formula says", "it can fit sixteen texts", "cost of a step")
"""Checks whose details are worth reading when they pass."""


def check_method(args: list[str]) -> int:
    """The command; returns 0 if nothing failed, 1 otherwise.

    Raises:
        UsageError: there is no such method or file, or it cannot be checked.
    """
    options = command_parser().parse_args(args)
    torch.set_num_threads(1)  # the networks are so small that threads only wait for each other
    if options.architectures:
        return check_architectures(
            [options.subject] if options.subject else [*METHODS], options.overrides, options.json
        )
    if options.subject is None:
        raise UsageError("check-method: which one? Give a method (`peftbench ls methods`) or your own FILE.py.")
    subject = find_subject(options.subject, options.overrides)
    cases = cases_of(subject, options.family)
    console = Console(stderr=options.json)
    began, findings = time.perf_counter(), []
    with console.status("building ...") as shown:
        for finding in judge(subject, cases, quick=options.quick, ddp=options.ddp):
            findings.append(finding)
            shown.update(f"{finding.case}: {finding.check} ...")
    if options.json:
        print(json.dumps(as_json(subject, findings), indent=1))
    else:
        show(console, subject, findings, time.perf_counter() - began)
    return int(any(finding.status == "fail" for finding in findings))


def command_parser() -> OptionParser:
    """Its options."""
    words = "Does a tuner keep its promises? Judged on tiny networks, offline."
    parser = OptionParser("check-method", words, out_dir=False)
    parser.add_argument(
        "subject", nargs="?", metavar="NAME|FILE.py", help="a method (`peftbench ls methods`), or your own file"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the method's config")
    parser.add_argument("--family", metavar="|".join(FAMILIES), help="only networks of this family")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long: half precision, fitting, cost")
    parser.add_argument("--ddp", action="store_true", help="also train in two processes (some 15 s more a network)")
    parser.add_argument(
        "--architectures", action="store_true",
        help="the core of the suite on a tiny network of every architecture; of every kind of tuner without NAME",
    )  # fmt: skip
    return parser


def check_architectures(names: Sequence[str], overrides: Sequence[str], as_json: bool) -> int:
    """`--architectures`: a line for each pair that does not run, and how many do; 1 if one fails or crashes."""
    found: list[Pair] = []
    for pair in pairs([find_subject(name, overrides) for name in names]):
        found.append(pair)
        if pair.status != "runs" and not as_json:
            print(f"{pair.architecture:<12} {pair.method:<16} {pair.status:<8} {pair.detail}", flush=True)
    counts = {status: sum(p.status == status for p in found) for status in STATUSES}
    if as_json:
        print(json.dumps({"counts": counts, "pairs": [asdict(p) for p in found]}, indent=1))
    else:
        print(", ".join(f"{number} {status}" for status, number in counts.items()), f"of {len(found)} pairs")
    return int(bool(counts["fails"] + counts["crashes"]))


def show(console: Console, subject: Subject, findings: Sequence[Finding], seconds: float) -> None:
    """A table of verdicts, then what failed, what is not claimed, and the figures."""
    cases = unique(f.case for f in findings)
    at = {(f.check, f.case): MARKS[f.status] for f in findings}
    table = Table(title=escape(subject.name), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("", *cases):
        table.add_column(column)
    for check in (FITS, TOGETHER, *CHECKS, PROCESSES):
        if any(f.check == check for f in findings):
            table.add_row(check, *(at.get((check, case), "") for case in cases))
    console.print(table)
    for title, chosen in (
        ("failed", [f for f in findings if f.status == "fail"]),
        ("not claimed", [f for f in findings if f.status == "not claimed"]),
        ("figures", [f for f in findings if f.status == "pass" and f.check in FIGURES]),
    ):
        if chosen:
            console.print(f"\n[bold]{title}[/]")
        for check, detail in unique((f.check, f.detail) for f in chosen):
            where = ", ".join(f.case for f in chosen if (f.check, f.detail) == (check, detail))
            console.print(f"  {escape(check)} ({escape(where)}): {escape(detail)}", highlight=False, soft_wrap=True)
    counts = [sum(f.status == status for f in findings) for status in MARKS]
    console.print("\n[bold]{}[/]: {} passed, {} failed, {} not claimed, {:.0f} s".format(
        escape(subject.name), *counts, seconds), highlight=False)  # fmt: skip


def unique(values: Iterable) -> list:
    """In the order of their first appearance."""
    return list(dict.fromkeys(values))
