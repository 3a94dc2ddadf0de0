"""One figure, one definition: a module of this folder whose `PLOT` says what it shows, makes its data and draws it.

The drawing is the same everywhere: as SVG, PDF or PNG by `peftbench plot`, as SVG in the page of `peftbench report`.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from peftbench.config import registry
from peftbench.errors import UsageError
from peftbench.figures import style
from peftbench.records.store import Store
from peftbench.tables.standings import Standings
from peftbench.views.summary import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Data = dict[str, Any]

FORMATS = ("svg", "pdf", "png", "json")
MOST_PANELS = 16
_NO_DATES: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}


def one_view(data: Data) -> list[tuple[str, Data]]:
    """The whole figure as the only one to choose."""
    return [("", data)]


def view_a_panel(data: Data) -> list[tuple[str, Data]]:
    """Each panel as a figure of its own, by its title."""
    return [(f"{panel['title']} ({panel['metric']})", {**data, "panels": [panel]}) for panel in data["panels"]]


@dataclass(frozen=True)
class Plot:
    """The definition of a figure.

    Attributes:
        shows: in words.
        data: what is drawn, as plain data ready for JSON: `title`, `notes` if there are any, and what `draw` needs.
            Raises UsageError if the runs cannot be shown in one figure; the message says which filter helps.
        draw: the picture, from the data with `looks` (see `style.looks`) and `notes` added.
        views: name and data of the parts that a page shows one at a time.
        in_report: whether the report has it.
    """

    shows: str
    data: Callable[[Standings, Store], Data]
    draw: Callable[[Data], Figure]
    views: Callable[[Data], Sequence[tuple[str, Data]]] = one_view
    in_report: bool = True


def names() -> list[str]:
    """Every figure there is: the modules of this folder that define `PLOT`, and entry points of `peftbench.plots`."""
    return registry.names("plot")


def find(kind: str) -> Plot:
    """The definition of that name, or of `module:PLOT`. Raises UsageError if there is none."""
    return registry.get("plot", kind)


def make(kind: str, standings: Standings, store: Store, all_panels: bool = False) -> Data:
    """The data of one plot: what its `data` gives, with `kind`, `notes` and `looks`.

    Args:
        all_panels: also more panels than fit on one page, for a reader who can choose one.

    Raises:
        UsageError: there is no such kind, or the runs cannot be shown in one plot of it.
    """
    plot = find(kind)
    if not any(cell.runs for cell in standings.cells):
        raise UsageError("None of these runs is finished, so there is nothing to draw.")
    made = plot.data(standings, store)
    if not all_panels and len(made.get("panels", ())) > MOST_PANELS:
        raise _too_many([panel["title"] for panel in made["panels"]])
    return {"kind": kind, **made, "notes": [*made.get("notes", []), *standings.notes], "looks": looks(standings)}


def looks(standings: Standings) -> dict[str, Any]:
    """How the methods are drawn, by label."""
    return style.looks({cell.label: cell.method for cell in standings.cells}, standings.methods)


def _too_many(titles: Sequence[str]) -> UsageError:
    return UsageError(
        f"{len(titles)} panels ({'; '.join(titles[:3])} ...) are more than the {MOST_PANELS} that fit. Use --task, "
        "--subset, --model, --protocol or --shots to choose."
    )


def figure(data: Data) -> Figure:
    """The picture of any kind's data. The caller has applied `style.RC`; `render` does."""
    return find(data["kind"]).draw(_printable(data))


def render(data: Data, suffix: str) -> bytes:
    """The file of one plot.

    Args:
        suffix: one of `FORMATS`. The picture does not depend on the time or on a user's matplotlib settings.
    """
    if suffix == "json":
        return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
    content = _saved(data, suffix)
    return _with_tips(content.decode()).encode() if suffix == "svg" else content


def inline_svg(data: Data) -> str:
    """The picture for a page: its text is text and its ground is the page's."""
    drawn = _with_tips(_saved(data, "svg", {"svg.fonttype": "none"}, transparent=True).decode())
    return drawn[drawn.index("<svg") :]


def _saved(data: Data, suffix: str, rc: dict[str, Any] | None = None, transparent: bool = False) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # a name in a script that the font lacks is shown as boxes; matplotlib would say so for every letter
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    content = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.RC | (rc or {}))  # type: ignore[arg-type]
        drawn = figure(data)
        FigureCanvasAgg(drawn)
        drawn.savefig(content, format=suffix, metadata=_NO_DATES[suffix], dpi=style.DPI, transparent=transparent)
    return content.getvalue()


def _with_tips(svg: str) -> str:
    """What `style.tip` has marked, as SVG has it: the method as an attribute, the words as a title."""

    def group(found: re.Match[str]) -> str:
        method, words = (escape(unquote(text)) for text in found.groups())
        return f'<g data-method="{method}"><title>{words}</title>' if words else f'<g data-method="{method}">'

    return re.sub(r'<g id="tip:([^:"]*):([^"]*)">', group, svg)


def _printable(value: Any) -> Any:
    """The same data without control characters, which no font has."""
    if isinstance(value, dict):
        return {_printable(k): _printable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_printable(v) for v in value]
    return printable(value, "utf-8") if isinstance(value, str) else value
