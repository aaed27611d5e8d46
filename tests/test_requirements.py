"""The lock files match pyproject.toml and have no paths or hosts of their machine."""

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

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct() -> list[Requirement]:
    """Return the dependencies in pyproject.toml, extras included."""
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def pins(file: str) -> dict[str, list[Requirement]]:
    """Return pinned versions by package; several if they differ between Python versions."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines():
        if not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("file", ["locked.txt", "lowest.txt"])
def test_a_lock_pins_every_direct_dependency_within_its_range(file: str) -> None:
    pinned = pins(file)
    for requirement in direct():
        found = pinned[canonicalize_name(requirement.name)]
        assert found, requirement
        for pin in found:
            (version,) = (s.version for s in pin.specifier if s.operator == "==")
            assert requirement.specifier.contains(version, prereleases=True), (requirement, pin)


@pytest.mark.parametrize("file", ["locked.txt", "lowest.txt"])
def test_a_lock_names_no_host_and_no_path(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*-|[ @]/|index-url|find-links", text, re.MULTILINE)


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    pinned = pins("lowest.txt")
    for requirement in direct():
        lower = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        # The oldest version for any Python: some packages have no such version for a newer Python.
        found = pinned[canonicalize_name(requirement.name)]
        oldest = min(Version(s.version) for pin in found for s in pin.specifier)
        assert [oldest] == lower or not lower, (requirement, oldest)
