"""Config files of the user's own, beside those of the package: `$PEFTBENCH_CONF`, else `results/conf` if it is there.

The folder is laid out like the package's `conf`: `experiment/NAME.yaml` is found by `+experiment=NAME`. A name that the
package has too is the package's. Such a file sets this project's keys; it is read as plain data and looked through
before Hydra composes it, so a file from somebody else can be tried without fear.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from peftbench.cache import code_stamp, tree_stamp
from peftbench.config.doors import MAKES, OPEN, check_override, check_text, for_hydra, shortened
from peftbench.errors import UsageError, did_you_mean
from peftbench.files import open_file

VARIABLE = "PEFTBENCH_CONF"
DEFAULT = Path("results/conf")
"""Where a search with the default `out_dir` leaves its experiment files."""
LAUNCHERS = ("local", "slurm")
MOST_NODES, DEEPEST, LARGEST = 200_000, 50, 20_000_000
"""Values in a file with aliases written out, levels of nesting, and bytes: beyond them it is no settings file."""
_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp", "value")
}


def user_folder() -> Path | None:
    """The user's folder, or None. Raises UsageError if the variable names none."""
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser() if named else DEFAULT
    if folder.is_dir():
        return folder.resolve()
    if named:
        raise UsageError(f"{VARIABLE}={named}: no such folder. Make it, or unset {VARIABLE}.")
    return None


def config_stamp() -> list[str]:
    """What changes when a config file does, the user's own included, or the code that reads them."""
    user = user_folder()
    return [code_stamp("conf", "config"), tree_stamp(user) if user else ""]


def check_settings(path: Path) -> None:
    """Look through a settings file.

    Raises:
        UsageError: naming file, line and column: it is no YAML, no mapping, sets a key of Hydra's, names something to
            be made (`_target_`) or has something worked out (`${oc.env:...}`).
    """
    text = read_text(path)
    for line in text[:512].splitlines():
        if line.startswith("#") and "@package" in line and "hydra" in line:
            raise UsageError(f"{path}:1: `{line.strip()}`: a file of your own cannot write to Hydra's own keys.")
    root = parse(path, text)
    for key, value in pairs(root):
        name = str(key.value)
        if name == "defaults":
            check_defaults(path, value)
        elif name == "hydra":
            check_hydra(path, value)
        elif for_hydra(name):
            raise _wrong(path, key, f"{name}: no key of peftbench's. {_WAY_OUT}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain values of a user's YAML file.

    Raises:
        UsageError: naming file, line and column: it is no UTF-8, no YAML, or no mapping of keys to values.
    """
    parse(path, text := read_text(path))
    return yaml.safe_load(text) or {}


def read_text(path: Path) -> str:
    """A small text file. Raises UsageError if it cannot be read, is too large or is no UTF-8."""
    try:
        with open_file(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{path}: more than {LARGEST:,} bytes; no settings file is that large.")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line}: not UTF-8 text (byte {error.object[error.start]:#04x}). Save it as UTF-8."
        ) from None


def parse(path: Path, text: str) -> MappingNode:
    """The nodes of a YAML file, each looked at: plain values only, no key twice.

    Raises:
        UsageError: naming file, line and column.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        root = root or MappingNode("tag:yaml.org,2002:map", [])
        _check_nodes(path, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UsageError(f"{place}: not valid YAML: {error.problem or error.context}.") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UsageError(f"{path}:{line}: not valid YAML: the character {error.character!r} is not allowed.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UsageError(f"{path}: not valid YAML: {words}.") from None
    if not isinstance(root, MappingNode):
        raise _wrong(path, root, "a settings file is a mapping, lines of `key: value`")
    return root


def _check_nodes(path: Path, root: Node) -> None:
    stack, count = [(root, 0)], 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if depth > DEEPEST or count > MOST_NODES:
            raise _wrong(path, node, "nested too deeply" if depth > DEEPEST else f"more than {MOST_NODES:,} values")
        if node.tag not in _TAGS:
            raise _wrong(path, node, f"`{shortened(node.tag)}`: only plain values, no tags")
        if isinstance(node, ScalarNode):
            check_text(str(node.value), _place(path, node))
        elif isinstance(node, SequenceNode):
            stack += [(member, depth + 1) for member in node.value]
        elif isinstance(node, MappingNode):
            _check_keys(path, node)
            stack += [(value, depth + 1) for _, value in node.value]


def _check_keys(path: Path, node: MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:null":
            raise _wrong(path, key, "a key must be a name")
        if (key.tag, key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
            raise _wrong(path, key, f"{shortened(key.value)}: stands here twice; take one out")
        if MAKES.fullmatch(key.value):
            raise _wrong(path, key, f"{key.value}: a settings file holds values, it does not name what is to be made")
        seen.add((key.tag, key.value))


def pairs(node: Node) -> Iterator[tuple[ScalarNode, Node]]:
    """Key and value of a mapping, those of `<<` merges included; nothing of any other node."""
    for key, value in node.value if isinstance(node, MappingNode) else ():
        if key.tag == "tag:yaml.org,2002:merge":
            for merged in value.value if isinstance(value, SequenceNode) else [value]:
                yield from pairs(merged)
        else:
            yield key, value


_WAY_OUT = f"Of Hydra's keys these can be set: {OPEN}; the others are for the command's own files."


def check_hydra(path: Path, node: Node) -> None:
    """The `hydra` section of a user's file: knobs of our launchers and the values of a sweep."""
    for key, value in pairs(node):
        if key.value == "launcher" and isinstance(value, MappingNode):
            continue  # its keys are checked against the launcher's when the sweep begins
        inner = {str(k.value): v for k, v in pairs(value)}
        if key.value != "sweeper" or set(inner) - {"params"}:
            raise _wrong(path, key, f"hydra.{key.value}: no key of peftbench's. {_WAY_OUT}")
        for name, given in pairs(inner.get("params", value)):
            try:
                check_override(f"{name.value}={given.value}")
            except UsageError as error:
                raise _wrong(path, name, str(error)) from None


def check_defaults(path: Path, node: Node) -> None:
    """The defaults list of a user's file: other files of this project, and one of our launchers."""
    if not isinstance(node, SequenceNode):
        raise _wrong(path, node, "defaults: must be a list, lines of `- group: file`")
    for entry in node.value:
        items = list(pairs(entry)) if isinstance(entry, MappingNode) else [(entry, entry)]
        if len(items) != 1 or not isinstance(items[0][0], ScalarNode):
            raise _wrong(path, entry, "defaults: an entry is `- group: file` or the name of a file")
        key, value = items[0]
        words = str(key.value).split()
        group = words[-1] if words else ""
        if for_hydra(group) or "hydra" in group:
            if group.lstrip("/") != "hydra/launcher":
                raise _wrong(path, key, f"{key.value}: a file of your own cannot choose Hydra's own parts")
            if value.value not in LAUNCHERS:
                raise _wrong(path, value, f"hydra/launcher: {did_you_mean(str(value.value), LAUNCHERS).rstrip('.')}")
        elif words and Path(group).name == path.stem and (key is value or value.value == path.stem):
            raise _wrong(path, entry, "defaults: the file names itself")


def _place(path: Path, node: Node) -> str:
    return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}" if node.start_mark else str(path)


def _wrong(path: Path, node: Node, words: str) -> UsageError:
    return UsageError(f"{_place(path, node)}: {words.rstrip('.')}.")
