"""A file of a repository that signed metadata names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signed:
    """A file that is vouched for. path: in the repository. size in bytes; sha256 in hex."""

    path: str
    size: int
    sha256: str
