"""How the commands about sweeps put things on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from peftbench.views.summary import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 1000


def new_console() -> Console:
    """Standard output; a file or pipe has no width, so nothing is cut there."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDE, soft_wrap=True, highlight=False)


def new_table(columns: Sequence[str], rows: Iterable[Sequence[str]], encoding: str = "utf-8") -> Table:
    """A table of plain text. A column whose name begins with `>` is set to the right; one that is empty is left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    used = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i in used:
        right = columns[i].startswith(">")
        table.add_column(columns[i].lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(printable(row[i], encoding)) for i in used))
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print `new_table`."""
    console = new_console()
    console.print(new_table(columns, rows, console.encoding))


def say(text: str) -> None:
    """One line of text as it is: no markup, no colour."""
    from rich.text import Text

    console = new_console()
    console.print(Text(printable(text, console.encoding)))


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(512), size(3 * 2**20)
    ('512 bytes', '3.0 MiB')
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
