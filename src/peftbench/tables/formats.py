"""A table as Markdown, LaTeX, HTML, CSV or JSON.

The first three mark up the same `Page`. CSV and JSON have a line a cell with everything that is known of it.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peftbench.records.seen import remarks
from peftbench.tables.cells import TableCell
from peftbench.tables.claims import Claim
from peftbench.tables.commands import command
from peftbench.tables.lacking import lacking
from peftbench.tables.page import MARK, Page, PagePanel, lay_out_page
from peftbench.tables.table import Table

_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]")
_NOTE = re.compile(f"{MARK}(\\d+)")


# Markdown


def to_markdown(table: Table, out_dir: str = "results") -> str:
    """A section with a table a panel, claims, notes, and the commands that fill what is missing."""
    page = lay_out_page(table, out_dir)
    parts = [f"## {_md(page.title)}", *map(_md, page.head)]
    for panel in page.panels:
        if panel.title:
            parts.append(f"### {_md(panel.title)}")
        lines = [["", *map(_md, panel.columns)], ["---", *["---:"] * len(panel.columns)]]
        for line in panel.lines:
            label = f"↳ {_md(line.label)}" if line.paper else _md(line.label)
            cells = [f"**{_md(t)}**" if b else _md(t) for t, b in zip(line.texts, line.bold, strict=True)]
            lines.append([label, *cells])
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    if page.claims:
        lines = [["claim", "paper", "ours"], ["---", "---:", "---:"], *([_md(t) for t in c] for c in page.claims)]
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    if page.notes:
        parts.append("\n".join(f"{i}. {_md(note)}" for i, note in enumerate(page.notes, 1)))
    if page.commands:
        parts.append(f"Missing: {lacking(table)}.\n\n```sh\n" + "\n".join(page.commands) + "\n```")
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    escaped = re.sub(r"([\\`*_<>|#\[\]])", r"\\\1", " ".join(text.split()))
    return _NOTE.sub(r"<sup>\1</sup>", re.sub(r"\\([\[\]_#])", r"\1", escaped))


# LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "†": r"\dag{}",
    "‡": r"\ddag{}",
    "±": r"$\pm$", "^": r"\textasciicircum{}", '"': "''", "[": "{[}", "]": "{]}",
}  # fmt: skip


def to_latex(table: Table, out_dir: str = "results") -> str:
    r"""A `table` float a panel; the preamble needs `\usepackage{booktabs}` and a Unicode input encoding."""
    page = lay_out_page(table, out_dir)
    floats = [_float(page, panel, i == len(page.panels) - 1) for i, panel in enumerate(page.panels)]
    comments = [f"% missing: {line}" for line in page.commands]
    return "\n".join([r"% \usepackage{booktabs}", *comments, *floats]) + "\n"


def _float(page: Page, panel: PagePanel, last: bool) -> str:
    title = page.title + (f": {panel.title}" if panel.title else "")
    body = []
    for line in panel.lines:
        cells = [rf"\textbf{{{tex(t)}}}" if b else tex(t) for t, b in zip(line.texts, line.bold, strict=True)]
        label = r"\quad\textit{" + tex(line.label) + "}" if line.paper else tex(line.label)
        body.append(" & ".join([label, *cells]) + r" \\")
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{tex(title)}. {tex(page.head[-1])}}}",
        r"\begin{tabular}{l" + "r" * len(panel.columns) + "}",
        r"\toprule",
        " & ".join(["", *map(tex, panel.columns)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if last and page.claims:
        lines += [r"\begin{tabular}{lrr}", r"\toprule", r"claim & paper & ours \\", r"\midrule"]
        lines += [" & ".join(map(tex, c)) + r" \\" for c in page.claims] + [r"\bottomrule", r"\end{tabular}"]
    if last and page.notes:
        notes = (f"$^{{{i}}}$ {tex(note.rstrip('.'))}." for i, note in enumerate(page.notes, 1))
        lines.append(r"\par\footnotesize " + " ".join(notes))
    return "\n".join([*lines, r"\end{table}"])


def tex(text: str) -> str:
    """A text on one line as LaTeX shows it: its special characters escaped, marks of notes raised."""
    pieces = _NOTE.split(" ".join(text.split()))
    plain = ["".join(_TEX.get(c, c) for c in piece) for piece in pieces[::2]]
    marks = [rf"\textsuperscript{{{mark}}}" for mark in pieces[1::2]]
    return "".join(a + b for a, b in zip(plain, [*marks, ""], strict=True))


# HTML


def to_html(table: Table, out_dir: str = "results") -> str:
    """A `<section>`; every text is escaped."""
    page = lay_out_page(table, out_dir)
    parts = [f"<section><h2>{_html(page.title)}</h2>", *(f"<p>{_html(text)}</p>" for text in page.head)]
    for panel in page.panels:
        parts.append(f"<h3>{_html(panel.title)}</h3>" if panel.title else "")
        parts.append("<table><thead>" + _row("th", "", panel.columns, _html) + "</thead><tbody>")
        for line in panel.lines:
            cells = [f"<b>{_html(t)}</b>" if b else _html(t) for t, b in zip(line.texts, line.bold, strict=True)]
            parts.append(_row("td", line.label, cells, str, "paper" if line.paper else "ours"))
        parts.append("</tbody></table>")
    if page.claims:
        parts.append("<table><thead>" + _row("th", "claim", ["paper", "ours"], _html) + "</thead><tbody>")
        parts += [_row("td", label, cells, _html) for label, *cells in page.claims]
        parts.append("</tbody></table>")
    parts += ["<ol>", *(f"<li>{_html(note)}</li>" for note in page.notes), "</ol>"]
    if page.commands:
        lines = html.escape("\n".join(page.commands))
        parts.append(f"<p>Missing: {html.escape(lacking(table))}.</p><pre>{lines}</pre>")
    return "\n".join(filter(None, [*parts, "</section>"])) + "\n"


def _row(tag: str, label: str, cells: Iterable[str], mark_up: Callable[[str], str], kind: str = "") -> str:
    opened = f'<tr class="{kind}">' if kind else "<tr>"
    return f"{opened}<th>{_html(label)}</th>" + "".join(f"<{tag}>{mark_up(c)}</{tag}>" for c in cells) + "</tr>"


def _html(text: str) -> str:
    return _NOTE.sub(r"<sup>\1</sup>", html.escape(text))


# CSV and JSON


def to_csv(table: Table, out_dir: str = "results") -> str:
    """RFC 4180, a line a cell; text that a spreadsheet would run as a formula gets a leading quote."""
    lines = cell_rows(table, out_dir)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["table"], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _inert(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value if isinstance(value, str) and _FORMULA.match(value) else value


def to_json(table: Table, out_dir: str = "results") -> str:
    """Cells as in CSV, claims, and the commands that fill what is missing."""
    content = {
        "table": table.name,
        "title": table.config.title,
        "paper": table.config.paper,
        "given": table.given,
        "cells": cell_rows(table, out_dir),
        "claims": [_claim_row(claim) for claim in table.claims],
        "missing": lay_out_page(table, out_dir).commands,
        "notes": [*table.config.notes, *table.warnings],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cell_rows(table: Table, out_dir: str = "results") -> list[dict[str, Any]]:
    """Everything that is known of each cell, as plain values."""
    extra = [] if out_dir == "results" else [f"out_dir={out_dir}"]
    return [_cell_row(table.name, cell, extra) for cell in table.cells.values()]


def _cell_row(name: str, cell: TableCell, extra: Sequence[str]) -> dict[str, Any]:
    spec, paper, verdict = cell.spec, cell.spec.paper, cell.verdict
    return {
        "table": name,
        "panel": spec.panel,
        "row": spec.row,
        "column": spec.column,
        "metric": cell.groups[0].metric if cell.groups and not spec.mean_of else spec.metric,
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "runs": cell.done,
        "asked": cell.asked,
        "best": cell.best,
        "tie_group": cell.letters,
        "problem": cell.problem,
        "seen": "; ".join(remarks(r for group in cell.groups for r in group.runs)),
        "paper": None if paper is None else paper.value,
        "paper_sd": None if paper is None else paper.sd,
        "paper_source": "" if paper is None else f"{paper.paper}: {paper.source}",
        "verdict": "" if verdict is None else verdict.kind,
        "reasons": "" if verdict is None else "; ".join(verdict.reasons),
        "difference": None if verdict is None else verdict.difference,
        "difference_low": None if verdict is None else verdict.low,
        "difference_high": None if verdict is None else verdict.high,
        "chosen": ", ".join(f"{key.removeprefix('method.')}={v}" for key, v in cell.tuning.get("values", {}).items()),
        "command": "" if cell.fill is None else command(cell.fill, extra),
    }


def _claim_row(claim: Claim) -> dict[str, Any]:
    return {
        "claim": claim.config.label,
        "unit": claim.unit,
        "paper": None if claim.paper is None else claim.paper.value,
        "value": claim.summary.get("mean"),
        "low": claim.summary.get("low"),
        "high": claim.summary.get("high"),
        "problem": claim.problem,
        "verdict": "" if claim.verdict is None else claim.verdict.kind,
        "reasons": "" if claim.verdict is None else "; ".join(claim.verdict.reasons),
    }


FORMATS: dict[str, Callable[[Table, str], str]] = {
    "md": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "html": to_html,
    "json": to_json,
}
