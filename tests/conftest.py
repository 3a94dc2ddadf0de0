"""For all tests."""

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network or waits for one; read at import
os.environ.setdefault("WANDB_MODE", "disabled")  # a second and more of every run; what is about tracking asks for it

import pytest
from hypothesis import HealthCheck, settings
from made_up_records import a_record

from peftbench.records.record import Record

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; tests send it to themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is no defect: neither a slow example nor slow generation fails a test.
settings.register_profile("peftbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("peftbench")

gc.disable()  # until the tests are imported


def pytest_collection_finish() -> None:
    """What the tests import stays: to walk through it at each collection would be a tenth of their time."""
    gc.freeze()
    gc.enable()


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub of this machine in the place of the real one, with an empty cache; see tests/made_up/hub_server.py."""
    from hub_server import serve
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from peftbench.hub import asking, fetching

    with serve() as server:  # the client reads these when it is used, and HF_ENDPOINT at its import
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(asking, "_resolved", {})
        monkeypatch.setattr(asking, "_waited", set())
        monkeypatch.setattr(asking, "PAUSES", (0.01, 0.02))
        monkeypatch.setattr(fetching, "WORTH_SAYING", 0)
        yield server
        close_session()


@pytest.fixture
def hub_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client as with HF_HUB_OFFLINE=1, also behind `hub`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
