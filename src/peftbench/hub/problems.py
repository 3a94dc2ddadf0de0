"""What the hub and its client answer when they do not give what was asked for, in words that help."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Any

from peftbench.hub.repository import Repository

NETWORK = "run once with a network (the files stay in the hub's cache, HF_HOME, and later runs need none)"
FORBIDDEN = ", and HF_HUB_OFFLINE=1 forbids to ask the hub"
AGAIN = "give the same command again; files that are whole are not fetched twice"
LATER = "give the same command again later; files that are whole are not fetched twice"
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""What a hub answers that may do better in a moment."""
LONGEST_QUOTE = 300


class HubProblem(Exception):
    """Why something of the hub cannot be had.

    Attributes:
        reason: what happened, a clause without a full stop.
        way: what helps, the same; empty if nothing but other files or another repository does.
        passing: whether the same question may be answered in a moment; `wait`: seconds that the hub asks to wait.
        status: of the hub's answer, 0 if there was none.
    """

    status = 0

    def __init__(self, reason: str, way: str = "", passing: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.way, self.passing, self.wait = reason, way, passing, wait


def explain(error: BaseException, repository: Repository) -> HubProblem:
    """The problem behind an exception of the client, or of a library that uses it.

    The client wraps what it was told (`LocalEntryNotFoundError` around a 503): the innermost with a reason counts.
    """
    found = known_problem(error, repository)
    return found or HubProblem(f"the download failed: {type(error).__name__}: {_quote(error)}", AGAIN)


def known_problem(error: BaseException, repository: Repository) -> HubProblem | None:
    """The same; None if the exception has nothing to do with the hub."""
    found = [known for cause in _chain(error) if (known := _explain_one(cause, repository)) is not None]
    return found[-1] if found else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, from the outside in."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _explain_one(error: BaseException, repository: Repository) -> HubProblem | None:
    """Of one exception; None if it only says that something went wrong."""
    from huggingface_hub import errors

    if isinstance(error, HubProblem):
        return error
    if isinstance(error, errors.HFValidationError):
        return HubProblem(f"{repository.key}={repository.name} is not a repository name on the hub (ORG/NAME)")
    if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
        problem = _of_answer(error, repository)
        problem.status = error.response.status_code
        return problem
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubProblem(f"not in the hub's cache{FORBIDDEN}", f"{NETWORK}, without HF_HUB_OFFLINE")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return HubProblem(_not_here(error), NETWORK)
    return _of_network(error) or _of_files(error)


def _of_answer(error: Any, repository: Repository) -> HubProblem:
    """Of an answer that is an error."""
    from huggingface_hub import errors

    status, said = error.response.status_code, _quote(error)
    if isinstance(error, errors.GatedRepoError):
        return gated()
    if isinstance(error, errors.DisabledRepoError):
        return HubProblem("access to the repository is disabled on the hub")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubProblem("the hub has no such revision", f"leave {repository.revision_key} empty for main")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubProblem(
            "no such repository on the hub, or it is private",
            f"check {repository.key}; `hf auth login` for a private one",
        )
    if status == 401:
        return HubProblem(
            "the hub does not accept the token (401 Unauthorized)",
            "log in again with `hf auth login`, or correct or unset HF_TOKEN: public repositories need none",
        )
    if status == 403:
        return HubProblem(f"the hub forbids it ({said})", "use a token that may read it (`hf auth login`, HF_TOKEN)")
    if status == 429:
        wait = _asked_to_wait(error.response.headers)
        when = "a while" if wait is None else f"{wait:g} s"
        return HubProblem(
            f"the hub gets too many requests from here ({said})",
            f"wait {when} and give the same command again; a token (HF_TOKEN, `hf auth login`) raises the limit",
            True,
            wait,
        )
    if status in PASSING:
        wait = _asked_to_wait(error.response.headers)
        return HubProblem(f"the hub fails ({said})", LATER, True, wait)
    return HubProblem(f"the hub answers {said}", AGAIN)


def _asked_to_wait(headers: Any) -> float | None:
    """Seconds after which the hub wants to be asked again: its `RateLimit` or `Retry-After` header."""
    limit = re.search(r";\s*t\s*=\s*(\d+)", headers.get("RateLimit") or "")
    after = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After") or "")
    found = limit or after
    return float(found[1]) if found else None


def _not_here(error: BaseException) -> str:
    """The names of the missing files, where the client says them."""
    named = re.search(r"file\(s\) are missing \(([^)]*)\)", str(error))
    return f"the hub's cache holds only a part of it; missing: {named[1]}" if named else "not in the hub's cache"


def _of_network(error: BaseException) -> HubProblem | None:
    """Of a connection, by the names of the HTTP library's exceptions: the client has changed libraries twice."""
    from huggingface_hub import constants

    names = {kind.__name__ for kind in type(error).__mro__}
    where = f"the hub ({constants.ENDPOINT})"
    if names & {"ConnectError", "ConnectTimeout", "ProxyError", "ConnectionError"}:
        return HubProblem(f"{where} cannot be reached ({_quote(error)})", NETWORK)
    if "TimeoutException" in names:
        return HubProblem(f"{where} does not answer in time ({_quote(error)})", AGAIN, True)
    if names & {"NetworkError", "RemoteProtocolError"}:
        return HubProblem(f"the connection to {where} was cut ({_quote(error)})", AGAIN, True)
    if names & {"JSONDecodeError", "FileMetadataError"}:
        return no_hub()
    return None


def gated() -> HubProblem:
    """Its owner lets those in who have accepted something."""
    return HubProblem("the repository is gated", "accept its licence on its hub page and log in with `hf auth login`")


def no_hub() -> HubProblem:
    """Something else than a hub has answered: a web page, as networks show that want a log-in first."""
    from huggingface_hub import constants

    return HubProblem(
        f"HF_ENDPOINT={constants.ENDPOINT} did not answer as a hub",
        "open a page of the hub in a browser, for some networks want a log-in first; or correct or unset HF_ENDPOINT",
    )


def _of_files(error: BaseException) -> HubProblem | None:
    """Of the hub's cache on this machine, and of files that came short."""
    if "Consistency check failed" in str(error):
        sizes = re.search(r"should be of size (\d+) but has size (\d+)", str(error))
        short = f" ({int(sizes[2]):,} of {int(sizes[1]):,} bytes)" if sizes else ""
        return HubProblem(f"a file came with the wrong length{short}", AGAIN, True)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return HubProblem(
            f"{error.filename or 'the hub cache'} cannot be written ({os.strerror(error.errno)})",
            "set HF_HOME to a folder that can be written",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubProblem(
            f"no space is left for {error.filename or 'the hub cache'} ({os.strerror(error.errno)})",
            "free some, or set HF_HOME to a folder on another disk",
        )
    return None


def _quote(error: BaseException) -> str:
    """The first two sentences of what the client says, without its links and numbers of requests."""
    text = re.sub(r"\(Request ID: [^)]*\)| for url:? \S+", "", str(error)).replace("Forbidden: None.", "Forbidden.")
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(("For more information", "Url:"))][:2]
    return (" ".join(said) or type(error).__name__)[:LONGEST_QUOTE].rstrip(". ")
