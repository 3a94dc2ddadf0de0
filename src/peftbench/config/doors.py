"""What of Hydra's own keys may be set from outside, on the command line or in a user's file, and what is refused.

Hydra makes an object of whatever a config names under `_target_`, and takes configs from wherever `hydra.searchpath`
says. Of its keys only those that say how a sweep is done are open, and they take plain values.
"""

from __future__ import annotations

import re
from typing import Any

from peftbench.errors import UsageError, escaped

_OPEN = re.compile(r"hydra/(launcher|sweeper)|hydra\.launcher\.\w+|hydra\.sweeper\.params(\..+)?|hydra\.verbose")
OPEN = "hydra/launcher, hydra.launcher.KEY and hydra.sweeper.params.KEY"
MAKES = re.compile(r"_target_|_partial_|_recursive_|_convert_")
_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.]*\}")
"""`${key}`, `${.sibling}`: another key of the same config, and nothing that is worked out."""


def for_hydra(key: str) -> bool:
    """Whether a key, or the package behind its `@`, is Hydra's own."""
    return "hydra" in re.split(r"[./@:]", key)


def check_override(text: str) -> None:
    """One override of a command.

    Raises:
        UsageError: it sets a key of Hydra's that is not open, or names something to be made.
    """
    key, _, value = text.lstrip("+~").partition("=")
    if MAKES.search(key):
        raise UsageError(f"{key}: no config names what is to be made (`_target_`); it holds values only.")
    if not for_hydra(key):
        return
    if not _OPEN.fullmatch(key):
        raise UsageError(f"{key}: no key of peftbench's. Of Hydra's keys these can be set: {OPEN}.")
    if MAKES.search(value) or "${" in value:
        raise UsageError(f"{key}: takes a plain value, nothing that is made or worked out.")


def check_text(text: str, where: str) -> None:
    """A text in a user's file: it may refer to other keys, but not have anything worked out (`${oc.env:HOME}`).

    Raises:
        UsageError: beginning with `where`.
    """
    unescaped = re.sub(r"(?<!\\)(\\\\)*\\\$\{", "", text)
    if "${" in _REFERENCE.sub("", unescaped):
        raise UsageError(
            f"{where}: {shortened(text)}: in a file of your own, `${{...}}` may name another key and nothing else. To "
            "have it as text, write `\\${`."
        )


def literal(value: Any) -> Any:
    """`value` so that OmegaConf takes every text in it as it stands, `${` included."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if "${" in value else value
    if isinstance(value, dict):
        return {key: literal(member) for key, member in value.items()}
    return [literal(member) for member in value] if isinstance(value, (list, tuple)) else value


def shortened(value: Any, limit: int = 60) -> str:
    """A value for a message: on one line, without control characters, cut if it is long."""
    text = escaped(str(value)[: 10 * limit])
    return text if len(text) <= limit else f"{text[:limit]}... ({len(str(value))} characters)"
