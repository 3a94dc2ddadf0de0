"""A repository on the hub and its folder in the hub's cache, as the client lays it out."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

COMMIT = re.compile("[0-9a-f]{40}")
REFERENCE = re.compile(r"[\w.-]+(/[\w.-]+)*")


@dataclass(frozen=True)
class Repository:
    """What is asked for.

    Attributes:
        name: ORG/NAME.
        key: the user's key that holds the name; `revision_key` the one of its revision, both for messages.
    """

    name: str
    kind: Literal["model", "dataset"] = "model"
    key: str = "model.path"
    revision_key: str = "model.revision"

    @property
    def folder(self) -> Path:
        """Where the hub's cache keeps it; it may not exist yet."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE, f"{self.kind}s--{self.name.replace('/', '--')}")

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit in the hub's cache; it may not exist, or hold a part of the files."""
        return self.folder / "snapshots" / commit

    def reference(self, revision: str) -> str | None:
        """The commit that the hub's cache has under the name of a branch or tag."""
        if not REFERENCE.fullmatch(revision) or ".." in revision:
            return None
        try:
            return (self.folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None

    def remember(self, name: str, commit: str) -> None:
        """Keep a name of our own for a commit that lies in the hub's cache, as the client keeps its branches.

        Whoever copies or shares the cache has it too, `hf cache` lists it and takes it away with the commit.
        """
        if self.reference(name) == commit or not self.snapshot(commit).is_dir():
            return
        path = self.folder / "refs" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(commit, encoding="ascii")
            draft.replace(path)
        except OSError:
            return  # a cache that cannot be written is asked again next time
