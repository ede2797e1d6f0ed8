"""The lock is a file that people and machines trust blindly, so its promises are tested."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements" / "lock.txt").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = [
    *PYPROJECT["project"]["dependencies"],
    *chain.from_iterable(PYPROJECT["project"]["optional-dependencies"].values()),
    *chain.from_iterable(PYPROJECT["dependency-groups"].values()),
    *PYPROJECT["build-system"]["requires"],
]


def locked() -> dict[str, set[str]]:
    """Versions by name; a name has several where they differ between versions of Python."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def packages(text: str) -> dict[tuple[str, str], frozenset[str]]:
    """Hashes by name and version, of any lock."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return {
        (canonicalize_name(name), version): frozenset(re.findall("--hash=(sha256:[0-9a-f]{64})", part))
        for part in parts
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", part)
    }


@pytest.mark.parametrize("line", DECLARED)
def test_what_the_project_declares_is_locked_at_a_version_that_it_allows(line: str) -> None:
    requirement = Requirement(line)
    versions = locked()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


def test_every_package_has_a_hash() -> None:
    packages = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(packages) > 50
    assert [package for package in packages if "--hash=sha256:" not in package] == []


def test_the_lock_names_no_place_to_install_from() -> None:
    assert re.findall(r"://|--(?:extra-)?index-url|--find-links|--trusted-host| @ |file:", LOCK) == []


def test_the_lock_stays_free_of_the_gigabytes_of_torch() -> None:
    assert [name for name in locked() if name.startswith(("torch", "nvidia-c", "triton"))] == []
