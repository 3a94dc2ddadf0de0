"""What a reader sees of a table, before any mark-up: a row of ours, below it the paper's numbers with a sign for the
verdict, and numbered notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from peftbench.records.seen import remarks
from peftbench.tables.cells import TableCell
from peftbench.tables.claims import Claim
from peftbench.tables.commands import command, merge, runs
from peftbench.tables.spec import text
from peftbench.tables.table import Table
from peftbench.tables.verdict import DIFFERS, NOT_COMPARABLE, REPRODUCED, WITHIN_NOISE

MARK = "\ue000"
"""Stands before the number of a note; a private character, so no text of a table can be taken for it."""
SIGNS = {REPRODUCED: "=", WITHIN_NOISE: "~", DIFFERS: "!", NOT_COMPARABLE: "?"}
LEGEND = (
    "Ours: mean [95 % interval over draws, seeds and test items]; bold: best or not told apart from it (Holm within "
    "the column); †k/n: k of n runs so far; -: not run yet; n/a: not in this version. "
    "Paper: = reproduced, ~ within noise, ! differs, ? not comparable (the note says why)."
)


@dataclass
class PageRow:
    """A printed row: its label and one text a column; `bold` says which are bold."""

    label: str
    texts: list[str]
    bold: list[bool]
    paper: bool = False


@dataclass
class PagePanel:
    """A panel: its title (empty if the table has one panel only), column labels and lines."""

    title: str
    columns: list[str]
    lines: list[PageRow]


@dataclass
class Page:
    """What a reader sees, before any mark-up. A note is referred to as MARK and its number in a text."""

    title: str
    head: list[str]
    panels: list[PagePanel]
    claims: list[tuple[str, str, str]]
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def note(self, text: str) -> str:
        """The mark of a note; equal notes share it."""
        if text not in self.notes:
            self.notes.append(text)
        return f"{MARK}{self.notes.index(text) + 1}"


def lay_out_page(table: Table, out_dir: str) -> Page:
    """The page of a table; its commands file their runs in `out_dir`."""
    config = table.config
    changed = " ".join(f"{k}={text(v).strip('[]')}" for k, v in table.given.items())
    head = [config.description, f"Paper: {config.paper}.", *([f"Asked for: {changed}."] if changed else []), LEGEND]
    page = Page(config.title, head, [], [], list(config.notes))
    for label in table.panels:
        rows, columns = table.grid(label)
        lines = [line for row in rows for line in _lines(page, table, label, row, columns)]
        page.panels.append(PagePanel(label, columns, lines))
    page.claims = [_claim(page, claim) for claim in table.claims]
    page.notes += table.warnings
    extra = [] if out_dir == "results" else [f"out_dir={out_dir}"]
    page.commands = [f"{command(s, extra)}    # {_plural(runs(s), 'run')}" for s in merge(table.missing())]
    return page


def _lines(page: Page, table: Table, panel: str, row: str, columns: Sequence[str]) -> Iterable[PageRow]:
    cells = [table.cells[panel, row, column] for column in columns]
    yield PageRow(row, [_ours(page, c) for c in cells], [c.best for c in cells])
    if any(c.spec.paper for c in cells):
        yield PageRow("paper", [_paper(page, c) for c in cells], [False] * len(cells), paper=True)


def _ours(page: Page, cell: TableCell) -> str:
    if cell.spec.outside:
        return ""
    if not cell.asked:
        return "n/a" + page.note(cell.problem)
    if cell.value is None:
        return "-" + (page.note(cell.problem) if cell.done or "," in cell.problem else "")
    shown = number(cell.value, cell)
    if cell.low is not None and cell.high is not None and cell.high > cell.low:
        shown += f" [{number(cell.low, cell)}, {number(cell.high, cell)}]"
    seen = "".join(page.note(remark) for remark in remarks(r for g in cell.groups for r in g.runs))
    return shown + ("" if cell.complete else f" †{cell.done}/{cell.asked}") + seen


def _paper(page: Page, cell: TableCell) -> str:
    paper = cell.spec.paper
    if paper is None:
        return ""
    shown = _thousands(paper.printed) + ("" if paper.sd is None else f" ±{paper.sd:g}")
    shown += page.note(f"{paper.paper}: {paper.source}")
    if cell.verdict is None:
        return shown
    reasons = page.note("not comparable: " + "; ".join(cell.verdict.reasons)) if cell.verdict.reasons else ""
    return f"{shown} {SIGNS[cell.verdict.kind]}{reasons}"


def _claim(page: Page, claim: Claim) -> tuple[str, str, str]:
    """Claim, the paper's number, ours with the verdict."""
    theirs = "" if claim.paper is None else claim.paper.printed
    source = "" if claim.paper is None else page.note(f"{claim.paper.paper}: {claim.paper.source}")
    if not claim.summary:
        return claim.config.label, theirs + source, "- " + page.note(claim.problem)
    shown = f"{claim.summary['mean']:.1f}"
    if claim.summary["low"] is not None and claim.summary["low"] < claim.summary["high"]:
        shown += f" [{claim.summary['low']:.1f}, {claim.summary['high']:.1f}]"
    if claim.verdict is not None:
        reasons = "not comparable: " + "; ".join(claim.verdict.reasons)
        shown += f" {SIGNS[claim.verdict.kind]}" + (page.note(reasons) if claim.verdict.reasons else "")
    return claim.config.label, theirs + source, shown


def number(value: float, cell: TableCell) -> str:
    """Scores with one decimal; counts with separators; small costs with as many digits as tell something."""
    if not cell.groups or not cell.groups[0].is_cost:
        return f"{value:.1f}"
    if value >= 1000:
        return f"{value:.3g}" if value >= 1e9 else f"{value:,.0f}"
    return f"{value:.3g}"


def _thousands(printed: str) -> str:
    return f"{int(printed):,}" if printed.isdecimal() and len(printed) > 4 else printed


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
