"""The server that options name: whether they name one, and how it is asked."""

from __future__ import annotations

from urllib.parse import urlsplit

from peftbench.errors import UsageError
from peftbench.models.remote import HttpModel
from peftbench.stages.remote import ServerOptions


def check_server(cfg: ServerOptions, section: str) -> None:
    """Raises UsageError if no server is named, or its URL would put a secret into the record.

    Args:
        section: where the options stand, as "method.remote".
    """
    for key in ("url", "model"):
        if not getattr(cfg, key):
            raise UsageError(
                f"{section}.{key}: is not set. A remote model is off until a command names one: "
                f"{section}.url=http://HOST/v1 {section}.model=NAME. Prompts with texts of the task go there."
            )
    parts = urlsplit(str(cfg.url))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise UsageError(
            f"{section}.url: has to be http://HOST... or https://HOST..., without user, password and query: it "
            f"stands in the record. The key comes from the environment variable {cfg.key_variable}."
        )


def http_model(cfg: ServerOptions, seed: int) -> HttpModel:
    """The server that the options name, asked with a seed."""
    body = {"model": cfg.model, "temperature": cfg.temperature, "max_tokens": cfg.max_tokens, "seed": seed}
    return HttpModel(str(cfg.url), body, cfg.key_variable, cfg.timeout, cfg.retries, cfg.wait)
