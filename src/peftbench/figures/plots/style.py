"""How figures look: colours, markers and sizes that also tell lines apart in grey and for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette (2008), without the yellow, which is too light for a line on white."""
MARKERS = "os^DvPX*<>hp"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--", "oo", "++", "||")
GREY, LIGHT = "#555555", "#BBBBBB"

SMALL, NORMAL, LARGE = 6.5, 7.5, 9.0
"""Font sizes in points."""
DPI = 150

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "svg.hashsalt": "peftbench",  # the same figure gives the same bytes
    "pdf.fonttype": 42,
}


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> colour, marker and dash of its line; the same names always look the same."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i % len(DASHES)],
        }
        for i, name in enumerate(sorted(set(names)))
    }


@lru_cache(maxsize=4096)
def width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """Inches that one line of text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    # 5 % more, since on a screen's pixels letters come out a little wider than on paper
    return 1.05 * float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) / 72 + 0.02


def widest(texts: Sequence[str], size: float = SMALL) -> float:
    """Inches of the widest of several texts."""
    return max((width(text, size) for text in texts), default=0.0)


def wrapped(text: str, inches: float, size: float = NORMAL) -> str:
    """`text` with line breaks, so that it fits; a single long word is shortened."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width(joined, size) <= inches:
            lines[-1] = joined
        else:
            lines.append(shortened(word, inches, size))
    return "\n".join(lines)


def shortened(text: str, inches: float, size: float = SMALL) -> str:
    """`text`, its middle left out if it is wider than that."""
    if width(text, size) <= inches:
        return text
    keep = len(text) - 1
    while keep > 2 and width(cut := f"{text[: keep // 2 + keep % 2]}…{text[len(text) - keep // 2 :]}", size) > inches:
        keep -= 1
    return cut


def new_figure(inches_wide: float, inches_high: float) -> Figure:
    """An empty figure that no window knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(inches_wide, inches_high), dpi=DPI)


def add_axes(figure: Figure, left: float, bottom: float, wide: float, high: float) -> Axes:
    """Axes at a place given in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, wide / w, high / h))


def heading(figure: Figure, title: str, notes: Sequence[str]) -> None:
    """The title at the top left and the notes at the bottom left, wrapped to the figure."""
    w, h = figure.get_size_inches()
    figure.text(0.1 / w, 1 - 0.08 / h, wrapped(title, w - 0.2, LARGE), size=LARGE, weight="bold", va="top")
    if notes:
        figure.text(0.1 / w, 0.06 / h, footnote(notes, w), size=SMALL, color=GREY, va="bottom")


def heading_inches(title: str, inches_wide: float) -> float:
    """Height that the title takes."""
    return 0.12 + 0.16 * (1 + wrapped(title, inches_wide - 0.2, LARGE).count("\n"))


def footnote(notes: Sequence[str], inches_wide: float) -> str:
    """The notes, each on its own lines."""
    return "\n".join(wrapped(note, inches_wide - 0.2, SMALL) for note in notes)


def footnote_inches(notes: Sequence[str], inches_wide: float) -> float:
    """Height that the notes take."""
    return 0.125 * (1 + footnote(notes, inches_wide).count("\n")) + 0.06 if notes else 0.0
