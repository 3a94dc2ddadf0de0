"""Shared by the tests of tables: folders of results."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_table import fill

from peftbench.records.store import Store


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All runs of the made-up table, not to be changed."""
    return fill(Store(tmp_path_factory.mktemp("filled")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")
