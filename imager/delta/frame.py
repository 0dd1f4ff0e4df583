"""Encoding one frame (signatures; the body follows)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delta.frame import Base


@dataclass(frozen=True)
class Copy:
    """Bytes of the frame that are in the base as they are. at: position in the frame."""

    at: int
    offset: int
    size: int


@dataclass(frozen=True)
class Reference:
    """A range of the base that is similar to bytes of the frame.

    rewrite: as encoded by imager.delta.executables; start: position of the range in its file.
    """

    offset: int
    size: int
    rewrite: bytes | None = None
    start: int = 0


def encode(
    new: bytes,
    base: Base,
    copies: Sequence[Copy],
    references: Sequence[Reference],
    *,
    level: int = 19,
) -> bytes:
    """The payload that makes new (one frame) out of the base. Deterministic.

    copies: sorted or not, must not overlap, and must be true. references: at most 16 MiB together,
    in the order in which they are concatenated.
    """
    raise NotImplementedError
