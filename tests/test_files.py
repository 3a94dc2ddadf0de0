"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from peftbench.files import write_atomic


def test_a_device_is_written_to_and_stays(monkeypatch):
    """`--out /dev/null`, as root, put a file in the device's place."""
    before = os.stat("/dev/null")
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("the device would have been put out of its place"))
    write_atomic(Path("/dev/null"), b"x")
    assert os.stat("/dev/null").st_ino == before.st_ino
