"""A language model behind an OpenAI-compatible HTTP interface (`POST URL/chat/completions`), by the standard library.

Nothing is sent unless a config names a URL. The key is read from the environment when it is sent, and stands in no
record, cache or message. Answers are kept by what was asked, so that a repeat costs nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from peftbench.cache import Cache

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may pass."""
LONGEST_WAIT = 60.0
LARGEST = 10_000_000
"""Bytes of an answer that are read."""


class RemoteError(Exception):
    """The server cannot be had, or refuses. The run fails; what was answered until then is kept."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes:
        prompt_tokens, completion_tokens: as the server counts them; 0 if it does not say.
        cached: whether it was known already, so that nothing was sent.
        retries: how often it had to be asked again.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    retries: int = 0


class RemoteModel(Protocol):
    """What answers prompts somewhere else."""

    def complete(self, prompt: str) -> Completion:
        """One answer. Raises RemoteError if there is none to be had."""


@dataclass(frozen=True)
class HttpModel:
    """An OpenAI-compatible server.

    Attributes:
        url: up to `/chat/completions`, for example `http://localhost:8000/v1`.
        body: what is asked with every prompt: `model`, `temperature`, `max_tokens`, `seed`.
        key_variable: environment variable with the key; without it none is sent.
        timeout: seconds to wait for an answer.
        retries: how often a prompt is asked again.
        wait: seconds before the first retry, doubled each time; or what the server asks for (`Retry-After`); at most
            a minute.
    """

    url: str
    body: Mapping[str, Any]
    key_variable: str = "PEFTBENCH_API_KEY"
    timeout: float = 60.0
    retries: int = 5
    wait: float = 1.0
    cache: Cache = field(default_factory=lambda: Cache("remote answers"))

    def complete(self, prompt: str) -> Completion:
        """One answer.

        Raises:
            RemoteError: the server refuses, or gives no answer after all retries.
        """
        body = {**self.body, "messages": [{"role": "user", "content": prompt}]}
        key = [self.url, body]
        if (known := self.cache.get(key)) is not None:
            return Completion(**known, cached=True)
        told, retries = self._ask(json.dumps(body).encode())
        self.cache.put(key, told)
        return Completion(**told, retries=retries)

    def _ask(self, body: bytes) -> tuple[dict[str, Any], int]:
        """Text and counts, and how many retries it took."""
        reason = ""
        for attempt in range(self.retries + 1):
            try:
                with _OPENER.open(self._request(body), timeout=self.timeout) as response:
                    return _read(response.read(LARGEST)), attempt
            except urllib.error.HTTPError as error:
                reason, pause = f"status {error.code} {error.reason}", error.headers.get("Retry-After")
                if error.code not in RETRIED:
                    raise RemoteError(f"{self.url}: {reason}{_WAYS.get(error.code, '')}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason, pause = _in_words(error), None
            if attempt < self.retries:
                time.sleep(min(LONGEST_WAIT, _seconds(pause, self.wait * 2**attempt)))
        raise RemoteError(f"{self.url}: no answer after {self.retries + 1} attempts; the last: {reason}.")

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {secret}"
        return urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is sent goes to the host that was named, the key above all."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
_WAYS = {
    401: ". The key in the environment is missing or wrong.",
    403: ". The key in the environment may not do this.",
    404: ". The URL has to end before /chat/completions, and method.remote.model has to be one of the server's.",
}


def _read(content: bytes) -> dict[str, Any]:
    """Raises ValueError if it is no answer."""
    told = json.loads(content)
    try:
        text, usage = told["choices"][0]["message"]["content"], told.get("usage") or {}
        counts = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"an answer without choices[0].message.content ({type(error).__name__})") from None
    if not isinstance(text, str):
        raise ValueError("an answer that is no text")
    return {"text": text, **counts}


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(error).__name__}: {reason}" if str(reason) else type(error).__name__


def _seconds(asked: str | None, otherwise: float) -> float:
    """What `Retry-After` asks for, if that is a number."""
    try:
        return max(0.0, float(asked)) if asked is not None else otherwise
    except ValueError:
        return otherwise
