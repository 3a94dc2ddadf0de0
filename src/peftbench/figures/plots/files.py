"""From data to bytes: SVG, PDF, PNG and JSON, the same every time."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peftbench.figures.plots.data import Data
from peftbench.views.summary import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png", "json")
_NO_DATES: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}


def figure(data: Data) -> Figure:
    """The picture of any kind's data. The caller has applied `style.RC`; `render` does."""
    from peftbench.figures.plots import curves, draw

    makers: dict[str, Callable[[Data], Figure]] = {
        "shots": curves.shots, "training": curves.training, "pareto": draw.pareto, "ranks": draw.ranks,
        "languages": draw.languages, "cost": draw.cost,
    }  # fmt: skip
    return makers[data["kind"]](_printable(data))


def render(data: Data, suffix: str) -> bytes:
    """The file of one plot.

    Args:
        suffix: one of `FORMATS`. The picture does not depend on the time or on a user's matplotlib settings.
    """
    if suffix == "json":
        return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from peftbench.figures.plots import style

    # a name in a script that the font lacks is shown as boxes; matplotlib would say so for every letter
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    content = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.RC)  # type: ignore[arg-type]
        drawn = figure(data)
        FigureCanvasAgg(drawn)
        drawn.savefig(content, format=suffix, metadata=_NO_DATES[suffix], dpi=style.DPI)
    return content.getvalue()


def _printable(value: Any) -> Any:
    """The same data without control characters, which no font has."""
    if isinstance(value, dict):
        return {_printable(k): _printable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_printable(v) for v in value]
    return printable(value, "utf-8") if isinstance(value, str) else value
