"""What a branch of a repository names, and which files a commit has: one request, patiently."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from peftbench.hub.problems import HubProblem, explain, no_hub
from peftbench.hub.repository import COMMIT, Repository

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, where the hub does not say how long; for files the client has the like."""
LONGEST_PAUSE = 60.0
"""Seconds: who is asked to wait longer is told so, and the command ends."""
PATIENCE = 15.0
"""Seconds for one answer; the client itself would wait for ever."""


@dataclass(frozen=True)
class Resolved:
    """A commit, and the sizes of its files in bytes by name (None where the hub does not say); `files` is None where
    the hub was not asked."""

    commit: str
    files: Mapping[str, int | None] | None = None


_resolved: dict[tuple[Repository, str], Resolved] = {}
"""What the hub has answered to this process."""
_waited: set[tuple[Repository, str]] = set()
"""Questions that were not answered in spite of all patience: the next run of a sweep does not wait as long again."""


def say(text: str) -> None:
    """A line for the user, who may be waiting."""
    print(f"peftbench: {text}", file=sys.stderr, flush=True)


def patiently(ask: Callable[[], T], repository: Repository, pauses: tuple[float, ...] | None = None) -> T:
    """`ask()`, again after a pause (`PAUSES`) while the hub gives answers that may pass; each pause is said.

    Raises:
        HubProblem: it still does, asks for more than `LONGEST_PAUSE`, or the answer is a final one.
    """
    from huggingface_hub.errors import HTTPError

    for pause in (*(PAUSES if pauses is None else pauses), None):
        try:
            return ask()
        except (OSError, HTTPError, ValueError) as error:  # ValueError: a web page is no JSON
            problem = explain(error, repository)
            if pause is None or not problem.passing or (problem.wait or 0) > LONGEST_PAUSE:
                raise problem from error
            pause = pause if problem.wait is None else problem.wait
            say(f"{repository.name}: {problem.reason}; asking again in {pause:g} s")
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def resolve(repository: Repository, revision: str) -> Resolved:
    """The commit that a revision names. The hub is asked once a process; its cache when offline or not to be had.

    Raises:
        HubProblem: neither knows it.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository.name)
    except HFValidationError as error:
        raise explain(error, repository) from error
    if (repository, revision) in _resolved:
        return _resolved[repository, revision]
    is_commit = COMMIT.fullmatch(revision) is not None
    cached = revision if is_commit else repository.reference(revision)
    if constants.HF_HUB_OFFLINE:
        if cached is None:
            raise explain(OfflineModeIsEnabled(), repository)
        return Resolved(cached)
    patient = (cached is None or is_commit) and (repository, revision) not in _waited
    try:
        found = _ask(repository, revision, None if patient else ())
    except HubProblem as problem:
        _waited.add((repository, revision))
        if cached is None or (is_commit and problem.passing):
            raise
        if not is_commit:
            say(f"{repository.name}: {problem.reason}. What its cache has for {revision} is used: {cached}")
        found = Resolved(cached)
    _resolved[repository, found.commit] = found
    return _resolved.setdefault((repository, revision), found)


def keep_names(repository: Repository, commit: str) -> None:
    """Note in the hub's cache which branches named a commit that lies there, so that they are known offline."""
    for (asked, revision), found in _resolved.items():
        if asked == repository and found.commit == commit and not COMMIT.fullmatch(revision):
            repository.remember(revision, commit)


def _ask(repository: Repository, revision: str, pauses: tuple[float, ...] | None) -> Resolved:
    """The same from the hub, with one request."""
    from huggingface_hub import HfApi

    def ask() -> Resolved:
        facts = HfApi().repo_info(
            repository.name, revision=revision, repo_type=repository.kind, timeout=PATIENCE, files_metadata=True
        )
        if not COMMIT.fullmatch(str(facts.sha)):
            raise no_hub()
        siblings = getattr(facts, "siblings", None) or []
        return Resolved(str(facts.sha), {file.rfilename: file.size for file in siblings})

    return patiently(ask, repository, pauses)
