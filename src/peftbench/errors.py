"""What goes wrong because of what the user gave us, and how it is said.

A `UsageError` is printed as one message without a traceback and ends the command with exit code 2, so its text has
to carry everything: the key or file and line, what was found, the nearest valid choice and the way out.
"""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable

LONGEST_WORD = 400
"""Characters of a word that a message shows whole: a path may be long, a value given by mistake needs no more."""


class UsageError(Exception):
    """The command, the config or the data is wrong; nothing was run. Exit code 2.

    What a message quotes of the user's is shown on its line: control characters are escaped, and a word without end is
    cut. Lines of our own begin with two spaces.
    """

    def __init__(self, message: object = "") -> None:
        lines = map(escaped, str(message).split("\n  "))
        super().__init__(re.sub(rf"\S{{{LONGEST_WORD},}}", _cut, "\n  ".join(lines)))


def escaped(text: str) -> str:
    """`text` with its control characters, line breaks and the like written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(word: re.Match[str]) -> str:
    return f"{word[0][:60]}... ({len(word[0])} characters)"


class Interrupted(KeyboardInterrupt):
    """The process was told to stop. A run that was in training has saved a checkpoint. Exit code 128 + signal:
    130 for SIGINT, 143 for SIGTERM, 138 and 140 for SIGUSR1 and SIGUSR2."""

    def __init__(self, number: int, during: str = "") -> None:
        super().__init__(signal.Signals(number).name + (f" {during}" if during else ""))
        self.code = 128 + number


def a_or_an(word: str) -> str:
    """The word with its article.

    >>> a_or_an("encoder"), a_or_an("causal")
    ('an encoder', 'a causal')
    """
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def did_you_mean(name: str, choices: Iterable[str], limit: int = 40) -> str:
    """A sentence that names the nearest valid choice and the valid ones, for the end of an error message.

    >>> did_you_mean("detp", ["dept", "lora"])
    'Did you mean `dept`? Valid: dept, lora.'
    """
    choices = sorted(choices)
    near = [choice for choice in choices if choice.casefold() == name.casefold()]
    near = near or difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    shown = ", ".join(choices[:limit]) + (f", ... ({len(choices)} in all)" if len(choices) > limit else "")
    return (f"Did you mean `{near[0]}`? " if near else "") + f"Valid: {shown}."
