"""For all tests."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network or waits for one; read at import

import pytest
from hypothesis import HealthCheck, settings
from made_up_records import a_record

from peftbench.records.record import Record

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; tests send it to themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is no defect: neither a slow example nor slow generation fails a test.
settings.register_profile("peftbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("peftbench")


def pytest_runtest_setup() -> None:
    """Begin no test after PEFTBENCH_TESTS_UNTIL (seconds since 1970): CI has an end, and counts what it left out."""
    until = float(os.environ.get("PEFTBENCH_TESTS_UNTIL", "inf"))
    if time.time() > until:
        pytest.skip("no time left (PEFTBENCH_TESTS_UNTIL)")


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """A finished record with the given fields; see tests/made_up."""
    return a_record


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped without it."""
    folder = os.environ.get("PEFTBENCH_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PEFTBENCH_DATA names no folder of real data sets")
    return Path(folder)
