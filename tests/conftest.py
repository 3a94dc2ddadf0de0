"""For all tests."""

import os
import signal
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
