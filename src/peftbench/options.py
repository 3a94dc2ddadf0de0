"""The options of a command: a parser whose mistakes are UsageErrors, and the kinds of numbers that options take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from peftbench.errors import UsageError, did_you_mean

OUT_DIR = "out_dir="


class OptionParser(argparse.ArgumentParser):
    """The options of `peftbench COMMAND`, of which none may be shortened.

    Args:
        out_dir: whether there is `--out-dir`, the folder of the runs.
        json: whether there is `--json`, machine-readable output.
    """

    def __init__(
        self, command: str, description: str, epilog: str = "", *, out_dir: bool = True, json: bool = True
    ) -> None:
        lines = argparse.RawDescriptionHelpFormatter if "\n" in description + epilog else argparse.HelpFormatter
        super().__init__(
            prog=f"peftbench {command}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=lines,
        )
        if out_dir:
            self.add_argument("--out-dir", "--out_dir", default="results", metavar="FOLDER", help="default: results")
        if json:
            self.add_argument("--json", action="store_true", help="machine-readable")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse has it, but a word that is no option is said before what is lacking because of it.

        Raises:
            UsageError: there is such a word, or another mistake.
        """
        known = self._option_string_actions
        before_dashes = takewhile(lambda word: word != "--", args or ())
        for word in (word.partition("=")[0] for word in before_dashes if word.startswith("--")):
            if word not in known:
                near = did_you_mean(word[:100], [name for name in known if name.startswith("--")])
                raise UsageError(f"{self.prog} {word[:100]}: no such option. {near}")
        return super().parse_known_args(args, namespace)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options; `out_dir=FOLDER`, as a run's command has it, counts as `--out-dir FOLDER`."""
        return self.parse_intermixed_args(
            [f"--out-dir={a.removeprefix(OUT_DIR)}" if a.startswith(OUT_DIR) else a for a in argv]
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}. `{self.prog} --help` shows the options.")


def whole(least: int = 1) -> Callable[[str], int]:
    """A whole number of `least` and more, as an option's `type`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"`{text}` is not a whole number{f' above {least - 1}' if least else ''}")
        return int(text)

    return read


def number(words: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """A number for which `holds`, as an option's `type`; `words` say which those are."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not holds(value):
            raise argparse.ArgumentTypeError(f"`{text}` is not {words}")
        return value

    return read
