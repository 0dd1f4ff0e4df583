"""Decoding one frame (signatures; the body follows)."""

from __future__ import annotations

from typing import Protocol

FRAME_LIMIT = 16 << 20
REFERENCES_LIMIT = 16 << 20


class Base(Protocol):
    """The base image. size in bytes."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at offset; raises OSError (dm-verity: EIO)."""
        ...


def apply(payload: bytes, base: Base, into: memoryview) -> None:
    """Fills into with the frame. Raises DeltaError, and OSError from the base."""
    raise NotImplementedError
