"""A command about runs, given in a folder that has none, says so and lists nothing that has no runs either."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.records.find import existing_store


def test_a_wrong_folder_is_told_without_listing_its_neighbours(tmp_path: Path) -> None:
    for name in ("bin", "etc", "usr"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=r"no runs here, for there is no folder .*results") as raised:
        existing_store(str(tmp_path / "results"))
    assert not [name for name in ("bin", "etc", "usr") if name in str(raised.value).replace(str(tmp_path), "")]
    (tmp_path / "resultz" / "records").mkdir(parents=True)
    with pytest.raises(UsageError, match="Did you mean `resultz`"):
        existing_store(str(tmp_path / "results"))
