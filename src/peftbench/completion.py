"""What the shell offers behind `peftbench`: commands, their options and, by Hydra, the keys and choices of a config."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence


def own_choices(
    line: str, commands: Mapping[str, str], settings: Sequence[str], dispatch: Callable[[list[str]], int]
) -> tuple[list[str], str | None]:
    """Words for the one that is being typed, and the line that Hydra is to complete; None if it has nothing to add.

    Args:
        line: the command line so far (`$COMP_LINE`), the program's name first.
        commands: the commands there are.
        settings: those of them whose words are settings.
        dispatch: runs a command; asked for `COMMAND --help`, whose text names its options.
    """
    program, *words = line.split() or [""]
    word = "" if line.endswith(" ") or not words else words[-1]
    before = words if not word else words[:-1]
    if not before:
        found = [command for command in commands if command.startswith(word)]
        return found, line
    if before[0] not in commands:
        return [], line
    if before[0] in settings and not word.startswith("-"):
        return [], " ".join([program, *before[1:], word])
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        dispatch([before[0], "--help"])
    options = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text.getvalue())))
    return [option for option in options if option.startswith(word)], None


def complete(commands: Mapping[str, str], settings: Sequence[str], dispatch: Callable[[list[str]], int]) -> bool:
    """Print our choices; whether Hydra is to add its own, for the line that it finds in `$COMP_LINE`."""
    found, rest = own_choices(os.environ.get("COMP_LINE", ""), commands, settings, dispatch)
    print("\n".join(found), end="\n" if found else "")
    if rest is not None:
        os.environ["COMP_LINE"] = rest
    return rest is not None
