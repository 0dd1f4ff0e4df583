"""The order of OS versions: UAPI.10 Version Format Specification.

https://uapi-group.org/specifications/specs/version_format_specification/
(the order systemd-boot and systemd-sysupdate use): numbers count as numbers,
``~`` sorts before the end ("2.0~rc1" before "2.0"), ``^`` after it.
"""

from __future__ import annotations

import string
from functools import cmp_to_key

_DIGITS = frozenset(string.digits)
_LETTERS = frozenset(string.ascii_letters)
_SIGNS = frozenset("-.~^")
_KNOWN = _DIGITS | _LETTERS | _SIGNS


def compare(a: str, b: str) -> int:
    """Negative when a is older than b, 0 when they are equal in order, positive when newer."""
    while True:
        a, b = _skip_unknown(a), _skip_unknown(b)
        if a.startswith("~") or b.startswith("~"):
            if not (a.startswith("~") and b.startswith("~")):
                return -1 if a.startswith("~") else 1
            a, b = a[1:], b[1:]
            continue
        if not a or not b:
            return _sign(bool(a), bool(b))
        separator = next((sign for sign in "-^." if a[0] == sign or b[0] == sign), None)
        if separator is not None:
            if a[0] != b[0]:
                return -1 if a[0] == separator else 1
            a, b = a[1:], b[1:]
            continue
        kind = _DIGITS if a[0] in _DIGITS or b[0] in _DIGITS else _LETTERS
        head_a, a = _split(a, kind)
        head_b, b = _split(b, kind)
        if kind is _DIGITS:
            # A part without a number is older than one with a number.
            order = _sign(int(head_a) if head_a else -1, int(head_b) if head_b else -1)
        else:
            order = _sign(head_a, head_b)
        if order:
            return order


key = cmp_to_key(compare)
"""For sorted() and max(): versions from old to new."""


def newer(a: str, b: str) -> bool:
    """Whether version a is newer than version b."""
    return compare(a, b) > 0


def _skip_unknown(text: str) -> str:
    start = 0
    while start < len(text) and text[start] not in _KNOWN:
        start += 1
    return text[start:]


def _split(text: str, kind: frozenset[str]) -> tuple[str, str]:
    end = 0
    while end < len(text) and text[end] in kind:
        end += 1
    return text[:end], text[end:]


def _sign(a: int | str, b: int | str) -> int:
    if isinstance(a, str) and isinstance(b, str):
        return (a > b) - (a < b)
    assert isinstance(a, int) and isinstance(b, int)
    return (a > b) - (a < b)
