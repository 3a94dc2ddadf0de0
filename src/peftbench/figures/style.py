"""How figures look: colours, markers and sizes that also tell lines apart in grey and for colour-blind readers."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zlib import crc32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette (2008), without the yellow, which is too light for a line on white."""
FILLS = (*COLOURS[:4], *COLOURS[5:], "#F0E442", "#999999")
"""Colours of areas, which may be lighter than a line: with the yellow, a grey for black."""
MARKERS = "os^DvPX*<>hp"
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1, 1), (6, 1.5, 1, 1.5))
HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--", "oo", "++", "||")
COMMON = ("lora", "full", "dept", "prompt_tuning", "head_only", "bitfit", "ia3")
"""Methods that have their colours everywhere: the first is blue, and so on."""
Look = dict[str, Any]
INK = 0.36
"""Most brightness of text."""
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


def looks(labels: Mapping[str, str], methods: Iterable[str]) -> dict[str, Look]:
    """How each label is drawn: `colour`, `marker` and `dash` (lengths; empty for a solid line).

    A method has one colour, whatever is shown of it: it depends on which methods there are, not on which are drawn.
    Further settings of a method have a lighter or darker shade of it, and a marker and dash of their own.

    Args:
        labels: a label and its method.
        methods: all that there are in the results.
    """
    bases, found, seen = _bases({*methods, *labels.values()}), {}, Counter[str]()
    for label in sorted(labels):
        colour, marker, dash = bases[labels[label]]
        nth = seen[labels[label]]
        seen[labels[label]] += 1
        found[label] = {
            "colour": _shade(colour, nth),
            "marker": MARKERS[(marker + 5 * nth) % len(MARKERS)],
            "dash": [*DASHES[(dash + nth) % len(DASHES)]],
        }
    return found


def _bases(methods: Iterable[str]) -> dict[str, tuple[str, int, int]]:
    """Colour, marker and dash of each method: the least used so far, and of several the one that its name wishes."""
    found: dict[str, tuple[str, int, int]] = {}
    colours, markers, pairs = Counter[int](), Counter[int](), set[tuple[int, int]]()
    for name in sorted(methods, key=lambda m: (COMMON.index(m) if m in COMMON else len(COMMON), m)):
        wish = COMMON.index(name) if name in COMMON else crc32(name.encode())
        colour = min(range(len(COLOURS)), key=lambda k: (colours[k], (k - wish) % len(COLOURS)))
        marker = min(range(len(MARKERS)), key=lambda k: ((colour, k) in pairs, markers[k], (k - wish) % len(MARKERS)))
        found[name] = (COLOURS[colour], marker, colours[colour])
        colours[colour] += 1
        markers[marker] += 1
        pairs.add((colour, marker))
    return found


def _shade(colour: str, nth: int) -> str:
    """The colour itself, then lighter and darker by turns; black has no darker."""
    share = (0.0, 0.4, -0.4, 0.2, -0.25)[nth % 5]
    if colour == "#000000":
        share = abs(share) * 1.4
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = [p + (255 - p) * share if share > 0 else p * (1 + share) for p in parts]
    return colour if not share else "#" + "".join(f"{round(p):02x}" for p in mixed)


def ink(look: Look) -> str:
    """The colour for text: as dark as it takes to be read on white, in colour and in grey."""
    parts = [int(look["colour"][i : i + 2], 16) for i in (1, 3, 5)]
    brightness = sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)) / 255
    share = min(1.0, INK / max(brightness, 1e-9))
    return "#" + "".join(f"{round(p * share):02x}" for p in parts)


def line(look: Look) -> dict[str, Any]:
    """The look as matplotlib's arguments of a line."""
    dash = (0, tuple(look["dash"])) if look["dash"] else "-"
    return {"color": look["colour"], "marker": look["marker"], "linestyle": dash}


def tip(artist: Any, method: str, words: str = "") -> None:
    """Note on something drawn whose it is, and what a reader is told who points at it; `plot` puts it into the SVG."""
    artist.set_gid(f"tip:{quote(method)}:{quote(words)}")


def interval(point: Mapping[str, Any]) -> str:
    """A score with its interval."""
    known = point["low"] is not None
    return f"{point['score']:.1f}" + (f" [{point['low']:.1f}, {point['high']:.1f}]" if known else "")


def short_number(value: float) -> str:
    """1,200,000 as 1.2M, for axes."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.5g}"


def name_rows(axes: Axes, names: Sequence[str], methods: Sequence[str], looks: Mapping[str, Look]) -> None:
    """A name beside each row, in the colour of its method."""
    axes.set_yticks(range(len(names)), names)
    for text, method in zip(axes.get_yticklabels(), methods, strict=True):
        text.set_color(ink(looks[method]))
        tip(text, method)


@lru_cache(maxsize=4096)
def width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """Inches that one line of text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is as wide as the box in its place
        points, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    # 5 % more, since on a screen's pixels letters come out a little wider than on paper
    return 1.05 * float(points) / 72 + 0.02


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
    return 0.12 + 0.16 * bool(title) * (1 + wrapped(title, inches_wide - 0.2, LARGE).count("\n"))


def footnote(notes: Sequence[str], inches_wide: float) -> str:
    """The notes, each on its own lines."""
    return "\n".join(wrapped(note, inches_wide - 0.2, SMALL) for note in notes)


def footnote_inches(notes: Sequence[str], inches_wide: float) -> float:
    """Height that the notes take."""
    return 0.125 * (1 + footnote(notes, inches_wide).count("\n")) + 0.06 if notes else 0.0
