"""The order of versions."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.versions import compare_versions, is_version, version_key
from recovery.errors import ManifestError

NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=4)
RUNS = st.text("019aBrc", min_size=1, max_size=4)
SUFFIXES = st.lists(RUNS, max_size=3).flatmap(
    lambda runs: st.sampled_from("-~").map(lambda sign: f"{sign}{'.'.join(runs)}" if runs else "")
)
VERSIONS = st.builds(
    lambda numbers, suffix: ".".join(map(str, numbers)) + suffix, NUMBERS, SUFFIXES
)

OLDER_TO_NEWER = (
    "0",
    "0.9",
    "1",
    "1.0-1",
    "1.0-dev",
    "1.0-rc2",
    "1.0-rc10",
    "1.0-rc10.1",
    "1.0",
    "1.0.0-dev",
    "1.0.0",
    "1.0.1~rc1",
    "1.0.1",
    "1.2",
    "1.10",
    "2.0~beta",
    "2.0",
    "20240131",
)


@given(st.permutations(OLDER_TO_NEWER))
def test_versions_sort_from_older_to_newer(shuffled: list[str]) -> None:
    assert sorted(shuffled, key=version_key) == list(OLDER_TO_NEWER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "1.",
        "1..2",
        "01.2",
        "1-",
        "1-rc..1",
        "1.0 ",
        "1.0\n",
        "1/2",
        "1+b",
        "١.٢",
        "1" * 65,
    ],
)
def test_what_is_not_a_version_is_refused(text: str) -> None:
    assert not is_version(text)
    with pytest.raises(ManifestError, match="cannot use version"):
        version_key(text)


@given(VERSIONS)
def test_what_the_rule_describes_is_a_version(version: str) -> None:
    assert is_version(version)


@given(VERSIONS, VERSIONS)
def test_exactly_one_of_older_same_newer_holds(left: str, right: str) -> None:
    assert compare_versions(left, right) == -compare_versions(right, left)
    assert (compare_versions(left, right) == 0) == (left == right)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_is_transitive(one: str, two: str, three: str) -> None:
    low, middle, high = sorted((one, two, three), key=version_key)
    assert compare_versions(low, middle) <= 0
    assert compare_versions(middle, high) <= 0
    assert compare_versions(low, high) <= 0


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.integers(1, 100))
def test_raising_a_number_makes_a_version_newer(numbers: list[int], step: int) -> None:
    higher = [*numbers[:-1], numbers[-1] + step]
    old, new = (".".join(map(str, parts)) for parts in (numbers, higher))
    assert compare_versions(old, new) == -1
    assert compare_versions(f"{old}-rc1", old) == -1
    assert compare_versions(old, f"{new}~rc1") == -1


def test_the_device_can_compare_versions_without_yaml_or_msgspec() -> None:
    code = (
        "import sys, manifests.versions; "
        "sys.exit(bool({'yaml', 'msgspec', 'difflib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
