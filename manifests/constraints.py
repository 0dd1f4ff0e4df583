"""Version constraints: "which versions will do", as manifests write them. Pure.

    ">=1.2, <2"     both must hold
    "=1.4.1"        exactly this one
    "!=1.3"         any but this one
    "" or "*"       any

Operators: =, !=, <, <=, >, >=. Order: `manifests.versions`. "~1.2" and "^1.2"
are not part of the language: they mean different things in different places.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifests.versions import is_version, version_key
from recovery.errors import ManifestError

_PART = re.compile(r"(=|!=|<=|>=|<|>)\s*(\S+)")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
EXPECTED = 'version constraints such as ">=1.2, <2", "=1.4" or "*"'


@dataclass(frozen=True)
class Constraint:
    """A set of versions. parts: (operator, version) pairs that must all hold; none: any version."""

    parts: tuple[tuple[str, str], ...] = ()

    def allows(self, version: str) -> bool:
        """Whether the version will do. Raises ManifestError when it is not a version."""
        key = version_key(version)
        return all(_OPERATORS[sign](key, version_key(bound)) for sign, bound in self.parts)

    def __str__(self) -> str:
        """As a manifest writes it."""
        return ", ".join(f"{sign}{bound}" for sign, bound in self.parts) or "*"


def is_constraint(text: str) -> bool:
    """Whether text is a constraint."""
    return _parse(text) is not None


def parse_constraint(text: str) -> Constraint:
    """The constraint that text writes. Raises ManifestError when it is none."""
    constraint = _parse(text)
    if constraint is None:
        raise ManifestError(
            f"cannot use the version constraint {text!r}", resolution=f"write {EXPECTED}"
        )
    return constraint


def _parse(text: str) -> Constraint | None:
    if text.strip() in ("", "*"):
        return Constraint()
    parts = []
    for piece in text.split(","):
        match = _PART.fullmatch(piece.strip())
        if match is None or not is_version(match[2]):
            return None
        parts.append((match[1], match[2]))
    return Constraint(tuple(parts))
