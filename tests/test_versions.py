"""constraints-oldest.txt holds what pyproject.toml promises, so that `make test-oldest` tries just that."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pinned(name: str) -> dict[str, Version]:
    """Versions in a file of constraints, by name."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def promised() -> list[Requirement]:
    """What the package and the extras that the tests install (`DEV` in the Makefile) require with a lower bound."""
    extras = re.search(r"^DEV +:= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert extras
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in extras[1].split(","))]
    found = [Requirement(text) for requirements in lists for text in requirements]
    return [requirement for requirement in found if ">=" in str(requirement)]


@pytest.mark.parametrize("requirement", promised(), ids=lambda requirement: requirement.name)
def test_the_oldest_promised_version_is_the_one_that_is_tried(requirement: Requirement) -> None:
    tried = pinned("constraints-oldest.txt")[canonicalize_name(requirement.name)]
    (bound,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
    assert tried in requirement.specifier
    assert tried.release[: len(bound.release)] == bound.release, (
        f"{requirement.name}: {bound} is promised, {tried} tried"
    )


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-next.txt"])
def test_versions_that_are_installed_are_in_the_promised_ranges(name: str) -> None:
    versions = pinned(name)
    for requirement in promised():
        version = versions.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version, prereleases=True), requirement.name
