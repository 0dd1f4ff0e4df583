"""Versions: what one looks like and which is newer. Pure, and cheap to import on the device.

A version is dotted numbers without leading zeros, then optionally a suffix
after "-" or "~" that marks something *before* the plain version:

    1 < 1.0-rc2 < 1.0-rc10 < 1.0 < 1.0.0-dev < 1.0.0 < 1.0.1 < 1.2 < 1.10

1. The numbers are compared one by one, as numbers; where one version has no
   more numbers, it is the lower one (so write all versions of a product with
   as many parts).
2. With equal numbers, a version with a suffix is lower than one without.
3. Suffixes are cut into runs of digits and runs of letters (".", "-" only
   separate); digits are compared as numbers and are lower than letters,
   letters as ASCII; where one suffix has no more runs, it is the lower one.
4. What is still equal ("1-rc1", "1~rc.1") is ordered by its text, so the
   order is total: two versions are equal only when they are the same text.
"""

from __future__ import annotations

import re

from recovery.errors import ManifestError

# At most 64 characters: versions appear in file names and on the ESP.
VERSION_PATTERN = (
    r"^(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*([-~][0-9A-Za-z]+([.-][0-9A-Za-z]+)*)?$"
)
_VERSION = re.compile(VERSION_PATTERN)
_RUN = re.compile(r"[0-9]+|[A-Za-z]+")

VersionKey = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...], str]


def is_version(text: str) -> bool:
    """Whether text is a version."""
    # fullmatch: "$" alone would let a final newline pass.
    return _VERSION.fullmatch(text) is not None


def version_key(version: str) -> VersionKey:
    """A value that orders versions; see this module for the rule.

    Raises ManifestError when version is not one.
    """
    if not is_version(version):
        raise ManifestError(
            f"cannot use version {version!r}: expected dotted numbers with an optional suffix",
            resolution='write it like "1.4" or "1.4.2-rc1" (no leading zeros, 64 characters)',
        )
    digits = re.match(r"[0-9.]+", version)
    assert digits is not None
    numbers = tuple(int(part) for part in digits[0].split("."))
    suffix = version[digits.end() :]
    runs = tuple(
        (False, int(run), "") if run.isdigit() else (True, 0, run) for run in _RUN.findall(suffix)
    )
    return numbers, suffix == "", runs, version


def compare_versions(left: str, right: str) -> int:
    """-1, 0 or 1 when left is older than, the same as, or newer than right."""
    left_key, right_key = version_key(left), version_key(right)
    return (left_key > right_key) - (left_key < right_key)
