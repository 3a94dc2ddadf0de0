"""A hub of this machine in the place of the real one, with an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from peftbench.hub import asking, fetching


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """In this process the client reads these when it is used; HF_ENDPOINT it reads at its import."""
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(asking, "_resolved", {})
        monkeypatch.setattr(asking, "PAUSES", (0.01, 0.02))
        monkeypatch.setattr(fetching, "WORTH_SAYING", 0)
        yield server
        close_session()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
