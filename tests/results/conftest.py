"""Fixtures of the tests of results."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from made_up_records import a_record

from peftbench.results.record import Record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return a_record
