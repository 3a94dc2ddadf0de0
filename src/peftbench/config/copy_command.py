"""`peftbench cp GROUP NAME NEW`: a packaged config file into the user's folder, to be edited, under a new name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from peftbench.config.catalogue import names
from peftbench.config.user_files import DEFAULT, VARIABLE
from peftbench.errors import UsageError, did_you_mean
from peftbench.files import write_atomic
from peftbench.options import OptionParser

GROUPS = ("method", "task", "table", "protocol", "trainer", "model", "search")


def cp(args: list[str]) -> int:
    """Copy one config file; returns the exit code.

    Raises:
        UsageError: there is no such file, or the new name is taken or may not be a file's name.
    """
    words = f"Copy a packaged config into {VARIABLE} (else {DEFAULT}), to edit it and use it by its new name."
    parser = OptionParser("cp", words, out_dir=False, json=False)
    parser.add_argument("group", metavar="|".join(GROUPS))
    parser.add_argument("name", help="a choice that `peftbench ls` shows")
    parser.add_argument("new", help="what yours is to be called")
    options = parser.parse_args(args)
    if options.group not in GROUPS:
        raise UsageError(f"cp {options.group}: no such group. {did_you_mean(options.group, GROUPS)}")
    copied = copy_of(options.group, options.name, options.new)
    how = f"peftbench table {options.new}" if options.group == "table" else f"peftbench {options.group}={options.new}"
    print(f"{copied}: edit it, then `{how}`")
    return 0


def copy_of(group: str, name: str, new: str) -> Path:
    """Write the copy and return its path."""
    choices = names(group, own=False)
    if name not in choices:
        raise UsageError(f"cp {group} {name}: no such {group}. {did_you_mean(name, choices)}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", new):
        raise UsageError(f"cp {group} {name} {new}: a name has letters, digits, `_`, `-` and `.` only.")
    if new in choices:
        raise UsageError(f"cp {group} {name} {new}: {group}={new} is packaged, which goes first. Choose another name.")
    path = Path(os.environ.get(VARIABLE) or DEFAULT).expanduser() / group / f"{new}.yaml"
    if path.exists():
        raise UsageError(f"{path}: is there already. Choose another name, or delete it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, renamed(_text(group, name), group, name, new).encode("utf-8"))
    return path


def renamed(text: str, group: str, name: str, new: str) -> str:
    """A config file's text under a new name: its `name` key, and the commands in its comments."""
    stem = name.rpartition("/")[2]
    text = re.sub(rf"^name: {re.escape(stem)}(?=\s|$)", f"name: {new}", text, flags=re.MULTILINE)
    return re.sub(rf"(?<=\b{group}=){re.escape(name)}(?=\s|$)", new, text)


def _text(group: str, name: str) -> str:
    from importlib.resources import files

    return files("peftbench.conf").joinpath(group, f"{name}.yaml").read_text(encoding="utf-8")
