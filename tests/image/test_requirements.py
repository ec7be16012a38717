"""requirements.txt and requirements-dev.txt are what `make requirements` compiles from pyproject.toml."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = {"production": "requirements.txt", "dev": "requirements-dev.txt"}
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]


def lines(group: str) -> list[str]:
    """Return the requirements of a file, each as one line with its hashes."""
    text = (ROOT / FILES[group]).read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def pinned(group: str) -> list[Requirement]:
    return [Requirement(line.partition(" --hash")[0]) for line in lines(group)]


def direct(group: str) -> list[Requirement]:
    found = [Requirement(entry) for entry in GROUPS[group] if isinstance(entry, str)]
    return found if group == "production" else direct("production") + found


def names_for_this_machine(group: str) -> set[str]:
    """Return the names of the file's packages that pip installs here."""
    return {canonicalize_name(each.name) for each in pinned(group) if not each.marker or each.marker.evaluate()}


@pytest.mark.parametrize("group", FILES)
def test_each_line_is_an_exact_version_with_hashes_and_without_an_address(group):
    exact = re.compile(r"[a-z0-9-]+==[\w.]+( ; [\w. '<>=!()]+)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [line for line in lines(group) if not exact.fullmatch(line.strip())] == []
    assert "/" not in (ROOT / FILES[group]).read_text()


@pytest.mark.parametrize("group", FILES)
def test_the_packages_of_pyproject_stand_in_the_file_in_their_versions(group):
    versions = {(canonicalize_name(each.name), str(each.specifier)) for each in pinned(group)}
    assert {(canonicalize_name(each.name), str(each.specifier)) for each in direct(group)} <= versions


@pytest.mark.parametrize("group", FILES)
def test_the_file_has_what_the_packages_need_in_turn_and_nothing_else(group):
    """By what the installed packages declare, for this machine and this Python."""
    to_do = direct(group)
    needed: set[tuple[str, str]] = set()  # with the extra, which is mostly ""
    while to_do:
        package = to_do.pop()
        for extra in {"", *package.extras}:
            if (entry := (canonicalize_name(package.name), extra)) not in needed:
                needed.add(entry)
                declared = map(Requirement, requires(package.name) or [])
                to_do += [each for each in declared if not each.marker or each.marker.evaluate({"extra": extra})]
    assert {name for name, _ in needed} == names_for_this_machine(group)


def test_production_runs_the_versions_that_the_tests_have_met():
    assert set(map(str, pinned("production"))) <= set(map(str, pinned("dev")))
