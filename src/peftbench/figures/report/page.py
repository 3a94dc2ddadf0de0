"""The report as one file: data, styles, scripts and pictures in it, nothing loaded from anywhere."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def page(payload: dict[str, Any]) -> bytes:
    """The HTML file of a payload."""
    parts = {
        "@@CSS@@": _asset("page.css"),
        "@@SCRIPT@@": _asset("table.js") + _asset("page.js"),
        "@@DATA@@": embedded(payload),
    }
    html = _asset("page.html")
    for mark, text in parts.items():  # the data last, so that nothing in it is taken for a mark
        before, after = html.split(mark)
        html = before + text + after
    return html.encode("utf-8")


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: no text in it can end the element or begin another."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def _asset(name: str) -> str:
    return (files("peftbench.figures.report") / name).read_text(encoding="utf-8")
